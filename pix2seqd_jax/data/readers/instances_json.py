"""The JSON of COCO's instances, checked entry by entry."""

import itertools
import math
from typing import NamedTuple

import numpy as np

from pix2seqd_jax.data.formats.categories import short
from pix2seqd_jax.data.formats.faults import RULES, DataError, Fault, refuse
from pix2seqd_jax.data.readers.panoptic_json import PanopticJson, lacks
from pix2seqd_jax.encoding import rle

_LARGEST_SCORE = 1e9
RULES['bad_segmentation'] = "an annotation's polygons or runs are malformed"


class Shapes(NamedTuple):
  """The annotations of all images, flat: COCO has 900,000."""

  names: list  # the annotations' own ids
  classes: np.ndarray  # int32, 1..num_classes
  crowd: np.ndarray  # bool
  score: np.ndarray  # float64, NaN where there is none
  points: np.ndarray  # float64 [n, 2], (x, y) of all polygons
  rings: np.ndarray  # [polygons + 1], into points
  parts: np.ndarray  # [annotations + 1], into rings
  runs: dict[int, dict]  # of annotations with run lengths instead

  def counts(self, i: int, size: tuple[int, int], where: str) -> np.ndarray:
    """The run lengths of annotation number i in an image of `size`.

    Raises:
      ValueError: it cannot be drawn there; names the annotation.
    """
    try:
      if i in self.runs:
        return _decoded(self.runs[i], size)
      first, last = self.parts[i], self.parts[i + 1]
      bounds = self.rings[first : last + 1]
      _check_near(self.points[bounds[0] : bounds[-1]], size)
      return rle.union(
        [
          rle.from_polygon(self.points[start:end], size)
          for start, end in itertools.pairwise(bounds)
        ]
      )
    except ValueError as error:
      message = f'{where}: annotation {self.names[i]!r}: {error}'
      raise DataError(Fault('bad_segmentation', where, message)) from error


class InstancesJson(PanopticJson):
  """Images, annotations and categories, as a flat table.

  Args:
    data: what was read from the file.
    where: the file, for messages.
    report: see `faults`.
    max_examples: images that are kept; None for all.

  Attributes:
    categories: the classes; all are things, whatever `isthing` says.
    images: file names of the images.
    image_ids: their ids.
    sizes: {image id: (height, width)}, those that the JSON gives.
    starts: [images + 1], into the shapes.
    shapes: the annotations, image by image.

  Raises:
    ValueError: a list is missing, or `report` does.
  """

  def __init__(self, data, where, report, *, max_examples=None):
    self.where, self.report, self.details = where, report, True
    self.sizes = {}
    for key in ('images', 'annotations', 'categories'):
      if not isinstance(data, dict) or not isinstance(data.get(key), list):
        refuse(
          'bad_entry',
          where,
          f'{where} has no list {key!r}; a COCO instances JSON has images, '
          'annotations and categories.',
        )
    self.categories, self._classes = self.read_categories(data['categories'])
    names = self._read_images(data['images'])
    if not names:
      refuse('bad_entry', where, f'{where} has no images.')
    self.image_ids = list(names)[:max_examples]
    self.images = [names[key] for key in self.image_ids]
    found = self._by_image(data['annotations'], names)
    self.starts = np.cumsum([0, *(len(part) for part in found)])
    self.shapes = _flat([entry for part in found for entry in part])

  def read_categories(self, entries):
    if isinstance(entries, list):
      entries = [
        {**entry, 'isthing': 1} if isinstance(entry, dict) else entry
        for entry in entries
      ]
    return super().read_categories(entries)

  def _by_image(self, annotations, names):
    """Sound annotations of each image: (name, class, crowd, score, shape)."""
    places = {key: i for i, key in enumerate(self.image_ids)}
    found, seen = [[] for _ in self.image_ids], set()
    for i, annotation in enumerate(annotations):
      entry = self._read_annotation(annotation, i, names, seen)
      if entry is not None and annotation['image_id'] in places:
        found[places[annotation['image_id']]].append(entry)
    return found

  def _read_annotation(self, annotation, i, names, seen):
    where, report = self.where, self.report
    problem = lacks(annotation, {'image_id': (int, str), 'category_id': int})
    if problem:
      report('bad_entry', where, f'{where}: annotations[{i}] {problem}')
      return None
    # Lists of results name no annotation.
    name = annotation.get('id', f'number {i}')
    label = f'{where}: annotation {short(name)}'
    if annotation['image_id'] not in names:
      report(
        'unknown_image',
        where,
        f'{label} is of image_id={annotation["image_id"]!r}, which has no '
        'entry in images.',
      )
      return None
    if not isinstance(name, int | str) or name in seen:
      report(
        'duplicate_annotation',
        where,
        f'{label}: its id is that of another one, or neither number nor text.',
      )
      return None
    seen.add(name)
    if annotation['category_id'] not in self._classes:
      report(
        'unknown_category',
        where,
        f'{label} is of category {annotation["category_id"]}, which is not '
        'among the categories; add it there.',
      )
      return None
    crowd, score = annotation.get('iscrowd', 0), annotation.get('score')
    shape, problem = _shape(annotation.get('segmentation'))
    rule = 'bad_segmentation' if problem else 'bad_entry'
    if crowd not in (0, 1):
      problem = f'iscrowd={short(crowd)} must be 0 or 1.'
    if score is not None and not (
      isinstance(score, int | float) and abs(score) <= _LARGEST_SCORE
    ):
      problem = f'score={short(score)} must be a number.'
    if problem:
      report(rule, where, f'{label}: {problem}')
      return None
    number = self._classes[annotation['category_id']]
    return name, number, bool(crowd), score, shape


