import numpy as np
import pytest

from pix2seqd_jax import types
from pix2seqd_jax.metrics.collection import Collection
from pix2seqd_jax.metrics.mean_iou import MeanIoU
from pix2seqd_jax.metrics.panoptic_quality import PanopticQuality

CATEGORIES = (types.Category(1, 'a', True), types.Category(2, 'b', False))


def collection(truth, pred):
  truth, pred = np.array([truth]), np.array([pred])
  segments = [
    tuple(types.Segment(int(i), int(i)) for i in np.unique(m) if i)
    for m in (truth, pred)
  ]
  return Collection(
    {
      'panoptic_quality': PanopticQuality.from_maps(
        truth, segments[0], pred, segments[1], CATEGORIES
      ),
      'mean_iou': MeanIoU.from_maps(truth, pred, CATEGORIES),
    }
  )


def test_each_state_merges_apart_and_all_scores_are_there():
  a, b = collection([1, 1, 2], [1, 1, 2]), collection([1, 2, 2], [1, 1, 0])
  merged = a.merge(b)
  for name in a.states:
    apart = a.states[name].merge(b.states[name]).compute()
    assert apart.items() <= merged.compute().items()
  assert {'pq', 'miou'} <= set(merged.compute())
  assert 'iou_class/a' not in merged.compute(per_class=False)


def test_bytes_turn_back():
  merged = collection([1, 1, 2], [1, 2, 2])
  back = Collection.from_bytes(merged.to_bytes() + b'padding')
  assert list(back.states) == list(merged.states)
  assert back.compute() == merged.compute()
  assert back.merge(merged).compute()['pq'] == merged.compute()['pq']


def test_refuses_other_names_and_shared_scores():
  one = collection([1, 2], [1, 2])
  only = Collection({'mean_iou': one.states['mean_iou']})
  with pytest.raises(ValueError, match='do not merge'):
    one.merge(only)
  with pytest.raises(ValueError, match='miou'):
    Collection({'x': one.states['mean_iou'], **only.states}).compute()
