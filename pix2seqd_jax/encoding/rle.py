"""COCO's run lengths: counts, their string, polygons and maps of ids.

A mask [h, w] is read column by column; `counts` are the lengths of its runs,
the first of them (which may be 0) outside. The rules of the string and of
polygons are those of cocoapi's maskApi.c (arXiv 1405.0312), to the bit.
Nothing here makes a mask for each segment: the work for a map of ids is
O(pixels + runs log runs) in all.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Integer, Shaped

from pix2seqd_jax.encoding.panoptic_ids import run_starts

# int64; odd places are inside. They add up to h * w.
Counts = Integer[np.ndarray, '_']

# Polygons are drawn on a grid five times as fine, then thinned out.
_SCALE = 5.0
# 64 bits in digits of 5, the last with the sign.
_MOST_DIGITS = 13


def from_mask(mask: Bool[np.ndarray, 'h w']) -> Counts:
  """The counts of one mask."""
  flat = np.ravel(mask.T)
  edges = np.flatnonzero(np.diff(flat, prepend=False))
  return np.diff(edges, prepend=0, append=flat.size)


def to_mask(counts: Counts, size: tuple[int, int]) -> Bool[np.ndarray, 'h w']:
  """The inverse of `from_mask`; `size` is (height, width)."""
  inside = np.arange(len(counts)) % 2 == 1
  return np.repeat(inside, counts).reshape(size[::-1]).T


def area(counts: Counts) -> int:
  """How many pixels are inside."""
  return int(counts[1::2].sum())


def check(counts: Any, size: tuple[int, int]) -> Counts:
  """Counts from a file, as int64.

  Raises:
    ValueError: they are no list of whole numbers >= 0, or do not add up to
      the pixels of `size`.
  """
  try:
    found = np.asarray(counts)
  except ValueError as error:  # lists of lists of several lengths
    raise ValueError('counts are no list of whole numbers.') from error
  if found.ndim != 1 or (found.size and found.dtype.kind not in 'iu'):
    raise ValueError('counts are no list of whole numbers.')
  total = size[0] * size[1]
  if found.size and not 0 <= int(found.min()) <= int(found.max()) <= total:
    raise ValueError(
      f'counts reach from {int(found.min())} to {int(found.max())}; they must '
      f'lie in 0..{total}, the pixels of {size[0]} x {size[1]}.'
    )
  found = found.astype(np.int64)
  if int(found.sum()) != total:
    raise ValueError(
      f'counts add up to {int(found.sum())} but {size[0]} x {size[1]} (height '
      f'x width) has {total} pixels.'
    )
  return found


def to_string(counts: Counts) -> str:
  """COCO's compressed counts: differences to the count before last, in digits
  of 5 bits (the 6th says that more follow), as the characters from '0' on."""
  values = counts.astype(np.int64)
  values[3:] -= counts[1:-2]
  codes = np.zeros((len(values), _MOST_DIGITS), np.uint8)
  used = np.zeros(codes.shape, bool)
  rest, open_ = values, np.ones(len(values), bool)
  for k in range(_MOST_DIGITS):
    digit = rest & 31
    rest = rest >> 5
    more = np.where(digit & 16, rest != -1, rest != 0)
    codes[:, k] = digit + 32 * more + 48
    used[:, k] = open_
    open_ = open_ & more
    if not open_.any():
      break
  return codes[used].tobytes().decode('ascii')


def from_string(text: str | bytes) -> Counts:
  """The inverse of `to_string`; negative counts are left to `check`.

  Raises:
    ValueError: a character that is none of the 64, or a cut off end.
  """
  try:
    data = text.encode('ascii') if isinstance(text, str) else bytes(text)
  except UnicodeEncodeError as error:
    raise ValueError(
      'the string of counts has characters beyond ASCII.'
    ) from error
  codes = np.frombuffer(data, np.uint8).astype(np.int64) - 48
  if not codes.size:
    return np.zeros(0, np.int64)
  if codes.min() < 0 or codes.max() > 63:
    raise ValueError("the string of counts has characters outside '0'..'o'.")
  ends = np.flatnonzero(codes & 32 == 0)
  if not ends.size or ends[-1] != codes.size - 1:
    raise ValueError('the string of counts is cut off.')
  starts = np.concatenate([[0], ends[:-1] + 1])
  lengths = ends - starts + 1
  if lengths.max() >= _MOST_DIGITS:
    raise ValueError('the string of counts has a number beyond 59 bits.')
  places = np.arange(codes.size) - np.repeat(starts, lengths)
  values = np.add.reduceat((codes & 31) << 5 * places, starts)
  values -= np.where(codes[ends] & 16, 1 << 5 * lengths, 0)
  # From the fourth on a count is told by its difference to the one before
  # last, so that odd and even places add up on their own.
  values[1::2] = np.cumsum(values[1::2])
  values[2::2] = np.cumsum(values[2::2])
  return values


def from_ids(
  ids: Integer[np.ndarray, 'h w'],
) -> Iterator[tuple[int, Counts]]:
  """(id, counts) of every non-zero id, in rising order, from one pass.

  The counts of all ids together have a length of about twice the runs.
  """
  flat = np.ravel(ids.T)  # the one copy: columns side by side
  total = flat.size
  if not total:
    return
  starts = run_starts(flat)
  values = flat[starts]
  stops = np.append(starts[1:], total)
  order = np.argsort(values, kind='stable')
  values = values[order]
  cuts = np.flatnonzero(np.diff(values)) + 1
  for part in np.split(order, cuts):
    name = int(flat[starts[part[0]]])
    if name:
      yield name, _from_runs(starts[part], stops[part], total)


def _from_runs(starts, stops, total):
  """Runs in rising order, none touching -> counts."""
  edges = np.stack([starts, stops], 1).ravel()
  if edges.size and edges[-1] == total:
    edges = edges[:-1]
  return np.diff(edges, prepend=0, append=total)


def union(parts: Sequence[Counts]) -> Counts:
  """The pixels inside any of several masks of one size."""
  if len(parts) == 1:
    return parts[0]
  edges = [np.cumsum(part) for part in parts]
  total = int(edges[0][-1])
  starts = np.concatenate([e[0:-1:2] for e in edges])
  stops = np.concatenate([e[1::2] for e in edges])
  order = np.argsort(starts, kind='stable')
  keep = stops[order] > starts[order]
  starts, stops = starts[order][keep], stops[order][keep]
  if not starts.size:
    return np.array([total])
  reach = np.maximum.accumulate(stops)
  fresh = np.append(True, starts[1:] > reach[:-1])
  last = np.append(np.flatnonzero(fresh)[1:] - 1, len(starts) - 1)
  return _from_runs(starts[fresh], reach[last], total)


def paint(columns: Shaped[np.ndarray, 'n'], counts: Counts, value: int) -> None:
  """Writes `value` where `counts` are inside, in place.

  Args:
    columns: a map of h * w pixels, column by column: `ids.T.reshape(-1)`.
    counts: of that size.
    value: what is written.
  """
  edges = np.cumsum(counts)
  starts, lengths = edges[0:-1:2], counts[1::2]
  shift = np.repeat(starts - np.cumsum(lengths) + lengths, lengths)
  columns[shift + np.arange(len(shift))] = value


def from_polygon(
  points: Float[np.ndarray, 'n 2'], size: tuple[int, int]
) -> Counts:
  """The pixels of one closed polygon, as pycocotools draws it.

  The boundary is walked on a grid five times as fine; what it crosses in the
  middle of a column of pixels begins or ends a run. What is outside the
  image is cut off.

  Args:
    points: (x, y) in pixels; the middle of the first pixel is (0.5, 0.5).
    size: (height, width).
  """
  h, w = size
  x, y = _walk((_SCALE * points + 0.5).astype(np.int64))
  turned = x[1:] != x[:-1]
  column = np.minimum(x[1:], x[:-1])[turned]
  row = np.minimum(y[1:], y[:-1])[turned]
  column = (column + 0.5) / _SCALE - 0.5
  inside = (np.floor(column) == column) & (column >= 0) & (column <= w - 1)
  column = column[inside].astype(np.int64)
  row = np.clip((row[inside] + 0.5) / _SCALE - 0.5, 0, h)
  edges = np.sort(column * h + np.ceil(row).astype(np.int64))
  # Two edges at one place undo each other, as do those at the very end.
  names, times = np.unique(edges, return_counts=True)
  edges = names[(times % 2 == 1) & (names < h * w)]
  return np.diff(edges, prepend=0, append=h * w)


def _walk(corners):
  """Every point of the fine grid along the closed boundary: (x, y)."""
  begin = corners
  end = np.roll(corners, -1, axis=0)
  delta = np.abs(end - begin)
  flat = delta[:, 0] >= delta[:, 1]
  longer = delta.max(1)
  # Lines are drawn from the lower end of their longer axis, as the reference
  # does, since rounding differs with the direction.
  along = np.where(flat[:, None], begin, begin[:, ::-1])
  to = np.where(flat[:, None], end, end[:, ::-1])
  flip = along[:, 0] > to[:, 0]
  low = np.where(flip[:, None], to, along)
  high = np.where(flip[:, None], along, to)
  slope = (high[:, 1] - low[:, 1]) / np.maximum(longer, 1)
  counts = longer + 1
  line = np.repeat(np.arange(len(counts)), counts)
  step = np.arange(len(line)) - np.repeat(np.cumsum(counts) - counts, counts)
  step = np.where(flip[line], longer[line] - step, step)
  first = step + low[line, 0]
  second = (low[line, 1] + slope[line] * step + 0.5).astype(np.int64)
  x = np.where(flat[line], first, second)
  y = np.where(flat[line], second, first)
  return x, y