def _shape(segmentation):
  """(a list of polygons [n, 2] or a dict of runs, what is wrong or '')."""
  if isinstance(segmentation, dict):
    size, counts = segmentation.get('size'), segmentation.get('counts')
    if not (
      isinstance(size, list)
      and len(size) == 2
      and all(type(side) is int for side in size)
      and isinstance(counts, list | str)
    ):
      return None, (
        'run lengths need size [height, width] and counts, a list or a string.'
      )
    return segmentation, ''
  if not isinstance(segmentation, list) or not segmentation:
    return None, (
      f'segmentation={short(segmentation)} must be a list of polygons or an '
      'object with size and counts.'
    )
  rings = []
  for ring in segmentation:
    try:
      points = np.asarray(ring)
    except (ValueError, OverflowError):
      points = np.zeros(0)
    if (
      points.ndim != 1
      or points.dtype.kind not in 'iuf'
      or len(points) < 6
      or len(points) % 2
      or not np.isfinite(points).all()
    ):
      return None, (
        f'the polygon {short(ring)} must be a list x, y, x, y, ... of at least '
        'three points.'
      )
    rings.append(points.astype(np.float64).reshape(-1, 2))
  return rings, ''


def _flat(entries):
  """Entries of all images -> Shapes."""
  points, rings, parts, runs = [], [0], [0], {}
  for i, (*_, shape) in enumerate(entries):
    if isinstance(shape, dict):
      runs[i] = shape
    else:
      points += shape
      for ring in shape:
        rings.append(rings[-1] + len(ring))
    parts.append(len(rings) - 1)
  scores = [math.nan if e[3] is None else e[3] for e in entries]
  return Shapes(
    [e[0] for e in entries],
    np.array([e[1] for e in entries], np.int32),
    np.array([e[2] for e in entries], bool),
    np.array(scores, np.float64),
    np.concatenate(points) if points else np.zeros((0, 2)),
    np.array(rings),
    np.array(parts),
    runs,
  )


def _decoded(runs, size):
  if tuple(runs['size']) != tuple(size):
    raise ValueError(
      f'its run lengths are of {runs["size"][0]} x {runs["size"][1]} but the '
      f'image is {size[0]} x {size[1]} (height x width).'
    )
  counts = runs['counts']
  if isinstance(counts, str):
    counts = rle.from_string(counts)
  return rle.check(counts, size)


def _check_near(points, size):
  """What lies farther out would only cost time: the boundary is walked."""
  side = max(size)
  if points.min() < -side or points.max() > 2 * side:
    raise ValueError(
      f'its polygon reaches from {points.min():g} to {points.max():g}, far '
      f'from an image of {size[0]} x {size[1]} (height x width).'
    )
