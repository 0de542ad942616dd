"""Run lengths: round trips, the laws of sets, and pycocotools to the bit."""

import numpy as np
import pytest

from pix2seqd_jax.encoding import rle


def masks(num=60, seed=0):
  """Noise of every density and size, with empty and full ones."""
  rng = np.random.default_rng(seed)
  for i in range(num):
    size = tuple(rng.integers(1, 40, 2).tolist())
    yield rng.random(size) < (0, 1, rng.random())[i % 3 if i < 9 else 2]


def polygons(num, seed=0):
  """Polygons inside, across and beyond the image; whole, half, repeated."""
  rng = np.random.default_rng(seed)
  for i in range(num):
    size = tuple(rng.integers(1, 60, 2).tolist())
    points = rng.uniform(-12, 70, (rng.integers(3, 12), 2))
    if i % 4 == 1:
      points = np.round(points)
    if i % 4 == 2:
      points = np.round(2 * points) / 2
    if i % 4 == 3:
      points = np.clip(np.round(points, 2), 0, size[::-1])
    if i % 5 == 0:
      points[1] = points[0]
    yield points, size


def test_masks_counts_and_strings_are_one_thing():
  for mask in masks():
    counts = rle.from_mask(mask)
    np.testing.assert_array_equal(rle.to_mask(counts, mask.shape), mask)
    assert rle.area(counts) == mask.sum()
    assert (counts[1:] > 0).all()
    text = rle.to_string(counts)
    np.testing.assert_array_equal(rle.from_string(text), counts)
    np.testing.assert_array_equal(rle.from_string(text.encode()), counts)
    np.testing.assert_array_equal(rle.check(counts, mask.shape), counts)


def test_large_counts_survive_the_string():
  counts = np.array([0, 2**40, 1, 5, 2**33, 0, 31, 15, 16, 2**50])
  np.testing.assert_array_equal(rle.from_string(rle.to_string(counts)), counts)


def test_a_map_of_ids_is_the_masks_of_its_ids():
  rng = np.random.default_rng(1)
  for ids in (
    rng.integers(0, 5, (30, 20)),
    np.zeros((4, 5), int),
    np.full((3, 3), 70_000),
    rng.integers(0, 3, (1, 9)).astype(np.int32) * 1000,
    np.zeros((0, 5), int),
  ):
    found = dict(rle.from_ids(ids))
    assert list(found) == [i for i in np.unique(ids).tolist() if i]
    for name, counts in found.items():
      np.testing.assert_array_equal(counts, rle.from_mask(ids == name))


def test_union_and_paint_are_those_of_masks():
  size = (23, 31)
  rng = np.random.default_rng(2)
  for density in (0, 0.05, 0.5, 0.97):
    parts = [rng.random(size) < density for _ in range(3)]
    counts = rle.union([rle.from_mask(part) for part in parts])
    either = np.any(parts, axis=0)
    np.testing.assert_array_equal(counts, rle.from_mask(either))
    columns = np.zeros(size[0] * size[1], np.int32)
    rle.paint(columns, counts, 7)
    painted = columns.reshape(size[::-1]).T
    np.testing.assert_array_equal(painted, 7 * either)


def test_a_rectangle_on_whole_numbers_is_its_pixels():
  corners = np.array([[2, 1], [7, 1], [7, 4], [2, 4]], float)
  expected = np.zeros((6, 9), bool)
  expected[1:4, 2:7] = True
  for points in (corners, corners[::-1], np.roll(corners, 1, 0)):
    mask = rle.to_mask(rle.from_polygon(points, (6, 9)), (6, 9))
    np.testing.assert_array_equal(mask, expected)


def test_a_polygon_beyond_the_image_is_cut_off():
  corners = np.array([[-5, -5], [50, -5], [50, 50], [-5, 50]], float)
  far = corners + 100
  assert rle.to_mask(rle.from_polygon(corners, (6, 9)), (6, 9)).all()
  assert rle.area(rle.from_polygon(far, (6, 9))) == 0


def test_pycocotools_agrees_to_the_bit():
  theirs = pytest.importorskip('pycocotools.mask')
  for mask in masks(200, seed=3):
    coded = theirs.encode(np.asfortranarray(mask, np.uint8))
    assert rle.to_string(rle.from_mask(mask)).encode() == coded['counts']
  for points, size in polygons(400):
    (coded,) = theirs.frPyObjects([points.ravel().tolist()], *size)
    ours = rle.from_polygon(points, size)
    assert rle.to_string(ours).encode() == coded['counts'], (points, size)


@pytest.mark.parametrize(
  'counts, words',
  [
    ([3, 2], 'add up to 5'),
    ([7, -1], 'reach from -1'),
    ([2**70], 'no list of whole numbers'),
    ([1.5, 4.5], 'no list of whole numbers'),
    ([[1, 2], [3]], 'no list of whole numbers'),
    (['1', '5'], 'no list of whole numbers'),
    (6, 'no list of whole numbers'),
    ([], 'add up to 0'),
  ],
)
def test_counts_that_cannot_be(counts, words):
  with pytest.raises(ValueError, match=words):
    rle.check(counts, (2, 3))


@pytest.mark.parametrize(
  'text, words',
  [
    ('5P', 'cut off'),
    ('5\x7f', 'characters outside'),
    ('5é', 'beyond ASCII'),
    ('P' * 13 + '0', 'beyond 59 bits'),
  ],
)
def test_strings_that_cannot_be(text, words):
  with pytest.raises(ValueError, match=words):
    rle.from_string(text)
