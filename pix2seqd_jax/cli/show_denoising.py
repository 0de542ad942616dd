"""Images of the sampling of a trained model: its steps, and several seeds.

  python -m pix2seqd_jax.cli.show_denoising --workdir runs/shapes \
    --inputs images/ \
    --output strips/ --steps 50 --frames 8 --seeds 6

writes for each image NAME_strip.png, what the model takes for the answer
after some of the steps, and NAME_seeds.png, what comes of other noise, with
the fraction of the seeds that agree. For every model that diffuses.
"""

import argparse
import collections
import os
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from pix2seqd_jax.data.formats import files
from pix2seqd_jax.inference import agreement, pipeline
from pix2seqd_jax.types import Segment
from pix2seqd_jax.visualize import overlays, sampling

Map = tuple[np.ndarray, Sequence[Segment]]


class Sampled(NamedTuple):
  """One run of the sampler on one image.

  Attributes:
    final: (ids [h, w], segments), the answer.
    frames: (caption, map) of the estimates after some of the steps.
  """

  final: Map
  frames: tuple[tuple[str, Map], ...]


def chosen(num_steps: int, frames: int) -> list[int]:
  """Up to `frames` of 0 .. num_steps - 1, evenly from the first on.

  The last step's estimate is as a rule the answer, which is shown anyway.
  """
  found = np.linspace(0, num_steps - 1, frames, endpoint=False)
  return np.unique(np.round(found).astype(int)).tolist()


class Sampler:
  """Samples with a pipeline and looks on.

  All images share one callback: another would be compiled anew.

  Args:
    pipe: a trained model.
    steps: of sampling; None is the config's.
    frames: how many estimates of a run are kept.

  Raises:
    ValueError: a model that diffuses nothing, or a number out of range.
  """

  def __init__(
    self, pipe: pipeline.Pipeline, steps: int | None = None, frames: int = 8
  ):
    self.experiment, self.params = pipe.experiment, pipe.params
    model, task = self.experiment.model, self.experiment.task
    if not hasattr(model, 'process'):
      raise ValueError(
        f'model.name={self.experiment.config["model"]["name"]!r} answers in '
        'one step: there is no denoising to show; name the run of a diffusion '
        'model.'
      )
    if frames < 1:
      raise ValueError(f'frames={frames} must be at least 1.')
    self.frames, self.each = frames, getattr(task, 'class_agnostic', False)
    self._kept: list[tuple[str, Any]] = []
    self._sample = self.experiment.sample_fn(steps, callback=self._keep)
    self._decode = jax.jit(model.decode)

  def _keep(self, step, num_steps, x, x_0):
    del x
    if step in chosen(num_steps, self.frames):
      caption = f'step {step + 1}/{num_steps}'
      self._kept.append((caption, jax.device_get(x_0)))

  def __call__(self, image: np.ndarray, seed: int = 0) -> Sampled:
    """Samples uint8 [h, w, 3] as Pipeline.segment does, with the same seed."""
    example = {
      'image': image,
      'ids': np.zeros(image.shape[:2], np.int32),
      'segments': (),
      'index': 0,
      'file': '',
    }
    batch, meta = self.experiment.single(example)
    key = jax.random.split(jax.random.key(seed), 1)
    self._kept.clear()
    raw = jax.device_get(self._sample(self.params, batch, key))
    jax.effects_barrier()
    frames = tuple(
      (caption, self._read(self._decode(self.params, x_0, batch), meta))
      for caption, x_0 in self._kept
    )
    return Sampled(self._read(raw, meta), frames)

  def _read(self, raw, meta) -> Map:
    one = jax.tree.map(lambda leaf: np.asarray(leaf)[0], raw)
    task = self.experiment.task
    found = task.refine(self.experiment.model.postprocess(one, meta))
    if not self.each:
      return task.segments(found)
    # Ids as the model gave them: they last over the steps, and so do colours.
    return _without_classes(np.where(found.semantic > 0, found.instance, 0))


