"""Large images in overlapping tiles: the windows, and ids stitched together.

Where two neighbouring tiles overlap, things of one class whose parts there
have an IoU above `threshold` are one thing (union-find over all tiles); stuff
is one segment a class. Each pixel is written by the tile whose edge is
farthest, so an overlap is cut in its middle.
"""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from pix2seqd_jax import types
from pix2seqd_jax.encoding import panoptic_ids


class Window(NamedTuple):
  """A tile: `box` is what it sees, `core` what it writes; (rows, columns)."""

  place: tuple[int, int]
  box: tuple[slice, slice]
  core: tuple[slice, slice]

  @property
  def inner(self) -> tuple[slice, slice]:
    """The core in the coordinates of the box."""
    return _inside(self.core, self.box)


def windows(
  size: tuple[int, int],
  tile: int | tuple[int, int],
  overlap: int | tuple[int, int] | None = None,
) -> list[Window]:
  """Tiles that cover an image, evenly spread, row by row.

  Args:
    size: (height, width) of the image.
    tile: a side, or (height, width); a side of the image that is no longer
      is one tile.
    overlap: of neighbours, at least; None is a quarter of the tile.

  Raises:
    ValueError: a side below 2, or an overlap outside 1..side - 1 where the
      image is longer than the side.
  """
  tile = _pair('tile', tile)
  quarter = tuple(max(1, side // 4) for side in tile)
  overlap = quarter if overlap is None else _pair('overlap', overlap)
  for length, side, shared in zip(size, tile, overlap):
    if side < 2 or (length > side and not 1 <= shared < side):
      raise ValueError(
        f'tile={tile} and overlap={overlap}: sides must be at least 2 pixels, '
        'and the overlap at least 1 and less than the side.'
      )
  rows, columns = map(_spans, size, tile, overlap)
  return [
    Window((i, j), (row[0], column[0]), (row[1], column[1]))
    for i, row in enumerate(rows)
    for j, column in enumerate(columns)
  ]


def _pair(name, value):
  pair = (value, value) if isinstance(value, int) else value
  if (
    not isinstance(pair, tuple | list)
    or len(pair) != 2
    or not all(isinstance(side, int) for side in pair)
  ):
    raise ValueError(
      f'{name}={value!r} must be a number of pixels or (height, width).'
    )
  return tuple(pair)


def _spans(length, tile, overlap):
  """(box, core) of each tile along one axis."""
  if length <= tile:
    return [(slice(0, length), slice(0, length))]
  count = -(-(length - overlap) // (tile - overlap))
  starts = [i * (length - tile) // (count - 1) for i in range(count)]
  # The middle of each overlap.
  cuts = [(a + tile + b) // 2 for a, b in itertools.pairwise(starts)]
  cuts = [0, *cuts, length]
  return [
    (slice(start, start + tile), slice(low, high))
    for start, low, high in zip(starts, cuts, cuts[1:])
  ]


class Stitcher:
  """Collects the tiles of one image, row by row; `finish` gives its map.

  Holds the map of the image and those of two rows of tiles.

  Args:
    size: (height, width).
    categories: class c is `categories[c - 1]`.
    threshold: above which two parts are one thing, in [0.5, 1), so that a
      part has at most one partner in a neighbour.
  """

  def __init__(
    self,
    size: tuple[int, int],
    categories: Sequence[types.Category],
    threshold: float = 0.5,
  ):
    if not 0.5 <= threshold < 1:
      raise ValueError(f'threshold={threshold} must lie in [0.5, 1).')
    self.categories, self.threshold = tuple(categories), threshold
    # Every segment of every tile has a number; 0 is void.
    self._numbers = np.zeros(size, np.int32)
    self._parents, self._segments = [0], [types.Segment(0, 0)]
    self._kept: dict[tuple[int, int], tuple[Window, np.ndarray]] = {}

  def add(
    self,
    window: Window,
    ids: np.ndarray,
    segments: Sequence[types.Segment],
  ) -> None:
    """Adds the map of one window; ids that no segment names are void."""
    height, width = (side.stop - side.start for side in window.box)
    if np.shape(ids) != (height, width):
      raise ValueError(
        f'the map of tile {window.place} is {np.shape(ids)}, not '
        f'{(height, width)}.'
      )
    found, _, which = panoptic_ids.ranks(ids)
    fresh = {}
    for segment in segments:
      fresh[segment.id] = len(self._parents)
      self._parents.append(len(self._parents))
      self._segments.append(segment)
    table = [fresh.get(name, 0) for name in found.tolist()]
    numbers = np.take(np.array(table, np.int32), which)
    self._numbers[window.core] = numbers[window.inner]
    row, column = window.place
    for place in ((row, column - 1), (row - 1, column)):
      if place in self._kept:
        self._match(window, numbers, *self._kept[place])
    for place in [p for p in self._kept if p < (row - 1, column)]:
      del self._kept[place]
    self._kept[window.place] = window, numbers

  def finish(
    self, min_pixels: int = 0
  ) -> tuple[np.ndarray, tuple[types.Segment, ...]]:
    """The map of the image, ids 1, 2, ... by class.

    Args:
      min_pixels: segments with fewer, once stitched, become void.

    Returns:
      (ids int32 [h, w], segments). A score is the mean over the pixels.
    """
    self._kept.clear()
    self._merge_stuff()
    roots = np.array([self._root(i) for i in range(len(self._parents))])
    areas = np.bincount(self._numbers.reshape(-1), minlength=len(roots))
    totals = np.bincount(roots, areas)
    scored = [s.score is not None for s in self._segments]
    scores = [s.score or 0.0 for s in self._segments]
    sums = np.bincount(roots, areas * np.array(scores))
    weights = np.bincount(roots, areas * np.array(scored))
    shown = [
      root
      for root in np.unique(roots).tolist()
      if root and totals[root] >= max(1, min_pixels)
    ]
    shown.sort(key=lambda root: (self._segments[root].class_id, root))
    names = np.zeros(len(totals), np.int32)
    names[shown] = np.arange(1, len(shown) + 1)
    segments = tuple(
      self._segments[root]._replace(
        id=i,
        score=float(sums[root] / weights[root]) if weights[root] else None,
      )
      for i, root in enumerate(shown, 1)
    )
    return np.take(names[roots], self._numbers), segments

  def _match(self, a, a_numbers, b, b_numbers):
    """Unites the things that two overlapping tiles share."""
    common = tuple(
      slice(max(x.start, y.start), min(x.stop, y.stop))
      for x, y in zip(a.box, b.box)
    )
    left, a_areas, a_which = panoptic_ids.ranks(
      a_numbers[_inside(common, a.box)]
    )
    right, b_areas, b_which = panoptic_ids.ranks(
      b_numbers[_inside(common, b.box)]
    )
    pairs = a_which * np.int32(len(right)) + b_which
    counts = np.bincount(pairs.reshape(-1), minlength=len(left) * len(right))
    counts = counts.reshape(len(left), len(right))
    unions = a_areas[:, None] + b_areas - counts
    for i, j in np.argwhere(counts > self.threshold * unions).tolist():
      one, other = int(left[i]), int(right[j])
      if one and other and self._kind(one) == self._kind(other):
        self._unite(one, other)

  def _kind(self, number):
    segment = self._segments[number]
    return segment.class_id, segment.is_crowd

  def _merge_stuff(self):
    first: dict = {}
    for number in range(1, len(self._segments)):
      category, _ = kind = self._kind(number)
      if not self.categories[category - 1].is_thing:
        self._unite(first.setdefault(kind, number), number)

  def _root(self, number):
    while self._parents[number] != number:
      self._parents[number] = self._parents[self._parents[number]]
      number = self._parents[number]
    return number

  def _unite(self, one, other):
    one, other = sorted((self._root(one), self._root(other)))
    self._parents[other] = one


def _inside(part, box):
  """A part of the image in the coordinates of a box."""
  return tuple(
    slice(p.start - b.start, p.stop - b.start) for p, b in zip(part, box)
  )
