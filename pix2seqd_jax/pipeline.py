"""The face for users: a trained directory, a picture, a panoptic mask.

pipe = Pipeline.from_pretrained('runs/shapes')
result = pipe.segment('street.jpg', steps=20, seed=0)
result.segmentation     # int32 [h, w]: 0 = void, else the id of a segment
result.segments_info    # [{'id', 'label_id', 'label', 'score', 'area'}, ...]
result.overlay()        # uint8 [h', w', 3], with a legend
"""

import dataclasses
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from pix2seqd_jax import build, visualize, workdir
from pix2seqd_jax.data import decode, files, writers
from pix2seqd_jax.train import log
from pix2seqd_jax.types import Category, Params, Segment


@dataclasses.dataclass(frozen=True)
class PanopticResult:
  """A picture's segments.

  Attributes:
    image: uint8 [h, w, 3], the picture as it was read.
    segmentation: int32 [h, w]; 0 = void, else an id of `segments_info`.
    segments: the same as `segments_info`, typed.
    categories: the classes.
  """

  image: np.ndarray
  segmentation: np.ndarray
  segments: tuple[Segment, ...]
  categories: tuple[Category, ...]

  @property
  def segments_info(self) -> list[dict[str, Any]]:
    """One dict a segment: id, label_id (the data set's own number of the
    class), label, score in [0, 1], area in pixels."""
    areas = np.bincount(self.segmentation.reshape(-1))
    return [
      {
        'id': segment.id,
        'label_id': self.categories[segment.category - 1].id,
        'label': self.categories[segment.category - 1].name,
        'score': segment.score,
        'area': int(areas[segment.id]),
      }
      for segment in self.segments
    ]

  def overlay(self, **kwargs) -> np.ndarray:
    """The picture under its coloured segments; see visualize.overlay."""
    return visualize.overlay(
      self.image, self.segmentation, self.segments, self.categories, **kwargs
    )


class Pipeline:
  """A trained model and all that its pictures need.

  Args:
    experiment: the parts, from a work directory's config.
    params: as from the checkpoint.
  """

  def __init__(self, experiment: build.Experiment, params: Params):
    self.experiment = experiment
    self.params = params

  @classmethod
  def from_pretrained(
    cls,
    directory: str | os.PathLike,
    *,
    step: int | str | None = None,
    ema: bool | None = None,
    config: Any = None,
  ) -> 'Pipeline':
    """Loads a work directory.

    Args:
      directory: holds config.json, categories.json and checkpoints/.
      step: of the checkpoint; None is the newest, 'best' the best.
      ema: the averaged parameters; None is what config.eval.use_ema says.
      config: in place of the directory's, with the same model.

    Raises:
      ValueError: the directory lacks a part, or its checkpoint does not fit
        its config.
    """
    folder = pathlib.Path(directory)
    experiment = workdir.load(folder, config)
    found = workdir.find_step(folder, '' if step is None else step)
    return cls(experiment, workdir.load_params(experiment, folder, found, ema))

  @property
  def categories(self) -> tuple[Category, ...]:
    return self.experiment.categories

  def segment(
    self,
    image: Any,
    *,
    steps: int | None = None,
    seed: int = 0,
    td: float | None = None,
  ) -> PanopticResult:
    """One picture -> its panoptic segments, at the picture's size.

    Args:
      image: a path, a PIL picture, or uint8 [h, w, 3].
      steps: calls of the denoiser; None is the config's.
      seed: the same seed gives the same mask.
      td: the time difference of asymmetric steps; None is the config's.
    """
    image = as_rgb(image)
    sample_fn = self.experiment.sample_fn(steps, td)
    batch, meta = self._batch(image)
    keys = jax.random.split(jax.random.key(seed), 1)
    raw = jax.device_get(sample_fn(self.params, batch, keys))
    raw = jax.tree.map(lambda leaf: leaf[0], raw)
    task = self.experiment.task
    found = task.refine(self.experiment.model.read_out(raw, meta))
    ids, segments = task.segments(found)
    return PanopticResult(image, ids, segments, self.categories)

  def predict(
    self,
    inputs: Sequence[str | os.PathLike],
    output: str | os.PathLike,
    *,
    steps: int | None = None,
    seed: int | None = None,
    progress: bool = True,
  ) -> pathlib.Path:
    """Pictures and folders of pictures -> COCO panoptic PNG + JSON, overlays.

    Args:
      inputs: files and folders.
      output: a folder: panoptic/NAME.png, panoptic.json, overlays/NAME.png.
      steps, seed: as in `segment`, None for the config's; a picture's mask
        does not depend on the other pictures.
      progress: shows a bar on a terminal, plain lines elsewhere.

    Returns:
      The output folder.
    """
    paths = files.list_images(*inputs)
    names = _unique([path.name for path in paths])
    seed = self.experiment.sample_seed if seed is None else seed
    output = pathlib.Path(output)
    with (
      writers.Writer(output, self.categories) as writer,
      log.Progress(len(paths), unit='picture', enabled=progress) as bar,
    ):
      for path, name in zip(paths, names, strict=True):
        try:
          result = self.segment(path, steps=steps, seed=seed)
        except ValueError:
          writer.close()  # what was done stays readable
          raise
        written = writer.add(name, result.segmentation, result.segments)
        visualize.save_png(output / 'overlays' / written, result.overlay())
        bar.update()
    return output

  def _batch(self, image):
    """One picture -> the device's inputs and its meta."""
    example = {
      'image': image,
      'ids': np.zeros(image.shape[:2], np.int32),
      'segments': (),
      'index': 0,
      'file': '',
    }
    return self.experiment.single(example)


def _unique(names: Sequence[str]) -> list[str]:
  """x.jpg, x.jpg -> x.jpg, x_2.jpg: pictures of two folders."""
  found: list[str] = []
  for name in names:
    path, count = pathlib.PurePath(name), 2
    while name in found:
      name = f'{path.stem}_{count}{path.suffix}'
      count += 1
    found.append(name)
  return found


def as_rgb(image: Any) -> np.ndarray:
  """A path, a PIL picture or an array -> uint8 [h, w, 3].

  Raises:
    ValueError: a file that cannot be read, or an array that is no 8-bit RGB.
  """
  if isinstance(image, str | os.PathLike):
    return files.read_image(image)
  if hasattr(image, 'convert'):  # PIL; turned as its EXIF says, as a file is
    image = decode.to_rgb(image)
  array = np.asarray(image)
  if array.dtype != np.uint8 or array.ndim != 3 or array.shape[-1] != 3:
    raise ValueError(
      f'image is {array.dtype} {array.shape}; give uint8 [h, w, 3] RGB, a path '
      'or a PIL picture.'
    )
  if not array.size:
    raise ValueError(f'image {array.shape} has no pixels.')
  return array
