"""Label maps -> files of pictures, by a model that draws pictures of masks.

  python -m pix2seqd_jax.synthesize --workdir runs/semflow \
    --masks LABEL_MAPS --output made/ --num_samples 2

writes made/images/NAME.png, or NAME_1.png, NAME_2.png, ... of several samples,
a folder that any tool for FID reads, and made/panels/NAME.png: the mask, what
was drawn, a legend. Without --masks the masks are those of the run's held-out
examples. Label maps hold the data set's own numbers, as in training.
"""

import argparse
import os
import pathlib
import zlib
from collections.abc import Sequence

from pix2seqd_jax import flows, pipeline, synthesizing, visualize
from pix2seqd_jax.data import files
from pix2seqd_jax.train import evaluate, log

SIZES = ('network', 'mask')


def write(
  workdir: str | os.PathLike,
  output: str | os.PathLike,
  *,
  masks: Sequence[str | os.PathLike] = (),
  num: int | None = None,
  size: str = 'network',
  step: str | int = '',
  values: str | None = None,
  progress: bool = True,
  seed: int | None = None,
  num_samples: int = 1,
  **kwargs,
) -> list[pathlib.Path]:
  """Writes pictures of masks, and panels of both.

  Args:
    workdir: of a trained run.
    output: a folder, made if it does not exist.
    masks: label maps, or folders of them; none: those of held-out examples.
    num: how many held-out examples; None: all.
    size: of the pictures: the 'network''s own, or enlarged to the 'mask''s.
    step: of the checkpoint, or 'best'; empty is the newest.
    values: of the label maps; see Pipeline.synthesize.
    progress: shows a bar on a terminal, plain lines elsewhere.
    seed: None is that of evaluation, which makes the same pictures of held-out
      masks. Each mask has noise of its own, by its number or its name, and
      none depends on the others.
    num_samples: pictures of each mask.
    **kwargs: as in Pipeline.synthesize: steps, perturbation.

  Returns:
    The pictures' files.

  Raises:
    ValueError: a model that makes no pictures, a mask that cannot be read, or
      an argument out of range.
  """
  _check(size, num, num_samples, masks)
  pipe = pipeline.Pipeline.from_pretrained(workdir, step=step or None)
  drawer = synthesizing.Synthesizer(pipe.experiment, pipe.params)
  seed = pipe.experiment.sample_seed if seed is None else seed
  for path in files.list_images(*masks) if masks else ():
    drawer.read(path, values)  # a bad one is named before the work begins
  folder, written = pathlib.Path(output), []
  found = flows.examples(pipe, masks=masks, num=num, values=values)
  with log.Progress(None, unit='mask', enabled=progress) as bar:
    for i, example in enumerate(found):
      number = zlib.crc32(example.name.encode()) if masks else i
      key = evaluate.example_keys(seed, [number])[0]
      made = drawer.draw(example.mask, key, num_samples=num_samples, **kwargs)
      if size == 'mask':
        made = made.resized()
      name = f'{example.name}.png'
      written += made.save(folder / 'images', name)
      visualize.save_png(folder / 'panels' / name, made.panel())
      bar.update()
  return written


def _check(size, num, num_samples, masks):
  if size not in SIZES:
    raise ValueError(f'--size={size!r} must be one of {", ".join(SIZES)}.')
  if num is not None and (num < 1 or masks):
    raise ValueError(
      f'--num={num} is of held-out masks: at least 1, left out for all, and '
      'not beside --masks.'
    )
  if num_samples < 1:
    raise ValueError(f'--num_samples={num_samples} must be at least 1.')


def main(argv: Sequence[str] | None = None) -> None:
  """The command."""
  parser = argparse.ArgumentParser(
    prog='python -m pix2seqd_jax.synthesize',
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  add = parser.add_argument
  add('--workdir', required=True, help='the folder of a run')
  add('--output', required=True, help='a folder for the files')
  add('--masks', nargs='+', default=(), help='label maps, or folders of them')
  add('--num', type=int, help='of held-out examples; else all')
  add('--num_samples', type=int, default=1, help='of each mask')
  add('--steps', type=int, help="of the sampler; else the run's")
  add('--seed', type=int, help="of the noise; else the evaluation's")
  add('--perturbation', type=float, help="levels of noise; else the run's")
  add('--values', help="of masks: the data set's own 'ids', or 'classes'")
  add('--size', default='network', help='of the pictures: network or mask')
  add('--step', default='', help="a checkpoint's, or 'best'")
  flags = vars(parser.parse_args(argv))
  try:
    written = write(flags.pop('workdir'), flags.pop('output'), **flags)
  except (ValueError, OSError) as error:
    parser.exit(1, f'{type(error).__name__}: {error}\n')
  print(f'Wrote {len(written)} pictures: {written[0]}, ...')


if __name__ == '__main__':
  main()
