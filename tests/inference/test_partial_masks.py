"""Masks that users give in part: what is refused, named, resized."""

import numpy as np
import pytest

from pix2seqd_jax.inference import partial_masks
from pix2seqd_jax.types import Segment

SIZE = (6, 8)


def read(partial, valid=None, size=SIZE, num_ids=16):
  return partial_masks.read(partial, valid, size, num_ids)


def ids_of(dtype=np.int64):
  ids = np.zeros(SIZE, dtype)
  ids[:2, :3], ids[4:, 5:] = 200, 7
  return ids


@pytest.mark.parametrize('dtype', [np.uint8, np.int16, np.uint32, np.int64])
def test_any_whole_numbers(dtype):
  found = read(ids_of(dtype))
  assert found.names == (7, 200)
  np.testing.assert_array_equal(found.known, ids_of() > 0)
  table = np.array([0, *found.names])
  np.testing.assert_array_equal(table[found.ranks], ids_of())


def test_valid_says_what_counts():
  valid = np.zeros(SIZE, bool)
  valid[:3] = True
  found = read(ids_of(), valid)
  assert found.names == (200,)  # 7 lies outside
  np.testing.assert_array_equal(found.known, valid)
  assert not found.ranks[2].any()  # void that is given
  whole = read(np.full(SIZE, 9), np.ones(SIZE, bool))
  assert whole.names == (9,) and (whole.ranks == 1).all()


def masks():
  one, two = np.zeros((2, *SIZE), bool)
  one[:3], two[3:, :4] = True, True
  return [one, two]


def test_a_list_of_masks():
  found = read(masks())
  assert found.names == (1, 2)
  np.testing.assert_array_equal(found.ranks, masks()[0] + 2 * masks()[1])
  same = read(np.stack(masks()))
  np.testing.assert_array_equal(same.ranks, found.ranks)
  nothing = read([])
  assert nothing.names == () and not nothing.known.any()


def test_overlapping_masks_are_named_with_their_pixels():
  one, two = masks()
  three = np.zeros(SIZE, bool)
  three[2:5, 2:4] = True  # 2 pixels of the first, 4 of the second
  with pytest.raises(
    ValueError, match=r'partial\[1\] and partial\[2\] overlap in 4 pixels'
  ):
    read([one, two, three])


@pytest.mark.parametrize(
  ('partial', 'valid', 'message'),
  [
    (
      np.zeros((6, 7), int),
      None,
      r'partial is \(6, 7\) but the image \(6, 8',
    ),
    (np.zeros((1, 6, 8), int), None, r'partial is \(1, 6, 8\)'),
    (np.zeros(SIZE), None, 'partial is float64; give whole numbers'),
    (np.zeros(SIZE, bool), None, 'partial is bool'),
    (np.full(SIZE, -1), None, 'ids -1 to -1; they must be 0'),
    (np.full(SIZE, 2**40), None, 'they must be 0'),
    (np.arange(48).reshape(SIZE), None, 'has 47 segments but this model knows'),
    ([np.ones((2, 2), bool)], None, r'partial\[0\] is \(2, 2\)'),
    (np.ones(SIZE, int), np.ones((8, 6), bool), r'valid is \(8, 6\)'),
    (np.ones(SIZE, int), np.ones(SIZE, int), 'valid is int64; give bool'),
  ],
)
def test_what_is_refused(partial, valid, message):
  with pytest.raises(ValueError, match=message):
    read(partial, valid)


def test_as_many_segments_as_there_are_ids():
  ids = np.arange(48).reshape(SIZE)
  assert len(read(ids, num_ids=48).names) == 47


def test_random_names_are_distinct_and_repeatable():
  names = partial_masks.named_at_random(15, 16, 3)
  assert sorted(names.tolist()) == list(range(1, 16))
  again = partial_masks.named_at_random(4, 16, 3)
  np.testing.assert_array_equal(again, names[:4])
  assert (partial_masks.named_at_random(15, 16, 4) != names).any()


def test_names_are_those_that_the_network_sees():
  seen = np.zeros(SIZE, int)
  seen[:, :4], seen[:, 4:] = 5, 9
  given = read(ids_of())
  names = partial_masks.named_as_seen(given, seen, 16)
  assert names.tolist() == [9, 5]  # of 7, on the right, and 200
  seen[:] = 5  # one segment for two: the larger share, and an id that is free
  names = partial_masks.named_as_seen(given, seen, 16)
  assert 5 in names.tolist() and len(set(names.tolist())) == 2
  one = read(np.where(ids_of() == 7, 7, 0))
  nothing = np.zeros(SIZE, int)
  nothing[0] = 1  # used, but not where the given one is
  assert partial_masks.named_as_seen(one, nothing, 16)[0] not in (0, 1)


def at(given, names, **kwargs):
  sizes = {'unpadded': SIZE, 'padded': (8, 8), 'mask_size': (4, 4)}
  return partial_masks.at_mask_size(given, names, **{**sizes, **kwargs})


def test_padding_is_unknown_and_void_is_not():
  valid = np.ones(SIZE, bool)
  ids, known = at(read(ids_of(), valid), np.array([3, 11]))
  assert known[:3].all() and not known[3].any()
  assert ids.dtype == np.int32 and set(np.unique(ids)) == {0, 3, 11}
  assert ids[0, 0] == 11 and ids[2, 3] == 3 and ids[0, 3] == 0


def test_scattered_points_are_not_lost():
  ids = np.zeros((48, 64), int)
  ids[3, 7], ids[40, 60], ids[41, 60], ids[40, 61] = 5, 6, 8, 8
  found, known = at(read(ids, size=(48, 64)), np.array([1, 2, 3]))
  assert known.sum() == 2
  assert found[0, 0] == 1 and found[2, 3] == 3  # two of three say so


def test_names_come_back_and_new_ones_are_free():
  given = read(np.where(ids_of() == 7, 2, ids_of()))  # 2 and 200
  ids = np.zeros(SIZE, np.int32)
  ids[0], ids[1], ids[2], ids[3] = 1, 2, 3, 4
  instance = np.zeros(SIZE, np.int32)
  instance[0], instance[1], instance[2], instance[3] = 8, 12, 4, 6
  segments = [Segment(i, 1, score=i / 10) for i in (1, 2, 3, 4)]
  found, named = partial_masks.named_back(
    ids, segments, instance, given, np.array([4, 12], np.int32)
  )
  assert found[:4, 0].tolist() == [1, 200, 2, 3] and not found[4:].any()
  assert [s.id for s in named] == [1, 2, 3, 200]
  assert [s.score for s in named] == [0.1, 0.3, 0.4, 0.2]
