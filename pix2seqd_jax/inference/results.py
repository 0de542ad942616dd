"""What an image's segments can be asked for, and how they are written."""

import dataclasses
import os
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from pix2seqd_jax.data.formats import label_maps, writers
from pix2seqd_jax.encoding import panoptic_ids
from pix2seqd_jax.inference import agreement as agreement_lib
from pix2seqd_jax.types import Category, Segment
from pix2seqd_jax.visualize import overlays, palettes

# What `predict` writes: the writers' formats, and images to look at.
FORMATS = (*writers.FORMATS, 'overlay')


class Drawn(NamedTuple):
  """The answer for an image or a tile."""

  ids: np.ndarray
  segments: tuple[Segment, ...]
  agreement: np.ndarray | None = None  # of several samples
  entropy: np.ndarray | None = None


@dataclasses.dataclass(frozen=True)
class PanopticResult:
  """An image's segments.

  Attributes:
    image: uint8 [h, w, 3], the image as it was read.
    segmentation: int32 [h, w]; 0 = void, else an id of `segments_info`.
    segments: the same as `segments_info`, typed.
    categories: the classes.
    agreement: float32 [h, w], where there were several samples: the fraction of
      them that agree with this one; see agreement.consensus.
    entropy: float32 [h, w], in nats, likewise: of what the samples say there;
      see agreement.entropy.
  """

  image: np.ndarray
  segmentation: np.ndarray
  segments: tuple[Segment, ...]
  categories: tuple[Category, ...]
  agreement: np.ndarray | None = None
  entropy: np.ndarray | None = None

  @property
  def segments_info(self) -> list[dict[str, Any]]:
    """One dict a segment: id, label_id (the data set's own number of the
    class), label, score in [0, 1], area in pixels; of several samples also
    the confidence, their mean agreement within the segment, in [1 / n, 1]."""
    found, areas, _ = panoptic_ids.ranks(self.segmentation)
    areas = dict(zip(found.tolist(), areas.tolist(), strict=True))
    infos = [
      {
        'id': segment.id,
        'label_id': self.categories[segment.class_id - 1].id,
        'label': self.categories[segment.class_id - 1].name,
        'score': segment.score,
        'area': areas[segment.id],
      }
      for segment in self.segments
    ]
    if self.agreement is not None:
      sure = agreement_lib.confidence(self.segmentation, self.agreement)
      for info in infos:
        info['confidence'] = sure[info['id']]
    return infos

  def overlay(self, **kwargs) -> np.ndarray:
    """The image under its coloured segments; see visualize.overlay."""
    return overlays.overlay(self.image, *self._map, **kwargs)

  def agreement_image(self, **kwargs) -> np.ndarray:
    """The overlay beside the agreement of the samples, uint8 [h', w', 3].

    Raises:
      ValueError: there was only one sample.
    """
    if self.agreement is None:
      raise ValueError('one sample has no agreement; segment with num_samples.')
    images = self.overlay(**kwargs), overlays.heat(self.agreement)
    return overlays.grid(images, 2, ('chosen sample', 'agreement'))

  def semantic(self, values: str = 'classes') -> np.ndarray:
    """The class of each pixel, uint8 or uint16 [h, w]: 'classes' 1..C, or the
    data set's own 'ids'; see label_maps.label_values for void."""
    return label_maps.label_map(*self._map, values)

  def palette_image(self, palette: str | None = None) -> Any:
    """A PIL image of class numbers with the colours of a palette."""
    colors = palettes.colors(self.categories, palette)
    return label_maps.palette_image(*self._map, colors)

  def rle(self) -> list[dict[str, Any]]:
    """The things as COCO results without image_id: category_id, segmentation
    (compressed run lengths), score."""
    return [entry for _, entry in writers.rle_entries(*self._map)]

  def save(
    self,
    folder: str | os.PathLike,
    name: str = 'image.png',
    formats: Sequence[str] = ('panoptic', 'overlay'),
    *,
    palette: str | None = None,
    values: str = 'ids',
  ) -> None:
    """Writes this result alone; as Pipeline.predict does for many."""
    with Output(folder, self.categories, formats, palette, values) as output:
      output.add(name, self)

  @property
  def _map(self):
    return self.segmentation, self.segments, self.categories


class Output:
  """Results -> files of some formats, below one folder; a context manager.

  Args:
    folder: made where it is not there; what it holds is written over.
    categories: of all results.
    formats: of FORMATS.
    palette, values: as in Pipeline.predict.

  Raises:
    ValueError: an unknown format.
  """

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
    """Writes a PanopticResult under the name of its image."""
    written = self.writer.add(
      name, result.segmentation, result.segments, image_id
    )
    if self.overlays:
      overlays.save_png(
        self.folder / 'overlays' / written, result.overlay(palette=self.palette)
      )
    if result.agreement is not None:
      levels = np.round(255 * result.agreement).astype(np.uint8)
      overlays.save_png(self.folder / 'agreement' / written, levels)

  def __enter__(self):
    return self

  def __exit__(self, *error):
    return self.writer.__exit__(*error)


def agreed(samples) -> Drawn:
  """The (ids, segments) that agrees best with the others, and how far."""
  if len(samples) == 1:
    return Drawn(*samples[0])
  index, fraction = agreement_lib.consensus(samples)
  return Drawn(*samples[index], fraction, agreement_lib.entropy(samples, index))


def numbers(names: Sequence[str]) -> list[int | None]:
  """000000000139.jpg -> 139, where all names are numbers; else None."""
  stems = [pathlib.PurePath(name).stem for name in names]
  if all(stem.isascii() and stem.isdigit() for stem in stems):
    numbers = [int(stem) for stem in stems]
    if len(set(numbers)) == len(numbers):
      return numbers
  return [None] * len(names)


def unique(names: Sequence[str]) -> list[str]:
  """x.jpg, x.jpg -> x.jpg, x_2.jpg: images of two folders."""
  found: list[str] = []
  for name in names:
    path, count = pathlib.PurePath(name), 2
    while name in found:
      name = f'{path.stem}_{count}{path.suffix}'
      count += 1
    found.append(name)
  return found
