"""The face for users: a trained directory, a picture, a panoptic mask.

pipe = Pipeline.from_pretrained('runs/shapes')
result = pipe.segment('street.jpg', steps=20, seed=0)
result.segmentation     # int32 [h, w]: 0 = void, else the id of a segment
result.segments_info    # [{'id', 'label_id', 'label', 'score', 'area'}, ...]
result.overlay()        # uint8 [h', w', 3], with a legend

pipe.segment('city.tif', tile=1024)           # a large picture
pipe.segment('street.jpg', num_samples=8).agreement     # float32 [h, w]
"""

import copy
import dataclasses
import os
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from pix2seqd_jax import (
  agreement,
  build,
  palettes,
  tiles,
  visualize,
  workdir,
)
from pix2seqd_jax.data import decode, files, label_maps, writers
from pix2seqd_jax.train import log
from pix2seqd_jax.types import Category, Params, Segment

# What `predict` writes: the writers' formats, and pictures to look at.
FORMATS = (*writers.FORMATS, 'overlay')


@dataclasses.dataclass(frozen=True)
class PanopticResult:
  """A picture's segments.

  Attributes:
    image: uint8 [h, w, 3], the picture as it was read.
    segmentation: int32 [h, w]; 0 = void, else an id of `segments_info`.
    segments: the same as `segments_info`, typed.
    categories: the classes.
    agreement: float32 [h, w], where there were several samples: the share of
      them that agree with this one; see agreement.consensus.
  """

  image: np.ndarray
  segmentation: np.ndarray
  segments: tuple[Segment, ...]
  categories: tuple[Category, ...]
  agreement: np.ndarray | None = None

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
    return visualize.overlay(self.image, *self._map, **kwargs)

  def agreement_picture(self, **kwargs) -> np.ndarray:
    """The overlay beside the agreement of the samples, uint8 [h', w', 3].

    Raises:
      ValueError: there was only one sample.
    """
    if self.agreement is None:
      raise ValueError('one sample has no agreement; segment with num_samples.')
    pictures = self.overlay(**kwargs), visualize.heat(self.agreement)
    return visualize.grid(pictures, 2, ('chosen sample', 'agreement'))

  def semantic(self, values: str = 'classes') -> np.ndarray:
    """The class of each pixel, uint8 or uint16 [h, w]: 'classes' 1..C, or the
    data set's own 'ids'; see label_maps.label_values for void."""
    return label_maps.label_map(*self._map, values)

  def palette_image(self, palette: str | None = None) -> Any:
    """A PIL picture of class numbers with the colours of a palette."""
    colors = palettes.colors(self.categories, palette)
    return label_maps.palette_image(*self._map, colors)

  def rle(self) -> list[dict[str, Any]]:
    """The things as COCO results without image_id: category_id, segmentation
    (compressed run lengths), score."""
    return [entry for _, entry in writers.rle_entries(*self._map)]

  def save(
    self,
    folder: str | os.PathLike,
    name: str = 'picture.png',
    formats: Sequence[str] = ('panoptic', 'overlay'),
    *,
    palette: str | None = None,
    values: str = 'ids',
  ) -> None:
    """Writes this result alone; as Pipeline.predict does for many."""
    with _Output(folder, self.categories, formats, palette, values) as output:
      output.add(name, self)

  @property
  def _map(self):
    return self.segmentation, self.segments, self.categories


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
    tile: int | tuple[int, int] | None = None,
    overlap: int | tuple[int, int] | None = None,
    num_samples: int = 1,
    callback: Callable[[int, int, Any, Any], None] | None = None,
  ) -> PanopticResult:
    """One picture -> its panoptic segments, at the picture's size.

    Args:
      image: a path, a PIL picture, or uint8 [h, w, 3].
      steps: calls of the denoiser; None is the config's.
      seed: the same seed gives the same mask.
      td: the time difference of asymmetric steps; None is the config's.
      tile: for pictures that lose too much when they are shrunk to what the
        network sees: a side or (height, width) in pixels. Each tile is taken
        as a picture of its own, and ids are stitched; see tiles.
      overlap: of neighbouring tiles; None is a quarter of a tile.
      num_samples: draws several masks (of each tile) and keeps the one that
        agrees best with the others; `agreement` says where they do.
      callback: called after each step of sampling as (step, num_steps, the
        sample, the estimate of the analog bits), the last two [n, h, w, k].
        Every other function is compiled anew: keep one.

    Raises:
      ValueError: a picture that cannot be read, or an argument out of range.
    """
    if num_samples < 1:
      raise ValueError(f'num_samples={num_samples} must be at least 1.')
    image = as_rgb(image)
    told = {'callback': callback} if callback else {}
    sample_fn = self.experiment.sample_fn(steps, td, num_samples, **told)
    key = jax.random.split(jax.random.key(seed), 1)[0]

    def draw(part, key, task):
      return self._draw(part, key, sample_fn, num_samples, task)

    if tile is None:
      found = draw(image, key, self.experiment.task)
    else:
      windows = tiles.windows(image.shape[:2], tile, overlap)
      found = self._stitch(image, key, draw, windows)
    ids, segments, agreed = found
    return PanopticResult(image, ids, segments, self.categories, agreed)

  def _draw(self, image, key, sample_fn, num_samples, task):
    """(ids, segments, agreement or None) of a picture or a tile."""
    batch, meta = self._batch(image)
    raw = jax.device_get(sample_fn(self.params, batch, key[None]))

    def read(i):
      one = jax.tree.map(lambda leaf: leaf[i], raw)
      return task.segments(
        task.refine(self.experiment.model.read_out(one, meta))
      )

    samples = [read(i) for i in range(num_samples)]
    if num_samples == 1:
      return *samples[0], None
    index, agreed = agreement.consensus(samples)
    return *samples[index], agreed

  def _stitch(self, image, key, draw, windows):
    """The same of a picture, from its windows."""
    task = copy.copy(self.experiment.task)
    task.min_pixels = 0  # a small part may belong to a large segment
    stitcher = tiles.Stitcher(image.shape[:2], self.categories)
    agreed = None
    for i, window in enumerate(windows):
      k_tile = jax.random.fold_in(key, i) if i else key
      ids, segments, here = draw(image[window.box], k_tile, task)
      stitcher.add(window, ids, segments)
      if here is not None:
        agreed = np.ones(image.shape[:2], np.float32) if i == 0 else agreed
        agreed[window.core] = here[window.inner]
    return *stitcher.finish(self.experiment.task.min_pixels), agreed

  def predict(
    self,
    inputs: Sequence[str | os.PathLike],
    output: str | os.PathLike,
    *,
    formats: Sequence[str] = ('panoptic', 'overlay'),
    palette: str | None = None,
    values: str = 'ids',
    seed: int | None = None,
    progress: bool = True,
    **kwargs,
  ) -> pathlib.Path:
    """Pictures and folders of pictures -> files; see data/writers for formats.

    Args:
      inputs: files and folders.
      output: a folder: panoptic/NAME.png, panoptic.json, overlays/NAME.png,
        and so on; with several samples agreement/NAME.png, 255 where all
        agree. Where all names are numbers, as in COCO, they are the image_id.
      formats: of FORMATS.
      palette: of overlays and 'palette'; None for the categories' own colours.
      values: of 'labels': the data set's own 'ids', or 'classes' 1..C.
      seed: None for the config's; a picture's mask does not depend on the
        other pictures.
      progress: shows a bar on a terminal, plain lines elsewhere.
      **kwargs: as in `segment`: steps, td, tile, overlap, num_samples.

    Returns:
      The output folder.
    """
    paths = files.list_images(*inputs)
    names = _unique([path.name for path in paths])
    numbers = _numbers(names)
    seed = self.experiment.sample_seed if seed is None else seed
    folder = pathlib.Path(output)
    writer = _Output(folder, self.categories, formats, palette, values)
    with (
      writer,
      log.Progress(len(paths), unit='picture', enabled=progress) as bar,
    ):
      for path, name, number in zip(paths, names, numbers, strict=True):
        try:
          result = self.segment(path, seed=seed, **kwargs)
        except ValueError:
          writer.close()  # what was done stays readable
          raise
        writer.add(name, result, number)
        bar.update()
    return folder

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


