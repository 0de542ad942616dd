import numpy as np
import pytest

from pix2seqd_jax import registry, types
from pix2seqd_jax.tasks.semantic import SemanticTask

CATEGORIES = tuple(types.Category(c, f'c{c}', c < 3) for c in range(1, 5))


@pytest.fixture
def task():
  return SemanticTask(CATEGORIES)


def postprocess(semantic, instance=None):
  semantic = np.asarray(semantic)
  return types.Segmentation(
    semantic, np.zeros_like(semantic) if instance is None else instance
  )


def meta(classes):
  """Truth with two segments a class: ids are not classes."""
  classes = np.asarray(classes)
  ids = np.where(classes > 0, 10 * classes + np.arange(classes.size) % 2, 0)
  segments = tuple(
    types.Segment(int(i), int(i) // 10) for i in np.unique(ids[ids > 0])
  )
  return {'truth': {'ids': ids, 'segments': segments}}


def score(task, semantic, truth):
  found = task.refine(postprocess(semantic))
  return task.metrics(found, meta(truth)).compute()


def test_classes_count_and_void_of_the_truth_does_not(task):
  found = score(task, [[1, 1, 3, 2, 2, 0]], [[1, 1, 3, 0, 1, 3]])
  expected = {'c1': 2 / 3, 'c2': 0, 'c3': 1 / 2, 'c4': 0}
  for name, value in expected.items():
    assert found[f'iou_class/{name}'] == pytest.approx(value)
  # Class 2 was predicted on class 1, class 4 never occurs.
  assert found['miou'] == pytest.approx((2 / 3 + 0 + 1 / 2) / 3)
  assert found['pixel_accuracy'] == pytest.approx(3 / 5)


def test_the_truth_is_perfect_and_ids_do_not_matter(task):
  rng = np.random.default_rng(0)
  truth = rng.integers(0, 5, (1, 40), np.int32)
  assert score(task, truth, truth)['miou'] == 1
  found = task.refine(postprocess(truth, rng.integers(0, 9, truth.shape)))
  np.testing.assert_array_equal(found.instance, truth)


def test_images_are_counted_together(task):
  """Not the mean of the scores of images: a small one counts less."""
  pair = [([[1] * 9], [[1] * 9]), ([[1]], [[2]])]
  states = [
    task.metrics(task.refine(postprocess(ours)), meta(truth))
    for ours, truth in pair
  ]
  total = task.empty().merge(states[0]).merge(states[1])
  assert total.compute()['iou_class/c1'] == pytest.approx(9 / 10)
  assert total.compute()['pixel_accuracy'] == pytest.approx(9 / 10)


def test_a_class_is_a_segment(task):
  found = task.refine(postprocess([[0, 2, 2], [4, 4, 2]], np.arange(6)))
  ids, segments = task.segments(found)
  np.testing.assert_array_equal(ids, [[0, 1, 1], [2, 2, 1]])
  assert [(s.id, s.class_id) for s in segments] == [(1, 2), (2, 4)]


def test_it_takes_no_label_and_refuses_what_does_not_fit(task):
  assert task.given == () and registry.TASKS['semantic'] is SemanticTask
  assert isinstance(task, types.Task)
  with pytest.raises(ValueError, match='original size'):
    score(task, [[1, 1]], [[1]])
  with pytest.raises(ValueError, match='classes of the prediction'):
    score(task, [[5]], [[1]])
  with pytest.raises(ValueError, match='categories is empty'):
    SemanticTask(())
