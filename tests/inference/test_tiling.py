"""Tiles: every pixel is written by one; a truth cut up is whole again."""

import numpy as np
import pytest
from scipy import ndimage

from pix2seqd_jax.inference import tiling
from pix2seqd_jax.types import Category, Segment

CATEGORIES = (Category(1, 'thing', True), Category(2, 'stuff', False))
ODD = [
  ((40, 60), 16, 4),
  ((33, 47), (10, 20), (1, 7)),
  ((9, 70), 16, 15),
  ((16, 16), 16, 8),
  ((1, 5), 3, 1),
  ((50, 31), 17, None),
]


def scene(size, seed=0):
  """Connected things of any form on stuff, with void between; a truth."""
  rng = np.random.default_rng(seed)
  noise = ndimage.gaussian_filter(rng.standard_normal(size), 1.5)
  things, count = ndimage.label(noise > 0.02)
  ids = np.where(things, things + 1, noise < -0.03).astype(np.int32)
  segments = [Segment(1, 2, score=0.5)] if (ids == 1).any() else []
  segments += [Segment(i, 1, score=i / 1000) for i in range(2, count + 2)]
  return ids, segments


def cut(ids, segments, window, rng):
  """What a perfect model says of a window, in numbers of its own."""
  part = ids[window.box]
  names = np.unique(part[part > 0])
  fresh = rng.permutation(np.arange(1, len(names) + 1)) * 7
  table = np.zeros(ids.max() + 1, np.int32)
  table[names] = fresh
  known = {s.id: s for s in segments}
  return table[part], [
    known[n]._replace(id=int(m)) for n, m in zip(names.tolist(), fresh)
  ]


def stitched(size, ids, segments, tile, overlap, min_pixels=0):
  rng = np.random.default_rng(5)
  stitcher = tiling.Stitcher(size, CATEGORIES)
  for window in tiling.windows(size, tile, overlap):
    stitcher.add(window, *cut(ids, segments, window, rng))
  return stitcher.finish(min_pixels)


@pytest.mark.parametrize('size, tile, overlap', ODD)
def test_every_pixel_is_written_once_by_a_tile_that_sees_it(
  size, tile, overlap
):
  written = np.zeros(size, int)
  shapes = set()
  for window in tiling.windows(size, tile, overlap):
    written[window.core] += 1
    inside = np.zeros(size, bool)
    inside[window.box] = True
    assert inside[window.core].all()
    shapes.add(inside.sum())
  assert (written == 1).all()
  assert len(shapes) == 1  # one shape, one compilation


@pytest.mark.parametrize('size, tile, overlap', ODD)
@pytest.mark.parametrize('seed', range(3))
def test_a_truth_cut_into_tiles_is_the_truth_again(size, tile, overlap, seed):
  ids, segments = scene(size, seed)
  found, named = stitched(size, ids, segments, tile, overlap)
  pairs = {*zip(ids.ravel().tolist(), found.ravel().tolist())}
  assert len(pairs) == len(np.unique(ids)) == len(np.unique(found))
  assert all((a == 0) == (b == 0) for a, b in pairs)
  assert [s.id for s in named] == list(range(1, len(named) + 1))
  known = {s.id: s for s in segments}
  back = {b: known[a] for a, b in pairs if a}
  for segment in named:
    theirs = back[segment.id]
    assert segment.class_id == theirs.class_id
    assert segment.score == pytest.approx(theirs.score)


def test_small_segments_are_dropped_when_they_are_whole():
  size = (12, 40)
  ids = np.zeros(size, np.int32)
  ids[5, :], ids[0, 0:3] = 1, 2
  segments = [Segment(1, 1), Segment(2, 1)]
  # No tile sees more than 16 pixels of the line, which has 40.
  found, named = stitched(size, ids, segments, 16, 4, min_pixels=20)
  assert len(named) == 1 and named[0].score is None
  np.testing.assert_array_equal(found, ids == 1)


def test_parts_that_hardly_overlap_stay_apart():
  (left, right) = tiling.windows((8, 24), (8, 16), 8)
  stitcher = tiling.Stitcher((8, 24), CATEGORIES)
  one, other = (np.zeros((8, 16), np.int32) for _ in range(2))
  one[:4, 8:], other[3:, :8] = 1, 1  # of 8 rows they share one
  stitcher.add(left, one, [Segment(1, 1)])
  stitcher.add(right, other, [Segment(1, 1)])
  assert len(stitcher.finish()[1]) == 2


def test_another_class_stays_apart_and_stuff_is_one_segment():
  (left, right) = tiling.windows((8, 24), (8, 16), 8)
  for one, other, count in ((1, 2, 2), (1, 1, 1), (2, 2, 1)):
    stitcher = tiling.Stitcher((8, 24), CATEGORIES)
    whole = np.ones((8, 16), np.int32)
    stitcher.add(left, whole, [Segment(1, one)])
    stitcher.add(right, whole, [Segment(1, other)])
    found, named = stitcher.finish()
    assert len(named) == count == found.max()
    assert sorted(s.class_id for s in named) == sorted({one, other})


def test_what_is_held_is_a_map_and_two_rows_of_tiles():
  size = (96, 32)
  stitcher = tiling.Stitcher(size, CATEGORIES)
  for window in tiling.windows(size, 8, 2):
    part = np.ones((8, 8), np.int32)
    stitcher.add(window, part, [Segment(1, 1)])
    assert len(stitcher._kept) <= 6  # five columns
  assert len(stitcher.finish()[1]) == 1


@pytest.mark.parametrize(
  'tile, overlap, words',
  [
    (1, None, 'at least 2'),
    (8, 8, 'less than the side'),
    (8, 0, 'at least 1'),
    ('8', None, "tile='8'"),
    ((8, 8, 8), None, 'tile='),
    (8, 2.5, 'overlap=2.5'),
  ],
)
def test_tiles_that_cannot_be(tile, overlap, words):
  with pytest.raises(ValueError, match=words):
    tiling.windows((32, 32), tile, overlap)


def test_maps_that_do_not_fit():
  (window, *_) = tiling.windows((32, 32), 16)
  stitcher = tiling.Stitcher((32, 32), CATEGORIES)
  with pytest.raises(ValueError, match=r'tile \(0, 0\) is \(8, 16\)'):
    stitcher.add(window, np.zeros((8, 16), int), [])
  with pytest.raises(ValueError, match='threshold=0'):
    tiling.Stitcher((32, 32), CATEGORIES, 0)
