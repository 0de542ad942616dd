"""Panoptic Quality, https://arxiv.org/abs/1801.00868, by panopticapi's rules.

    PQ = sum of IoU over TP / (TP + FP / 2 + FN / 2) = SQ * RQ           (eq. 1)

One pass over the two maps instead of a loop over segments: maps are piecewise
constant, so they are cut into runs along which both ids stay the same, and one
bincount of the runs gives the areas of all intersections at once.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Int, Integer

from pix2seqd_jax import types
from pix2seqd_jax.metrics import wire
from pix2seqd_jax.registry import METRICS

# What every segment is when classes do not count.
ANY = (types.Category(1, 'any', True),)
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_COUNTS = ('tp', 'fp', 'fn', 'iou')


@METRICS.register('panoptic_quality')
@wire.portable
class PanopticQuality(NamedTuple):
  """Counts of each class; they add up over images and over processes.

  `tp`, `fp`, `fn` are int64 [num_classes], `iou` float64 [num_classes], the
  sum of the IoU of the true positives. Row c - 1 is class c. `categories` is
  not counted but compared: states of other classes refuse to merge.
  """

  tp: np.ndarray
  fp: np.ndarray
  fn: np.ndarray
  iou: np.ndarray
  categories: tuple[types.Category, ...]

  @classmethod
  def empty(cls, categories: Sequence[types.Category]) -> 'PanopticQuality':
    """The state of no image, neutral in `merge`."""
    zeros = np.zeros(len(categories), np.int64)
    return cls(zeros, zeros, zeros, zeros.astype(np.float64), tuple(categories))

  @classmethod
  def from_maps(
    cls,
    truth_ids: Integer[np.ndarray, 'h w'],
    truth_segments: Sequence[types.Segment],
    pred_ids: Integer[np.ndarray, 'h2 w2'],
    pred_segments: Sequence[types.Segment],
    categories: Sequence[types.Category],
    *,
    truth_areas: Mapping[int, int] | None = None,
    class_agnostic: bool = False,
  ) -> 'PanopticQuality':
    """The state of one image.

    A predicted and a true segment of one class match when IoU > 0.5, where
    the union leaves out predicted pixels on void of the truth. A crowd is
    never matched and never missed; an unmatched prediction is not counted
    when more than half of it lies on void and on the crowd of its own class.
    As in panopticapi, that is the last one listed where a class has several
    crowds, and a true segment without pixels is missed. Unlike there, a pixel
    of the truth with an unlisted id is an error.

    Args:
      truth_ids: ids of the segments, 0 = void.
      truth_segments: names every id in `truth_ids`.
      pred_ids: likewise of the prediction.
      pred_segments: names every id in `pred_ids`, and no other.
      categories: class c is `categories[c - 1]`.
      truth_areas: id -> area in pixels, where an annotation states areas that
        its map does not have; panopticapi trusts the annotation. By default
        the pixels are counted.
      class_agnostic: all segments are of one class, `ANY`.

    Raises:
      ValueError: maps of two shapes, ids and segments that do not agree, a
        class that `categories` does not have.
    """
    if truth_ids.shape != pred_ids.shape:
      raise ValueError(
        f'the truth is {truth_ids.shape} and the prediction '
        f'{pred_ids.shape}; read the prediction out at the original size.'
      )
    if class_agnostic:
      truth_segments = [s._replace(class_id=1) for s in truth_segments]
      pred_segments = [s._replace(class_id=1) for s in pred_segments]
      categories = ANY
    num_classes = len(categories)
    truth = _Table.of(truth_segments, num_classes, 'truth')
    pred = _Table.of(pred_segments, num_classes, 'prediction')
    overlap = intersections(truth_ids, truth.ids, pred_ids, pred.ids)
    areas = overlap.sum(axis=1)[1:]
    if truth_areas is not None:
      areas = np.array([truth_areas[s.id] for s in truth_segments], np.int64)
    _check_used(pred.ids, overlap.sum(axis=0)[1:])
    counts = _count(overlap, areas, truth, pred, num_classes)
    return cls(*counts, tuple(categories))

  def merge(self, other: 'PanopticQuality') -> 'PanopticQuality':
    """The counts of both; raises ValueError when their classes differ."""
    if self.categories != other.categories:
      raise ValueError(
        f'states of {len(self.categories)} and {len(other.categories)} '
        'classes, or of other names, do not merge; give both the same '
        'categories.'
      )
    sums = (getattr(self, k) + getattr(other, k) for k in _COUNTS)
    return PanopticQuality(*sums, self.categories)

  def per_class(self) -> dict[str, np.ndarray]:
    """'pq', 'sq', 'rq': float64 [num_classes]; 0 for a class never seen."""
    half = self.tp + 0.5 * self.fp + 0.5 * self.fn
    return {
      'pq': self.iou / np.where(half, half, 1.0),
      'sq': self.iou / np.maximum(self.tp, 1),
      'rq': self.tp / np.where(half, half, 1.0),
    }

  def compute(self, per_class: bool = True) -> dict[str, float]:
    """'pq', 'sq', 'rq', the same for '_things' and '_stuff', and each class.

    Means are over the classes with any TP, FP or FN, as in panopticapi; of
    none it is 0. Keys of things (of stuff) are left out where no category is
    a thing (is stuff). Classes are 'pq_class/<name>' and so on.
    """
    scores = self.per_class()
    seen = (self.tp + self.fp + self.fn) > 0
    is_thing = np.array([c.is_thing for c in self.categories], bool)
    result = {}
    everything = np.ones_like(is_thing)
    groups = (('', everything), ('_things', is_thing), ('_stuff', ~is_thing))
    for suffix, group in groups:
      if suffix and not group.any():
        continue
      for key, values in scores.items():
        some = values[group & seen]
        result[key + suffix] = float(some.mean()) if some.size else 0.0
    if per_class:
      for key, values in scores.items():
        for name, value in zip(wire.unique_names(self.categories), values):
          result[f'{key}_class/{name}'] = float(value)
    return result


class _Table(NamedTuple):
  """Segments as arrays [n]."""

  ids: np.ndarray
  rows: np.ndarray  # class number - 1
  is_crowd: np.ndarray

  @classmethod
  def of(cls, segments, num_classes: int, side: str) -> '_Table':
    names = [s.id for s in segments]
    categories = np.array([s.class_id for s in segments], np.int64)
    bad = (categories < 1) | (categories > num_classes)
    if bad.any():
      raise ValueError(
        f'a segment of the {side} has class {categories[bad][0]}, but classes '
        f'are 1..{num_classes}; map it, or leave its pixels void (0).'
      )
    if len({0, *names}) <= len(names):
      raise ValueError(
        f'ids of the segments of the {side} must differ and not be 0 (void); '
        f'got {sorted(names)}.'
      )
    crowd = np.array([s.is_crowd for s in segments], bool)
    return cls(np.array(names, np.int64), categories - 1, crowd)


def intersections(
  truth_ids: Integer[np.ndarray, 'h w'],
  truth_list: Int[np.ndarray, ' n'],
  pred_ids: Integer[np.ndarray, 'h w'],
  pred_list: Int[np.ndarray, ' m'],
) -> Int[np.ndarray, 'n+1 m+1']:
  """Pixels that each pair of segments shares; row and column 0 are void.

  Raises ValueError when a map holds an id that its list does not have.
  """
  truth, pred = truth_ids.ravel(), pred_ids.ravel()
  change = truth[1:] != truth[:-1]
  change |= pred[1:] != pred[:-1]
  starts = np.flatnonzero(change) + 1
  if truth.size:
    starts = np.concatenate([[0], starts])
  lengths = np.diff(starts, append=truth.size)
  rows = positions(truth[starts], truth_list, 'truth')
  columns = positions(pred[starts], pred_list, 'prediction')
  shape = (len(truth_list) + 1, len(pred_list) + 1)
  pairs = rows * shape[1] + columns
  # Weights are float64: exact up to 2**53 pixels.
  counts = np.bincount(pairs, lengths, shape[0] * shape[1])
  return counts.astype(np.int64).reshape(shape)


def positions(
  values: Integer[np.ndarray, '*s'], ids: Int[np.ndarray, ' n'], side: str
) -> Int[np.ndarray, '*s']:
  """Where each value of a map stands in [0 (void), *ids].

  Raises ValueError, which names the `side`, when a value stands nowhere.
  """
  listed = np.concatenate([[0], ids])
  # Fibonacci hashing, with as many bits as make it free of collisions: a look
  # into a small table, where a binary search costs ten times as much.
  bits = len(listed).bit_length() + 4
  while len(set(_slots(listed, bits).tolist())) < len(listed):
    bits += 1
  table = np.zeros(1 << bits, np.int64)
  table[_slots(listed, bits)] = np.arange(len(listed))
  found = table[_slots(values, bits)]
  unlisted = listed[found] != values
  if unlisted.any():
    missing = np.unique(values[unlisted])[:5].tolist()
    raise ValueError(
      f'the map of the {side} holds ids that no segment names: {missing}; '
      'list them, or set their pixels to 0 (void).'
    )
  return found


def _slots(values, bits: int) -> np.ndarray:
  """The high bits of values times 2**64 / golden ratio; int64."""
  product = values.astype(np.uint64) * _GOLDEN
  return (product >> np.uint64(64 - bits)).view(np.int64)


def _check_used(ids, areas) -> None:
  if (areas == 0).any():
    raise ValueError(
      f'predicted segments {ids[areas == 0][:5].tolist()} have no pixel in '
      'the map; leave them out of the list.'
    )


def _count(overlap, areas, truth: _Table, pred: _Table, num_classes: int):
  """tp, fp, fn, iou of one image, [num_classes] each."""
  on_void = overlap[0, 1:]
  pred_areas = overlap.sum(axis=0)[1:]
  i, j = np.nonzero(overlap[1:, 1:])
  same = (truth.rows[i] == pred.rows[j]) & ~truth.is_crowd[i]
  i, j = i[same], j[same]
  shared = overlap[i + 1, j + 1]
  union = areas[i] + pred_areas[j] - shared - on_void[j]
  # A union can only be empty where a stated area is wrong.
  iou = shared / np.maximum(union, 1)
  hit = iou > 0.5
  i, j, iou = i[hit], j[hit], iou[hit]

  missed = ~truth.is_crowd
  missed[i] = False
  crowd_of_class = np.zeros(num_classes, np.int64)  # 0: void, which has none
  for segment in np.flatnonzero(truth.is_crowd):  # of several, the last
    crowd_of_class[truth.rows[segment]] = segment + 1
  crowd = crowd_of_class[pred.rows]
  columns = np.arange(1, len(pred.ids) + 1)
  ignored = on_void + np.where(crowd > 0, overlap[crowd, columns], 0)
  wrong = ignored / pred_areas <= 0.5
  wrong[j] = False

  def tally(rows, weights=None):
    return np.bincount(rows, weights, num_classes)

  tp = tally(truth.rows[i]).astype(np.int64)
  fp = tally(pred.rows[wrong]).astype(np.int64)
  fn = tally(truth.rows[missed]).astype(np.int64)
  return tp, fp, fn, tally(truth.rows[i], iou).astype(np.float64)
