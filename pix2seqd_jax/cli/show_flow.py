"""Both ways of a flow between images and masks: paths, videos, strips.

  python -m pix2seqd_jax.cli.show_flow --workdir runs/semflow --output flows/ \
    --steps 25 --frames 8

takes held-out examples of the run's data (or --inputs, images, and --masks,
label maps) and writes for each
  NAME_segment.png, NAME_synthesize.png   some of the states on the way
  NAME_segment.gif, NAME_synthesize.gif   all of them, as a video
  NAME_perturbation.png                   images by the noise on the mask
and straightness.png and .json: how straight the paths of both directions are.
For models that draw images of masks (SemFlow).
"""

import argparse
import json
import os
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from pix2seqd_jax.data.formats import files, label_maps
from pix2seqd_jax.diffusion import straightness
from pix2seqd_jax.experiment import build
from pix2seqd_jax.inference import pipeline, results, synthesis
from pix2seqd_jax.visualize import overlays
from pix2seqd_jax.visualize import video as video_lib

DIRECTIONS = ('segment', 'synthesize')


class Path(NamedTuple):
  """One run of the sampler, in either direction.

  Attributes:
    states: [steps + 1, 1, ...], from the start on.
    times: [steps + 1]; 0 is the mask, 1 the image.
    batch, meta: what it was run on.
  """

  states: np.ndarray
  times: np.ndarray
  batch: Any
  meta: Any


class Follower:
  """Follows the paths of a flow by even steps of Euler.

  All examples share one callback: another would be compiled anew.

  Args:
    pipe: a trained model that draws images of masks.
    steps: of Euler, 2 or more; None is the config's.

  Raises:
    ValueError: a model without a way back, or too few steps.
  """

  def __init__(self, pipe: pipeline.Pipeline, steps: int | None = None):
    self.pipe, self.params = pipe, pipe.params
    config = pipe.experiment.config
    self.steps = config['sample']['steps'] if steps is None else steps
    if self.steps < 2:
      raise ValueError(f'steps={self.steps} must be 2 or more to see a path.')
    model = pipe.experiment.model
    plain = {
      'timestep_spacing': 'uniform',
      'timestep_spacing_args': {},
      'td': 0.0,
    }
    plain |= {'sampler': 'euler', 'sampler_args': {}}
    sample = {**config['sample'], **plain}
    self.experiment = build.Experiment(
      {**config, 'sample': sample}, pipe.categories
    )
    self.experiment.model = model
    self._synthesizer = synthesis.Synthesizer(self.experiment, self.params)
    size = tuple(config['data']['image_size'])
    self._synthesizer.batch(np.zeros(size, np.int32))  # where there is no way
    self._kept: list[tuple[Any, Any]] = []
    self._sample = self.experiment.sample_fn(self.steps, callback=self._keep)
    self._decode = jax.jit(model.decode)

  def _keep(self, step, num_steps, x, x_0):
    del step, num_steps
    self._kept.append(jax.device_get((x, x_0)))

  def segment(self, image: np.ndarray, seed: int = 0) -> Path:
    """uint8 [h, w, 3] -> its path to the mask; t = 1 to 0."""
    example = {
      'image': image,
      'ids': np.zeros(image.shape[:2], np.int32),
      'segments': (),
      'index': 0,
      'file': '',
    }
    return self._follow(*self.experiment.single(example), seed, 1)

  def synthesize(self, mask: np.ndarray, seed: int = 0) -> Path:
    """Classes [h, w] -> their path to an image; t = 0 to 1."""
    return self._follow(*self._synthesizer.batch(mask), seed, 0)

  def _follow(self, batch, meta, seed, first) -> Path:
    self._kept.clear()
    keys = jax.random.split(jax.random.key(seed), 1)
    jax.block_until_ready(self._sample(self.params, batch, keys))
    jax.effects_barrier()
    times = np.linspace(first, 1 - first, self.steps + 1)
    states = np.stack([x for x, _ in self._kept])
    # What it began with is not reported, but lies on the line through the
    # first estimate of x_0 (at t = 0) and the first state.
    x, x_0 = self._kept[0]
    begin = x_0 + first * (x - x_0) / times[1] if first else x_0
    return Path(np.concatenate([begin[None], states]), times, batch, meta)

  def images(
    self, path: Path, steps: Sequence[int] | None = None
  ) -> list[np.ndarray]:
    """States as images, uint8 [h, w, 3]: masks in the colours of anchors.

    Args:
      path: of either direction.
      steps: which states; None are all.
    """
    blank = np.zeros(path.batch['image'].shape[:3], np.int32)
    batch = {**path.batch, 'given': {'semantic': blank}}
    steps = range(len(path.states)) if steps is None else steps
    return [self._image(path.states[i], batch, path.meta) for i in steps]

  def _image(self, state, batch, meta):
    raw = jax.device_get(self._decode(self.params, state, batch))
    one = jax.tree.map(lambda leaf: leaf[0], raw)
    return self.experiment.model.postprocess(one, meta).image


