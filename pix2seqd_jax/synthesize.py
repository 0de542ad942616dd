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
from collections.abc import Sequence

from pix2seqd_jax import flows, pipeline, visualize
from pix2seqd_jax.train import log

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
    **kwargs: as in Pipeline.synthesize: steps, num_samples, seed,
      perturbation. A picture does not depend on the other masks.

  Returns:
    The pictures' files.

  Raises:
    ValueError: a model that makes no pictures, a mask that cannot be read, or
      an argument out of range.
  """
  if size not in SIZES:
    raise ValueError(f'--size={size!r} must be one of {", ".join(SIZES)}.')
  if num is not None and num < 1:
    raise ValueError(f'--num={num} must be at least 1, or left out for all.')
  pipe = pipeline.Pipeline.from_pretrained(workdir, step=step or None)
  folder, written = pathlib.Path(output), []
  found = flows.examples(pipe, masks=masks, num=num, values=values)
  with log.Progress(None, unit='mask', enabled=progress) as bar:
    for example in found:
      made = pipe.synthesize(example.mask, **kwargs)
      if size == 'mask':
        made = made.resized()
      name = f'{example.name}.png'
      written += made.save(folder / 'images', name)
      visualize.save_png(folder / 'panels' / name, made.panel())
      bar.update()
  return written


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
  add('--seed', type=int, default=0)
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
