"""From the ids of an example to the class and instance maps that are learned.

Every segment, stuff too, gets a non-zero id (Pix2Seq-D, arXiv 2210.06366): the
class of an id is read out by majority, and id 0 is void.
"""

import dataclasses
import warnings

import numpy as np

from pix2seqd_jax.encoding.panoptic_ids import resize_nearest
from pix2seqd_jax.registry import did_you_mean

ID_ORDERS = ('random', 'raster', 'centroid', 'area', 'grid')


@dataclasses.dataclass(frozen=True)
class Labels:
  """Adds `semantic` and `instance`, int32 at mask resolution `size`.

  Crowd segments become void. Where more than num_ids - 1 segments show,
  the largest are kept and the rest becomes void; `counts` says how often, and
  a warning says so once.

  `id_order` names the segments that show, after crop and flip:
    'random': fresh distinct ids out of 1..num_ids - 1 (the paper);
    'raster': 1, 2, ... by their first pixel, row by row from the top left;
    'centroid': 1, 2, ... by the row of their centre of mass, then its column;
    'area': 1, 2, ... from the largest to the smallest;
    'grid': the cell, out of a grid of as many cells as there are ids, that
      holds the centre of mass, so that nothing has to be counted. Where two
      meet, the larger one keeps the cell and the other takes the nearest that
      is free.

  `stuff` holds the numbers of classes that have ids of their own: the largest
  segment of the i-th of them is always i, and the order begins behind them.
  The reference gives none.
  """

  size: tuple[int, int]
  num_ids: int
  id_order: str = 'random'
  stuff: tuple[int, ...] = ()
  counts: dict = dataclasses.field(
    default_factory=dict, init=False, compare=False, repr=False
  )

  def __post_init__(self):
    size = (self.size,) * 2 if isinstance(self.size, int) else self.size
    if len(tuple(size)) != 2 or min(size) < 1:
      raise ValueError(f'labels: size={size} must be (height, width) >= 1.')
    object.__setattr__(self, 'size', tuple(int(n) for n in size))
    if self.num_ids < 2:
      raise ValueError(
        f'labels: num_ids={self.num_ids} counts the null id 0, so '
        'it must be at least 2.'
      )
    if self.id_order not in ID_ORDERS:
      raise ValueError(
        f'labels: id_order={self.id_order!r} is unknown.'
        f'{did_you_mean(self.id_order, ID_ORDERS)} '
        f'Known: {", ".join(ID_ORDERS)}.'
      )

  def __call__(self, example, rng):
    ids = resize_nearest(example['ids'], self.size)
    segments = [s for s in example['segments'] if not s.is_crowd]
    largest = max([s.id for s in example['segments']], default=0)
    areas = np.bincount(ids.ravel(), minlength=largest + 1)
    classes = np.zeros(len(areas), np.int32)
    for segment in segments:
      classes[segment.id] = segment.class_id
    shown = np.flatnonzero((areas > 0) & (classes > 0))
    shown = self._largest(shown, areas, example.get('file'))
    names = self._own(shown, classes, areas)
    free = self._free(names, len(shown))
    rest = shown[names[shown] == 0]
    if self.id_order == 'grid':
      names[rest] = _cells(rest, ids, areas, free)
    elif self.id_order == 'random':
      names[rest] = rng.permutation(free)[: len(rest)]
    else:
      names[self._ordered(rest, ids, areas)] = free[: len(rest)]
    classes = np.where(names > 0, classes, 0)
    semantic, instance = classes.take(ids), names.take(ids)
    return example | {'semantic': semantic, 'instance': instance}

  def _largest(self, shown, areas, file):
    package = self.num_ids - 1
    if len(shown) <= package:
      return shown
    self.counts['overfull'] = self.counts.get('overfull', 0) + 1
    if self.counts['overfull'] == 1:
      warnings.warn(
        f'{file} shows {len(shown)} segments but data.num_ids='
        f'{self.num_ids} names {package}: the {package} largest are kept, '
        'the rest is void. Said once; set data.num_ids higher to keep '
        'all.',
        stacklevel=2,
      )
    order = np.argsort(-areas[shown], kind='stable')
    return np.sort(shown[order[:package]])

  def _own(self, shown, classes, areas):
    """Names of the segments whose class has an id of its own, 0 elsewhere."""
    names = np.zeros(len(areas), np.int32)
    for i, number in enumerate(self.stuff[: self.num_ids - 1]):
      of_class = shown[classes[shown] == number]
      if len(of_class):
        names[of_class[np.argmax(areas[of_class])]] = i + 1
    return names

  def _free(self, names, count):
    """The ids for all other segments; those of absent classes come last."""
    taken = int((names > 0).sum())
    ids = np.arange(1, self.num_ids)
    behind = ids[len(self.stuff) :]
    if count - taken <= len(behind):
      return behind
    absent = np.setdiff1d(ids[: len(self.stuff)], names)
    return np.concatenate([behind, absent])

  def _ordered(self, shown, ids, areas):
    if self.id_order == 'area':
      return shown[np.argsort(-areas[shown], kind='stable')]
    if self.id_order == 'raster':
      first = np.full(len(areas), ids.size)
      # Of repeated indices the last assignment stays: go backwards.
      first[ids.ravel()[::-1]] = np.arange(ids.size)[::-1]
      return shown[np.argsort(first[shown], kind='stable')]
    if self.id_order == 'centroid':
      y, x = _centres(shown, ids, areas)
      return shown[np.lexsort((x, y))]
    return shown


def _centres(shown, ids, areas):
  """Centres of mass in pixels: (rows, columns), each [len(shown)]."""
  h, w = ids.shape
  rows, columns = np.repeat(np.arange(h), w), np.tile(np.arange(w), h)
  return tuple(
    np.bincount(ids.ravel(), where, len(areas))[shown] / areas[shown]
    for where in (rows, columns)
  )


def _cells(shown, ids, areas, free):
  """One of the ids `free` for each segment, by place; the largest first."""
  rows = max(1, int(np.sqrt(len(free))))
  columns = len(free) // rows
  y, x = _centres(shown, ids, areas)
  y = (y + 0.5) / ids.shape[0] * rows
  x = (x + 0.5) / ids.shape[1] * columns
  cells = np.arange(rows * columns)
  far = np.hypot(
    cells // columns + 0.5 - y[:, None], cells % columns + 0.5 - x[:, None]
  )
  spare = list(free[len(cells) :])
  names = np.zeros(len(shown), np.int32)
  for i in np.argsort(-areas[shown], kind='stable'):
    cell = int(np.argmin(far[i]))
    if np.isfinite(far[i, cell]):
      far[:, cell] = np.inf
      names[i] = free[cell]
    else:  # every cell is taken
      names[i] = spare.pop()
  return names