def strip(
  follower: Follower, path: Path, frames: int, title: str
) -> np.ndarray:
  """`frames` states of a path side by side, the first and the last too."""
  steps = np.linspace(0, len(path.states) - 1, max(2, frames))
  steps = np.unique(np.round(steps).astype(int)).tolist()
  captions = [f't = {path.times[i]:.2f}' for i in steps]
  captions[0] = f'{title}, {captions[0]}'
  shown = zip(follower.images(path, steps), captions, strict=True)
  images = [overlays.captioned(image, text) for image, text in shown]
  return overlays.grid(images, len(images))


def video(
  follower: Follower, path: Path, file: str | os.PathLike, fps: float | int = 10
) -> pathlib.Path:
  """Writes a path as a video: what it began with beside what it becomes."""
  images = follower.images(path)
  given = overlays.captioned(images[0], 'given')
  frames = [
    overlays.grid([given, overlays.captioned(image, f't = {t:.2f}')], 2)
    for image, t in zip(images, path.times, strict=True)
  ]
  return video_lib.write(file, frames, fps=fps)


def perturbations(
  pipe: pipeline.Pipeline,
  mask: np.ndarray,
  *,
  factors: Sequence[float | int] | None = None,
  num_samples: int = 2,
  steps: int | None = None,
  seed: int = 0,
) -> tuple[np.ndarray, dict[str, dict[str, float]]]:
  """Images of a mask by the width of the noise on it.

  Args:
    pipe: a trained model.
    mask: classes [h, w].
    factors: of the width that it was trained with (beta' / beta of the paper);
      none: those of synthesizing.FACTORS with which classes can be told apart.
    num_samples: rows of the image.
    steps, seed: of sampling.

  Returns:
    (timesteps, uint8, a column for each factor; {factor: brightness, the mean
    of all values in [0, 1], and diversity, the mean over pixels of the
    deviation between samples}).

  Raises:
    ValueError: a factor with which classes would not be told apart.
  """
  usual = pipe.experiment.model.perturbation
  rows, numbers = [], {}
  for factor in synthesis.noise_factors(pipe.experiment.model, factors):
    found = pipe.synthesize(
      mask,
      steps=steps,
      num_samples=num_samples,
      seed=seed,
      perturbation=factor * usual,
    )
    values = np.stack(found.images) / 255
    told = {'brightness': values.mean(), 'diversity': values.std(0).mean()}
    numbers[f'{factor:g}'] = {k: float(v) for k, v in told.items()}
    text = f'{factor:g} x noise, brightness {values.mean():.3f}'
    rows.append([overlays.captioned(image, text) for image in found.images])
  painted = overlays.captioned(
    overlays.paint(*overlays.as_map(mask), pipe.categories), 'mask'
  )
  cells = []
  for row in zip(*rows, strict=True):
    blank = np.full_like(painted, 255)
    cells += [painted if not cells else blank, *row]
  return overlays.grid(cells, len(rows) + 1), numbers


class Example(NamedTuple):
  """What is looked at; either may be missing."""

  name: str
  image: np.ndarray | None
  mask: np.ndarray | None


def examples(
  pipe: pipeline.Pipeline,
  inputs: Sequence[str | os.PathLike] = (),
  masks: Sequence[str | os.PathLike] = (),
  *,
  num: int | None = 4,
  values: str | None = None,
) -> Iterator[Example]:
  """Images and label maps; or, of neither, `num` held-out examples (or all).

  `values` is of the masks' numbers, as in synthesizing.read_mask.
  """
  images = files.list_images(*inputs) if inputs else []
  maps = files.list_images(*masks) if masks else []
  names = results.unique([path.stem for path in (*images, *maps)])
  for name, path in zip(names, images):
    yield Example(name, pipeline.as_rgb(path), None)
  reader = synthesis.Synthesizer(pipe.experiment, pipe.params)
  for name, path in zip(names[len(images) :], maps, strict=True):
    yield Example(name, None, reader.read(path, values))
  if inputs or masks:
    return
  source = pipe.experiment.source('eval')
  for i in range(len(source) if num is None else min(num, len(source))):
    one = source[i]
    named = [s for s in one['segments'] if not s.is_crowd]
    mask = label_maps.label_map(one['ids'], named, pipe.categories, 'classes')
    yield Example(f'{i:04d}', one['image'], mask.astype(np.int32))


