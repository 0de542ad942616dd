"""Laws of the label maps."""

import warnings

import numpy as np
import pytest

from pix2seqd_jax.data.readers import shapes
from pix2seqd_jax.data.transforms import labels
from pix2seqd_jax.types import Segment


def _example(seed=0, count=6, size=(24, 20)):
  rng = np.random.default_rng(seed)
  ids = rng.integers(0, count + 1, (size[0] // 2, size[1] // 2))
  ids = ids.repeat(2, 0).repeat(2, 1).astype(np.int32)
  segments = tuple(Segment(i, 1 + i % 3) for i in range(1, count + 1))
  return {'ids': ids, 'segments': segments, 'file': 'some.png'}


def _same_partition(a, b):
  pairs = set(zip(a.ravel().tolist(), b.ravel().tolist()))
  return len(pairs) == len({p[0] for p in pairs}) == len({p[1] for p in pairs})


@pytest.mark.parametrize('order', labels.ID_ORDERS)
def test_every_order_names_each_segment_once(order):
  transform = labels.Labels((24, 20), 9, order)
  for seed in range(5):
    example = _example(seed)
    made = transform(example, np.random.default_rng(seed))
    assert made['semantic'].dtype == made['instance'].dtype == np.int32
    assert _same_partition(made['instance'], example['ids'])
    assert made['instance'].max() <= 8
    np.testing.assert_array_equal(made['instance'] > 0, made['semantic'] > 0)
    for segment in example['segments']:
      where = example['ids'] == segment.id
      assert set(made['semantic'][where]) == {segment.class_id}


def test_orders_are_what_they_say():
  ids = np.zeros((6, 6), np.int32)
  ids[0, 5] = 4  # first in raster order, smallest
  ids[1:, 0] = 1  # second in raster order
  ids[2:5, 2:5] = 7  # the largest
  segments = tuple(Segment(i, 1) for i in (1, 4, 7))
  example = {'ids': ids, 'segments': segments}
  rng = np.random.default_rng(0)

  def named(order):
    made = labels.Labels((6, 6), 11, order)(example, rng)['instance']
    return made[0, 5], made[1, 0], made[2, 2]

  assert named('raster') == (1, 2, 3)
  assert named('area') == (3, 2, 1)
  assert named('centroid') == (1, 2, 3)
  drawn = np.array([named('random') for _ in range(60)])
  assert set(drawn.ravel()) == set(range(1, 11))
  assert all(len(set(row)) == 3 for row in drawn)


def test_grid_names_are_places():
  """A thing alone in its cell is named by it, whatever else is there."""
  ids = np.full((16, 16), 5, np.int32)  # stuff
  ids[0:3, 4:7] = 1  # row 0, column 1 of a 4 x 4 grid
  ids[9:11, 13:15] = 2  # row 2, column 3
  ids[12:16, 12:16] = 3  # row 3, column 3
  ids[8, 12] = 4  # row 2, column 3 as well, and smaller than 2
  segments = (*(Segment(i, 1) for i in range(1, 5)), Segment(5, 2))
  transform = labels.Labels((16, 16), 18, 'grid', stuff=(2,))

  def named(ids):
    made = transform({'ids': ids, 'segments': segments}, None)['instance']
    return made[1, 5], made[10, 14], made[14, 14], made[8, 12], made[15, 0]

  stuff = 1
  assert named(ids)[:3] == (stuff + 2, stuff + 12, stuff + 16)
  assert named(ids)[3] in (stuff + 7, stuff + 8, stuff + 11)  # near and free
  assert named(ids)[4] == stuff
  assert named(np.where(ids == 1, 5, ids))[1:] == named(ids)[1:]


def test_grid_names_reach_all_ids():
  """As many segments as there are ids, all crowded into one corner."""
  for package in (5, 8, 12, 16):
    ids = np.zeros((64, 64), np.int32)
    ids[:8, :8].flat[: package - 1] = np.arange(1, package)
    segments = tuple(Segment(i, 1 + i % 3) for i in range(1, package))
    made = labels.Labels((64, 64), package, 'grid', stuff=(2, 3))(
      {'ids': ids, 'segments': segments}, None
    )
    assert set(made['instance'].ravel()) == set(range(package))


@pytest.mark.parametrize('order', labels.ID_ORDERS)
def test_classes_with_ids_of_their_own_keep_them(order):
  transform = labels.Labels((24, 20), 20, order, stuff=(3, 2))
  for seed in range(5):
    example = _example(seed)
    made = transform(example, np.random.default_rng(seed))
    assert _same_partition(made['instance'], example['ids'])
    for name, number in ((1, 3), (2, 2)):
      assert set(made['semantic'][made['instance'] == name]) == {number}
  if order == 'raster':
    assert made['instance'].max() == 6  # 1 and 2, and four others behind


def test_crowd_is_void():
  example = _example()
  crowd = example['segments'][2]._replace(is_crowd=True)
  example['segments'] = (
    *example['segments'][:2],
    crowd,
    *example['segments'][3:],
  )
  made = labels.Labels((24, 20), 9)(example, np.random.default_rng(0))
  where = example['ids'] == crowd.id
  assert not made['semantic'][where].any()
  assert not made['instance'][where].any()
  assert len(np.unique(made['instance'])) == 6


@pytest.mark.parametrize('order', labels.ID_ORDERS)
def test_the_largest_are_kept_and_it_is_said_once(order):
  example = _example(count=8)
  transform = labels.Labels((24, 20), 4, order)
  with pytest.warns(UserWarning, match=r'some.png shows 8.*3 largest are kept'):
    made = transform(example, np.random.default_rng(0))
  with warnings.catch_warnings():
    warnings.simplefilter('error')
    transform(example, np.random.default_rng(1))
  assert transform.counts == {'overfull': 2}
  assert set(np.unique(made['instance'])) == {0, 1, 2, 3}
  areas = np.bincount(example['ids'].ravel())
  kept = np.unique(example['ids'][made['instance'] > 0])
  lost = set(range(1, 9)) - set(kept)
  assert areas[kept].min() >= max(areas[i] for i in lost)


def test_labels_at_mask_size_are_the_nearest_pixels():
  example = shapes.Shapes(size=64)[0]
  made = labels.Labels(32, 16, 'raster')(example, np.random.default_rng(0))
  full = labels.Labels(64, 16, 'raster')(example, np.random.default_rng(0))
  np.testing.assert_array_equal(made['semantic'], full['semantic'][1::2, 1::2])


@pytest.mark.parametrize(
  'kwargs,words',
  [
    ({'id_order': 'rastre'}, "mean 'raster'"),
    ({'num_ids': 1}, 'num_ids=1.*at least 2'),
    ({'size': (0, 3)}, 'size'),
  ],
)
def test_bad_arguments(kwargs, words):
  kwargs = {'size': (8, 8), 'num_ids': 5} | kwargs
  with pytest.raises(ValueError, match=words):
    labels.Labels(**kwargs)
