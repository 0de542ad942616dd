"""Masks that users give in part: read, checked, named for the network and back.

The ids of a user are any numbers; a network knows 1..num_ids - 1. What a
segment grew from keeps its user's id, and new segments get ids that are free.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import optimize

from pix2seqd_jax.encoding import panoptic_ids
from pix2seqd_jax.types import Segment

_LARGEST = np.iinfo(np.int32).max


class Partial(NamedTuple):
  """What is given of a mask, at the image's size.

  Attributes:
    ranks: int32 [h, w], the number 1..n of the segment; 0 is void or unknown.
    known: bool [h, w], what is given.
    names: the user's n ids.
  """

  ranks: np.ndarray
  known: np.ndarray
  names: tuple[int, ...]


def read(
  partial: Any, valid: Any, size: tuple[int, int], num_ids: int
) -> Partial:
  """Checks what a user gives.

  Args:
    partial: integers [h, w] of any kind, 0 = nothing is given, else the id of
      a segment; or disjoint bool masks [h, w], the i-th of which gets the id
      i + 1.
    valid: bool [h, w], which pixels are given, with id 0 as void; what
      `partial` says elsewhere does not count. None: those with an id.
    size: (height, width) of the image.
    num_ids: ids of the network, 0 included.

  Raises:
    ValueError: another size or type, negative ids, overlapping masks, or more
      segments than the network has ids for.
  """
  if _is_list_of_masks(partial):
    partial = join(partial, size)
  ids = np.asarray(partial)
  if ids.dtype.kind not in 'iu':
    raise ValueError(
      f'partial is {ids.dtype}; give whole numbers, the ids of segments with 0 '
      'where nothing is known, or a list of bool masks [h, w], one a segment.'
    )
  _check_size('partial', ids, size)
  if valid is None:
    known = ids > 0
  else:
    known = np.asarray(valid)
    if known.dtype != bool:
      raise ValueError(
        f'valid is {known.dtype}; give bool [h, w], True where partial counts.'
      )
    _check_size('valid', known, size)
  if ids.size and (ids.min() < 0 or ids.max() > _LARGEST):
    raise ValueError(
      f'partial has the ids {ids.min()} to {ids.max()}; they must be 0 '
      f'(unknown) to {_LARGEST}.'
    )
  told = np.where(known, ids, 0).astype(np.int32)
  found, _, ranks = panoptic_ids.ranks(told)
  if not (found.size and found[0] == 0):
    ranks = ranks + 1  # nothing is void or unknown
  names = tuple(found[found > 0].tolist())
  if len(names) > num_ids - 1:
    raise ValueError(
      f'partial has {len(names)} segments but this model knows '
      f'{num_ids - 1} ids (data.num_ids={num_ids}); give '
      'fewer, or one part of the image at a time.'
    )
  return Partial(ranks.astype(np.int32), known, names)


def _is_list_of_masks(partial) -> bool:
  if isinstance(partial, np.ndarray):
    return partial.dtype == bool and partial.ndim == 3
  if not isinstance(partial, list | tuple):
    return False
  return all(np.asarray(mask).dtype == bool for mask in partial) and all(
    np.ndim(mask) == 2 for mask in partial
  )


def join(masks: Sequence[Any], size: tuple[int, int]) -> np.ndarray:
  """Disjoint bool masks [h, w] -> ids 1, 2, ... in their order, int32.

  Raises:
    ValueError: a mask of another size, or two that overlap.
  """
  ids = np.zeros(size, np.int32)
  for number, mask in enumerate(masks, 1):
    mask = np.asarray(mask)
    _check_size(f'partial[{number - 1}]', mask, size)
    taken = ids[mask]
    if taken.any():
      counts = np.bincount(taken)
      counts[0] = 0
      other = int(counts.argmax())
      raise ValueError(
        f'partial[{other - 1}] and partial[{number - 1}] overlap in '
        f'{counts[other]} pixels; a pixel has one segment: cut them from one '
        'of the two.'
      )
    ids[mask] = number
  return ids


def _check_size(name, array, size):
  if array.shape != tuple(size):
    raise ValueError(
      f'{name} is {array.shape} but the image {tuple(size)}; give one value '
      'for each pixel of the image.'
    )


def named_at_random(num: int, num_ids: int, seed: int) -> np.ndarray:
  """Distinct ids 1..num_ids - 1 for `num` segments, as in training."""
  ids = np.random.default_rng(seed).permutation(num_ids - 1) + 1
  return ids[:num].astype(np.int32)


def named_as_seen(
  partial: Partial, seen: np.ndarray, num_ids: int
) -> np.ndarray:
  """The ids that the network itself gives to the segments.

  For networks whose ids follow from the image (by size, say): one to one, so
  that most pixels agree with what it says without being told anything. What
  meets none of its segments gets an id that it does not use, where there is.

  Args:
    partial: n segments.
    seen: int [h, w], what it says, of the same size.
    num_ids: ids of the network, 0 included.

  Returns:
    int32 [n].
  """
  num = len(partial.names)
  pairs = partial.ranks.astype(np.int64) * num_ids + seen
  counts = np.bincount(pairs.reshape(-1), minlength=(num + 1) * num_ids)
  counts = counts.reshape(num + 1, num_ids)
  used = counts.any(0)
  scores = counts[1:, 1:] - 0.5 * used[1:]
  _, columns = optimize.linear_sum_assignment(scores, maximize=True)
  return (columns + 1).astype(np.int32)


def at_mask_size(
  partial: Partial,
  names: np.ndarray,
  *,
  unpadded: tuple[int, int],
  padded: tuple[int, int],
  mask_size: tuple[int, int],
) -> tuple[np.ndarray, np.ndarray]:
  """(ids int32, known bool), [hm, wm], in the network's names.

  By the nearest pixel; where that is not given but others of the same pixel of
  the mask are, as with scattered points, by what most of them say.

  Args:
    partial: at the image's size.
    names: the network's id for each of its segments.
    unpadded: (h, w) of the resized image within the padded one.
    padded: (h, w) of that.
    mask_size: (h, w) of masks, which cover the padded image.
  """
  table = np.array([0, *names], np.int32)
  # One number says both: 0 unknown, 1 void, 1 + rank.
  coded = np.where(partial.known, partial.ranks + 1, 0)
  near = np.zeros(padded, np.int64)
  near[: unpadded[0], : unpadded[1]] = panoptic_ids.resize_nearest(
    coded, tuple(unpadded)
  )
  near = panoptic_ids.resize_nearest(near, tuple(mask_size))
  near = _filled(near, coded, unpadded, padded)
  return table[np.maximum(near - 1, 0)], near > 0


def _filled(near, coded, unpadded, padded):
  """`near`, and where that is 0 the code of most pixels that fall there."""
  places = np.nonzero(coded)
  # The pixel's centre, in pixels of the mask; in whole numbers.
  cells = tuple(
    (2 * place + 1) * inner * side // (2 * length * outer)
    for place, length, inner, outer, side in zip(
      places, coded.shape, unpadded, padded, near.shape, strict=True
    )
  )
  empty = near[cells] == 0
  flat = np.ravel_multi_index(cells, near.shape)[empty]
  span = int(coded.max(initial=0)) + 1
  pairs, counts = np.unique(
    flat * span + coded[places][empty], return_counts=True
  )
  filled = near.copy()
  order = pairs[np.argsort(counts, kind='stable')]  # the last one stays
  filled.reshape(-1)[order // span] = order % span
  return filled


def named_back(
  ids: np.ndarray,
  segments: Sequence[Segment],
  instance: np.ndarray,
  partial: Partial,
  names: np.ndarray,
) -> tuple[np.ndarray, tuple[Segment, ...]]:
  """Segments with the user's ids; new ones get the smallest that are free.

  Args:
    ids: int32 [h, w], the segments by number.
    segments: names the numbers.
    instance: int [h, w], the network's ids; one for each segment.
    partial: what was given.
    names: the network's ids of its segments.

  Returns:
    (ids int32 [h, w] with 0 = void, the segments in the order of their ids).
  """
  users = dict(zip(names.tolist(), partial.names, strict=True))
  reserved, free = set(partial.names), 1
  table = np.zeros(int(ids.max(initial=0)) + 1, np.int32)
  _, first = np.unique(ids, return_index=True)
  network = dict(
    zip(ids.reshape(-1)[first].tolist(), instance.reshape(-1)[first].tolist())
  )
  found = []
  for segment in segments:
    name = users.pop(network[segment.id], None)
    if name is None:
      while free in reserved:
        free += 1
      name = free
      reserved.add(free)
    table[segment.id] = name
    found.append(segment._replace(id=name))
  return table[ids], tuple(sorted(found, key=lambda s: s.id))
