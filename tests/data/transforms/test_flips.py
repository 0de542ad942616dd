"""What classes are called in a mirror."""

import numpy as np
import pytest

from pix2seqd_jax.data.transforms import flips, transforms
from pix2seqd_jax.types import Segment

SWAP = ((2, 3),)


def face():
  """Left half of one class, right half of another, skin below."""
  ids = np.array([[2, 3], [1, 1]], np.int32)
  return {
    'image': np.zeros((2, 2, 3), np.uint8),
    'ids': ids,
    'segments': tuple(Segment(c, c) for c in (1, 2, 3)),
  }


def classes_of(example):
  named = {s.id: s.class_id for s in example['segments']}
  return [[named[i] for i in row] for row in example['ids'].tolist()]


def test_left_and_right_stay_where_they_are():
  """A mirrored left eye lies where a right eye is, and is one."""
  swap = flips.RandomFlip(1.0, SWAP)
  rng = np.random.default_rng(0)
  once = swap(face(), rng)
  assert classes_of(once) == [[2, 3], [1, 1]]
  assert classes_of(swap(once, rng)) == classes_of(face())
  without = flips.RandomFlip(1.0)(face(), rng)
  assert classes_of(without) == [[3, 2], [1, 1]]
  assert classes_of(flips.RandomFlip(0.0, SWAP)(face(), rng)) == [
    [2, 3],
    [1, 1],
  ]


def test_a_swap_within_one_resize():
  """Jitter, crop and flip are one step; it swaps too."""
  pairs = (
    ('scale_jitter', {'size': (4, 4)}),
    ('fixed_size_crop', {'size': (4, 4)}),
    ('random_flip', {'chance': 1.0, 'swap': SWAP}),
  )
  made = transforms.build_transforms(pairs)(face(), np.random.default_rng(0))
  assert classes_of(made)[0] == [2, 2, 3, 3]


@pytest.mark.parametrize(
  'swap',
  [((1,),), ((1, 2, 3),), ((0, 1),), ((1, 2), (2, 3)), ((1, 'b'),), 5, (1, 2)],
)
def test_swaps_that_are_none(swap):
  with pytest.raises(ValueError, match='must be pairs of class numbers'):
    flips.RandomFlip(swap=swap)
