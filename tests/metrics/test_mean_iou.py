import numpy as np
import pytest

from pix2seqd_jax import registry, types
from pix2seqd_jax.metrics.mean_iou import MeanIoU, Resegmentation

CATEGORIES = tuple(types.Category(i, f'c{i}', i < 3) for i in range(1, 6))


def maps(seed, classes=6, size=(11, 13)):
  rng = np.random.default_rng(seed)
  truth = rng.integers(0, classes, size, np.int32)
  pred = np.where(rng.random(size) < 0.5, truth, rng.integers(0, 6, size))
  return truth, pred.astype(np.int32)


def naive(pairs):
  """The definition, class by class and mask by mask."""
  scores, right, total = [], 0, 0
  for c in range(1, 6):
    inter = union = 0
    for truth, pred in pairs:
      known = truth > 0
      inter += ((truth == c) & (pred == c)).sum()
      union += (((truth == c) | (pred == c)) & known).sum()
    scores.append(inter / union if union else None)
  for truth, pred in pairs:
    right += ((truth == pred) & (truth > 0)).sum()
    total += (truth > 0).sum()
  return scores, right / total


@pytest.mark.parametrize('classes', [3, 6])
def test_equals_the_definition(classes):
  pairs = [maps(seed, classes) for seed in range(3)]
  state = MeanIoU.empty(CATEGORIES)
  for pair in pairs:
    state = state.merge(MeanIoU.from_maps(*pair, CATEGORIES))
  scores, accuracy = naive(pairs)
  ours = state.compute()
  seen = [s for s in scores if s is not None]
  assert ours['miou'] == pytest.approx(np.mean(seen), abs=1e-12)
  assert ours['pixel_accuracy'] == pytest.approx(accuracy, abs=1e-12)
  for category, want in zip(CATEGORIES, scores):
    got = ours[f'iou_class/{category.name}']
    assert got == pytest.approx(want or 0, abs=1e-12)


def test_class_that_never_occurs_is_left_out_of_the_mean():
  truth = np.array([[1, 1, 2, 2]])
  scores = MeanIoU.from_maps(truth, truth, CATEGORIES).compute()
  assert scores['miou'] == 1
  assert scores['iou_class/c4'] == 0


def test_void_of_the_truth_is_ignored_and_void_predicted_is_a_miss():
  truth, pred = np.array([[0, 1, 1, 0]]), np.array([[3, 1, 0, 1]])
  scores = MeanIoU.from_maps(truth, pred, CATEGORIES).compute()
  assert scores['miou'] == 0.5
  assert scores['pixel_accuracy'] == 0.5


def test_padding_changes_nothing():
  truth, pred = maps(0)
  padded = (np.pad(truth, 4), np.pad(pred, 4, constant_values=2))
  plain = MeanIoU.from_maps(truth, pred, CATEGORIES).compute()
  assert plain == MeanIoU.from_maps(*padded, CATEGORIES).compute()


def test_bytes_and_names():
  twins = (types.Category(1, 'a', True), types.Category(2, 'a', False))
  state = MeanIoU.from_maps(np.array([[1, 2]]), np.array([[1, 1]]), twins)
  state = state._replace(confusion=state.confusion + 2**53 + 1)
  back = MeanIoU.from_bytes(state.to_bytes())
  np.testing.assert_array_equal(back.confusion, state.confusion)
  assert back.categories == twins
  assert {'iou_class/a#1', 'iou_class/a#2'} <= set(back.compute())


def test_refuses_what_does_not_agree():
  truth = np.ones((3, 3), int)
  for bad in (truth[1:], truth * 6, -truth):
    with pytest.raises(ValueError):
      MeanIoU.from_maps(truth, bad, CATEGORIES)
  with pytest.raises(ValueError, match='do not merge'):
    MeanIoU.empty(CATEGORIES).merge(MeanIoU.empty(CATEGORIES[1:]))


def test_is_registered_and_is_a_metric_state():
  assert registry.METRICS['mean_iou'] is MeanIoU
  assert isinstance(MeanIoU.empty(CATEGORIES), types.MetricState)
  assert set(MeanIoU.empty(CATEGORIES).compute().values()) == {0.0}


def test_a_resegmentation_has_names_of_its_own():
  state = Resegmentation.from_maps(*maps(0), CATEGORIES)
  plain = MeanIoU.from_maps(*maps(0), CATEGORIES).compute()
  total = state.merge(Resegmentation.empty(CATEGORIES))
  total = Resegmentation.from_bytes(total.to_bytes())
  assert registry.METRICS['resegmentation'] is type(total)
  assert total.compute() == {
    f'resegmentation_{name}': value for name, value in plain.items()
  }
