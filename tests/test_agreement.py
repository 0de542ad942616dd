"""Agreement of samples: what renumbering, order and void must not change."""

import numpy as np
import pytest

from pix2seqd_jax import agreement
from pix2seqd_jax.types import Segment

SIZE = (20, 30)


def blocks(seed=0, num=6):
  """Overlapping rectangles of three classes on void."""
  rng = np.random.default_rng(seed)
  ids = np.zeros(SIZE, np.int32)
  for i in range(1, num + 1):
    y, x = rng.integers(0, 15), rng.integers(0, 22)
    ids[y : y + rng.integers(3, 9), x : x + rng.integers(3, 9)] = i
  named = np.unique(ids)
  segments = [Segment(int(i), int(i) % 3 + 1) for i in named if i]
  return ids, segments


def renumbered(sample, seed=0):
  ids, segments = sample
  names = np.random.default_rng(seed).permutation(50_000)[: ids.max() + 1] + 1
  names[0] = 0
  return names[ids], [s._replace(id=int(names[s.id])) for s in segments[::-1]]


def test_equal_samples_agree_everywhere_whatever_their_numbers():
  sample = blocks()
  for samples in (
    [sample],
    [sample, renumbered(sample, 1), renumbered(sample)],
  ):
    index, found = agreement.consensus(samples)
    assert index == 0 and found.dtype == np.float32 and found.shape == SIZE
    assert (found == 1).all()


def test_the_odd_one_out_is_not_chosen_and_doubt_is_where_it_differs():
  usual = blocks()
  ids, segments = usual[0].copy(), usual[1]
  ids[:5, :5] = 99  # one more segment, cut out of what was there
  odd = ids, [*segments, Segment(99, 1)]
  samples = [odd, renumbered(usual, 1), renumbered(usual, 2), usual]
  index, found = agreement.consensus(samples)
  assert index == 1
  changed = np.zeros(SIZE, bool)
  changed[:5, :5] = True
  np.testing.assert_array_equal(found, np.where(changed, 0.75, 1))


def test_another_class_or_void_is_no_agreement():
  ids = np.ones(SIZE, np.int32)
  one, other = (ids, [Segment(1, 1)]), (ids, [Segment(1, 2)])
  void = np.zeros(SIZE, np.int32), []
  unnamed = ids, []
  for pair, wanted in (
    ((one, other), 0.5),
    ((one, void), 0.5),
    ((void, unnamed), 1),
    ((void, void), 1),
  ):
    found = agreement.consensus(pair).agreement
    assert (found == wanted).all()


def test_a_segment_has_one_partner_at_most():
  whole = np.ones(SIZE, np.int32), [Segment(1, 1)]
  ids = np.ones(SIZE, np.int32)
  ids[:, 10:] = 2
  halves = ids, [Segment(1, 1), Segment(2, 1)]
  found = agreement.consensus([whole, halves]).agreement
  np.testing.assert_array_equal(found, np.where(ids == 2, 1, 0.5))


def test_the_order_of_samples_changes_nothing_but_the_index():
  samples = [blocks(seed) for seed in range(4)]
  shares = [
    agreement.consensus(samples[-k:] + samples[:-k] if k else samples)
    for k in range(4)
  ]
  first = shares[0]
  for k, (index, found) in enumerate(shares):
    assert (index - k) % 4 == first.index
    np.testing.assert_allclose(found, first.agreement)


def test_errors():
  with pytest.raises(ValueError, match='at least one'):
    agreement.consensus([])
  small = np.zeros((2, 2), int), []
  with pytest.raises(ValueError, match='differ in size'):
    agreement.consensus([blocks(), small])