class _Output:
  """Results -> files of some formats, below one folder; a context manager."""

  def __init__(self, folder, categories, formats, palette, values):
    for name in formats:
      if name not in FORMATS:
        raise ValueError(
          f'format {name!r} is unknown; known are {", ".join(FORMATS)}.'
        )
    self.folder, self.palette = pathlib.Path(folder), palette
    self.overlays = 'overlay' in formats
    self.writer = writers.Writer(
      folder,
      categories,
      [name for name in formats if name != 'overlay'],
      colors=palettes.colors(categories, palette),
      values=values,
    )
    self.close = self.writer.close

  def add(self, name, result, image_id=None):
    written = self.writer.add(
      name, result.segmentation, result.segments, image_id
    )
    if self.overlays:
      visualize.save_png(
        self.folder / 'overlays' / written, result.overlay(palette=self.palette)
      )
    if result.agreement is not None:
      levels = np.round(255 * result.agreement).astype(np.uint8)
      visualize.save_png(self.folder / 'agreement' / written, levels)

  def __enter__(self):
    return self

  def __exit__(self, *error):
    return self.writer.__exit__(*error)


def _numbers(names: Sequence[str]) -> list[int | None]:
  """000000000139.jpg -> 139, where all names are numbers; else None."""
  stems = [pathlib.PurePath(name).stem for name in names]
  if all(stem.isascii() and stem.isdigit() for stem in stems):
    numbers = [int(stem) for stem in stems]
    if len(set(numbers)) == len(numbers):
      return numbers
  return [None] * len(names)


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