def write(
  workdir: str | os.PathLike,
  output: str | os.PathLike,
  *,
  inputs: Sequence[str | os.PathLike] = (),
  masks: Sequence[str | os.PathLike] = (),
  num: int = 4,
  values: str | None = None,
  steps: int | None = None,
  frames: int = 8,
  factors: Sequence[float | int] | None = None,
  samples: int = 2,
  seed: int = 0,
  step: str | int = '',
  video_format: str = 'gif',
) -> list[pathlib.Path]:
  """Writes all that the module's head names.

  Args:
    workdir: of a trained run.
    output: a folder, made if it does not exist.
    inputs, masks, num, values: as in `examples`.
    steps: of Euler; None is the config's.
    frames: states in a strip.
    factors, samples: as in `perturbations`; no factors: no such image.
    seed: of sampling.
    step: of the checkpoint, or 'best'; empty is the newest.
    video_format: of video_lib.FORMATS.

  Returns:
    The files.

  Raises:
    ValueError: a model without a way back, files that cannot be read, or an
      argument out of range.
  """
  _check(video_format, frames)
  pipe = pipeline.Pipeline.from_pretrained(workdir, step=step or None)
  follower, folder = Follower(pipe, steps), pathlib.Path(output)
  factors = synthesis.noise_factors(pipe.experiment.model, factors)
  # All of them are read first: a bad file is named before the work begins.
  found = list(examples(pipe, inputs, masks, num=num, values=values))
  written: list[pathlib.Path] = []
  states: dict[str, list[np.ndarray]] = {}
  for example in found:
    for direction, given in zip(DIRECTIONS, example[1:], strict=True):
      if given is None:
        continue
      path = getattr(follower, direction)(given, seed)
      states.setdefault(direction, []).append(path.states)
      stem = f'{example.name}_{direction}'
      still, moving = (folder / f'{stem}.{s}' for s in ('png', video_format))
      overlays.save_png(still, strip(follower, path, frames, direction))
      written += [still, video(follower, path, moving)]
    if example.mask is not None and factors:
      noise = {'factors': factors, 'num_samples': samples}
      noise |= {'steps': steps, 'seed': seed}
      written += _write_noise(pipe, example, folder, noise)
  return written + _write_straightness(folder, states)


def _check(video_format, frames):
  if video_format not in video_lib.FORMATS:
    raise ValueError(
      f'--video={video_format!r} must be one of {", ".join(video_lib.FORMATS)}.'
    )
  if video_format == 'mp4':
    video_lib.ffmpeg()
  if frames < 2:
    raise ValueError(f'--frames={frames} must be at least 2.')


def _write_noise(pipe, example, folder, noise):
  image, numbers = perturbations(pipe, example.mask, **noise)
  stem = f'{example.name}_perturbation'
  drawn, told = (folder / f'{stem}.{s}' for s in ('png', 'json'))
  overlays.save_png(drawn, image)
  told.write_text(json.dumps(numbers, indent=2) + '\n', encoding='utf-8')
  return [drawn, told]


def _write_straightness(folder, states):
  """The plot and the numbers of each direction, over all examples."""
  lines, numbers = {}, {}
  for direction, found in states.items():
    told = straightness.straightness(np.concatenate(found, 1))
    lines[direction] = told.times, told.curve
    numbers[direction] = {
      'straightness': told.value,
      'relative': told.relative,
      'length': told.length,
      'paths': len(found),
      'steps': len(found[0]) - 1,
    }
  stem = folder / 'straightness'
  overlays.curves(
    stem.with_suffix('.png'),
    lines,
    title='Deviation from straight lines (0: straight)',
    x_label='fraction of the way',
    y_label='|speed - line|^2 / |line|^2',
  )
  text = json.dumps(numbers, indent=2) + '\n'
  stem.with_suffix('.json').write_text(text, encoding='utf-8')
  return [stem.with_suffix('.png'), stem.with_suffix('.json')]


def main(argv: Sequence[str] | None = None) -> None:
  """The command."""
  parser = argparse.ArgumentParser(
    prog='python -m pix2seqd_jax.cli.show_flow',
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  add = parser.add_argument
  add('--workdir', required=True, help='the folder of a run')
  add('--output', required=True, help='a folder for the files')
  add('--inputs', nargs='+', default=(), help='images, or folders of them')
  add('--masks', nargs='+', default=(), help='label maps, or folders of them')
  add('--num', type=int, default=4, help='held-out examples, of neither')
  add('--values', help="of masks: the data set's own 'ids', or 'classes'")
  add('--steps', type=int, help="of Euler; else the run's")
  add('--frames', type=int, default=8, help='in a strip')
  add('--factors', type=float, nargs='*', help='of the noise, or nothing')
  add('--samples', type=int, default=2, help='of each factor')
  add('--seed', type=int, default=0)
  add('--step', default='', help="a checkpoint's, or 'best'")
  add('--video', dest='video_format', default='gif', help='gif or mp4')
  flags = vars(parser.parse_args(argv))
  try:
    written = write(flags.pop('workdir'), flags.pop('output'), **flags)
  except (ValueError, OSError) as error:
    parser.exit(1, f'{type(error).__name__}: {error}\n')
  print(f'Wrote {len(written)} files: {written[0]}, ...')


if __name__ == '__main__':
  main()
