"""Agreement of samples: what renumbering, order and void must not change."""

import numpy as np
import pytest

from pix2seqd_jax.inference import agreement
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
  for pair, expected in (
    ((one, other), 0.5),
    ((one, void), 0.5),
    ((void, unnamed), 1),
    ((void, void), 1),
  ):
    found = agreement.consensus(pair).agreement
    assert (found == expected).all()


def test_a_segment_has_one_partner_at_most():
  whole = np.ones(SIZE, np.int32), [Segment(1, 1)]
  ids = np.ones(SIZE, np.int32)
  ids[:, 10:] = 2
  halves = ids, [Segment(1, 1), Segment(2, 1)]
  found = agreement.consensus([whole, halves]).agreement
  np.testing.assert_array_equal(found, np.where(ids == 2, 1, 0.5))


def test_the_order_of_samples_changes_nothing_but_the_index():
  samples = [blocks(seed) for seed in range(4)]
  fractions = [
    agreement.consensus(samples[-k:] + samples[:-k] if k else samples)
    for k in range(4)
  ]
  first = fractions[0]
  for k, (index, found) in enumerate(fractions):
    assert (index - k) % 4 == first.index
    np.testing.assert_allclose(found, first.agreement)


def test_labels_say_what_agreement_counts():
  samples = [blocks(seed) for seed in range(5)]
  index, found = agreement.consensus(samples)
  named = agreement.labels(samples, index)
  assert named.shape == (5, *SIZE) and named.dtype == np.int32
  np.testing.assert_allclose((named == named[index]).mean(0), found, atol=1e-6)
  for one, (ids, _) in zip(named, samples, strict=True):
    # Renamed one to one, and void stays.
    pairs = {*zip(one.ravel().tolist(), ids.ravel().tolist(), strict=True)}
    assert len(pairs) == len(np.unique(ids)) == len(np.unique(one))
    np.testing.assert_array_equal(one == 0, ids == 0)


def test_what_the_chosen_one_lacks_is_matched_among_the_others():
  void = np.zeros(SIZE, np.int32), []
  ids = np.zeros(SIZE, np.int32)
  ids[2:9, 3:9] = 4
  found = ids, [Segment(4, 1)]
  named = agreement.labels([found, renumbered(found), void], 2)
  assert (named[0] == named[1]).all() and named[0].any()
  entropy = agreement.entropy([found, renumbered(found), void], 2)
  expected = -(np.log(1 / 3) + 2 * np.log(2 / 3)) / 3
  np.testing.assert_allclose(entropy, np.where(ids, expected, 0), atol=1e-6)
  assert entropy.dtype == np.float32


def test_entropy_is_between_one_mind_and_as_many_as_there_are():
  sample = blocks()
  assert not agreement.entropy([sample, renumbered(sample)]).any()
  ones = np.ones(SIZE, np.int32)
  foreign = [(ones, [Segment(1, c)]) for c in (1, 2, 3)]
  found = agreement.entropy(foreign)
  np.testing.assert_allclose(found, np.log(3), rtol=1e-6)
  samples = [blocks(seed) for seed in range(4)]
  found = agreement.entropy(samples)
  assert (found >= 0).all() and found.max() <= np.log(4) + 1e-6
  agreed = agreement.consensus(samples).agreement
  index = agreement.consensus(samples).index
  doubt = agreement.entropy(samples, index) > 1e-6
  np.testing.assert_array_equal(doubt, agreed < 1)


def test_confidence_is_the_mean_within_a_segment():
  ids = np.array([[3, 3, 0, 7]])
  found = agreement.confidence(ids, np.array([[1, 0.5, 0.25, 0.75]]))
  assert found == {0: 0.25, 3: 0.75, 7: 0.75}


def test_errors():
  with pytest.raises(ValueError, match='at least one'):
    agreement.consensus([])
  small = np.zeros((2, 2), int), []
  with pytest.raises(ValueError, match='differ in size'):
    agreement.consensus([blocks(), small])
