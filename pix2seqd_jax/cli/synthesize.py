"""Label maps -> files of images, by a model that draws images of masks.

  python -m pix2seqd_jax.cli.synthesize --workdir runs/semflow \
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

import numpy as np

from pix2seqd_jax.cli import show_flow
from pix2seqd_jax.data.formats import files
from pix2seqd_jax.inference import pipeline, synthesis
from pix2seqd_jax.train import evaluate, log
from pix2seqd_jax.visualize import overlays

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
  steps: int | None = None,
  perturbation: float | None = None,
) -> list[pathlib.Path]:
  """Writes images of masks, and panels of both.

  Args:
    workdir: of a trained run.
    output: a folder, made if it does not exist.
    masks: label maps, or folders of them; none: those of held-out examples.
    num: how many held-out examples; None: all.
    size: of the images: the 'network''s own, or enlarged to the 'mask''s.
    step: of the checkpoint, or 'best'; empty is the newest.
    values: of the label maps; see Pipeline.synthesize.
    progress: shows a bar on a terminal, plain lines elsewhere.
    seed: None is that of evaluation, which makes the same images of held-out
      masks. Each mask has noise of its own, by its number or its name, and
      none depends on the others.
    num_samples: images of each mask.
    steps: of the sampler; None is the run's.
    perturbation: levels of noise on masks; None is that of evaluation.

  Returns:
    The images' files.

  Raises:
    ValueError: a model that makes no images, a mask or a held-out example
      that cannot be read, or an argument out of range.
  """
  _check(size, num, num_samples, masks, values, seed)
  pipe = pipeline.Pipeline.from_pretrained(workdir, step=step or None)
  drawer = synthesis.Synthesizer(pipe.experiment, pipe.params)
  seed = pipe.experiment.sample_seed if seed is None else seed
  perturbation = _check_run(pipe.experiment, drawer, steps, perturbation)
  told = {'num_samples': num_samples, 'steps': steps}
  maps = files.list_images(*masks) if masks else ()
  for path in maps:
    drawer.read(path, values)  # a bad one is named before the work begins
  found, written = (
    show_flow.examples(pipe, masks=masks, num=num, values=values),
    [],
  )
  total = len(maps) or _held_out(pipe.experiment, num)
  with log.Progress(total, unit='mask', enabled=progress) as bar:
    for i, example in enumerate(found):
      number = zlib.crc32(example.name.encode()) if masks else i
      key = evaluate.example_keys(seed, [number])[0]
      made = drawer.draw(example.mask, key, perturbation=perturbation, **told)
      made = made.resized() if size == 'mask' else made
      written += _save(made, pathlib.Path(output), f'{example.name}.png')
      bar.update()
  return written


def _held_out(experiment, num):
  count = len(experiment.source('eval'))
  return count if num is None else min(num, count)


def _save(made, folder, name):
  overlays.save_png(folder / 'panels' / name, made.panel())
  return made.save(folder / 'images', name)


def _check_run(experiment, drawer, steps, perturbation):
  """What the run makes of arguments, before a mask is read; the noise."""
  told = experiment.config['synthesis']['perturbation']
  if perturbation is None and told >= 0:
    perturbation = told
  blank = np.zeros(experiment.config['data']['image_size'], np.int32)
  drawer.batch(blank, perturbation)
  experiment.timesteps(steps)
  return perturbation


def _check(size, num, num_samples, masks, values, seed):
  if size not in SIZES:
    raise ValueError(f'--size={size!r} must be one of {", ".join(SIZES)}.')
  if num is not None and (num < 1 or masks):
    raise ValueError(
      f'--num={num} is of held-out masks: at least 1, left out for all, and '
      'not beside --masks.'
    )
  if values is not None and not masks:
    raise ValueError(f'--values={values!r} is of --masks; give both.')
  if seed is not None and not 0 <= seed < 2**32:
    raise ValueError(f'--seed={seed} must be 0 or more and below 2**32.')
  if num_samples < 1:
    raise ValueError(f'--num_samples={num_samples} must be at least 1.')


def main(argv: Sequence[str] | None = None) -> None:
  """The command."""
  parser = argparse.ArgumentParser(
    prog='python -m pix2seqd_jax.cli.synthesize',
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
  add('--perturbation', type=float, help="levels; else the evaluation's")
  add('--values', help="of masks: the data set's own 'ids', or 'classes'")
  add('--size', default='network', help='of the images: network or mask')
  add('--step', default='', help="a checkpoint's, or 'best'")
  flags = vars(parser.parse_args(argv))
  try:
    written = write(flags.pop('workdir'), flags.pop('output'), **flags)
  except (ValueError, OSError) as error:
    parser.exit(1, f'{type(error).__name__}: {error}\n')
  print(f'Wrote {len(written)} images: {written[0]}, ...')


if __name__ == '__main__':
  main()