def _without_classes(ids: np.ndarray) -> Map:
  names = np.unique(ids[ids > 0]).tolist()
  return ids, tuple(Segment(name, 1) for name in names)


def write(
  workdir: str | os.PathLike,
  inputs: Sequence[str | os.PathLike],
  output: str | os.PathLike,
  *,
  steps: int | None = None,
  frames: int = 8,
  seeds: int = 6,
  seed: int = 0,
  step: str | int = '',
) -> list[pathlib.Path]:
  """Writes NAME_strip.png and NAME_seeds.png of each image.

  Args:
    workdir: of a trained run.
    inputs: images and folders of images.
    output: a folder, made if it does not exist.
    steps: of sampling; None is the config's.
    frames: estimates in a strip.
    seeds: samples in timesteps: `seed` and those after it; below 2: no
    timesteps.
    seed: of the strip.
    step: of the checkpoint, or 'best'; empty is the newest.

  Returns:
    The files.

  Raises:
    ValueError: there is no image, one cannot be read, or an argument is out
      of range.
  """
  if not inputs:
    raise ValueError('--inputs is empty; name an image or a folder of them.')
  pipe = pipeline.Pipeline.from_pretrained(workdir, step=step or None)
  sampler, folder = Sampler(pipe, steps, frames), pathlib.Path(output)
  written, names = [], collections.Counter()
  for path in files.list_images(*inputs):
    names[path.stem] += 1
    count = names[path.stem]
    name = path.stem if count == 1 else f'{path.stem}_{count}'
    image = pipeline.as_rgb(path)
    for kind, drawn in _images(sampler, image, seed, seeds):
      written.append(folder / f'{name}_{kind}.png')
      overlays.save_png(written[-1], drawn)
  return written


def _images(sampler, image, seed, seeds):
  """('strip', the strip) and perhaps ('seeds', the timesteps)."""
  categories, look = sampler.experiment.categories, {'each': sampler.each}
  numbers = range(seed, seed + max(1, seeds))
  runs = [sampler(image, number) for number in numbers]
  captions, maps = zip(*runs[0].frames)
  yield (
    'strip',
    sampling.denoising(
      image,
      (*maps, runs[0].final),
      categories,
      (*captions, 'final'),
      **look,
    ),
  )
  if len(runs) > 1:
    finals = [run.final for run in runs]
    index, agreed = agreement.consensus(finals)
    captions = [f'seed {number}' for number in numbers]
    captions[index] += ' (consensus)'
    if sampler.each:  # an id means nothing in another sample
      finals = [
        _without_classes(ids) for ids in agreement.labels(finals, index)
      ]
    yield (
      'seeds',
      sampling.seeds(image, finals, categories, captions, agreed, **look),
    )


def main(argv: Sequence[str] | None = None) -> None:
  """The command."""
  parser = argparse.ArgumentParser(
    prog='python -m pix2seqd_jax.cli.show_denoising',
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  parser.add_argument('--workdir', required=True, help='the folder of a run')
  parser.add_argument(
    '--inputs', nargs='+', required=True, help='images, or folders of them'
  )
  parser.add_argument('--output', required=True, help='a folder for PNG files')
  parser.add_argument('--steps', type=int, help="of sampling; else the run's")
  parser.add_argument('--frames', type=int, default=8, help='in a strip')
  parser.add_argument('--seeds', type=int, default=6, help='in timesteps')
  parser.add_argument('--seed', type=int, default=0, help='the first')
  parser.add_argument('--step', default='', help="a checkpoint's, or 'best'")
  flags = vars(parser.parse_args(argv))
  try:
    written = write(
      flags.pop('workdir'), flags.pop('inputs'), flags.pop('output'), **flags
    )
  except (ValueError, OSError) as error:
    parser.exit(1, f'{type(error).__name__}: {error}\n')
  print(f'Wrote {len(written)} images: {written[0]}, ...')


if __name__ == '__main__':
  main()
