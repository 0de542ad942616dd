import numpy as np
import pytest

from pix2seqd_jax import registry, types
from pix2seqd_jax.encoding import panoptic_ids
from pix2seqd_jax.tasks import panoptic
from pix2seqd_jax.tasks.panoptic import PanopticTask

CATEGORIES = (
  types.Category(1, 'cat', True),
  types.Category(2, 'grass', False),
  types.Category(3, 'sky', False),
)


def stuff(num_classes):
  return [types.Category(i, f'c{i}', False) for i in range(1, num_classes + 1)]


def task(**kwargs):
  return PanopticTask(CATEGORIES, **kwargs)


def segmentation(semantic, instance, **kwargs):
  maps = (np.array(m, np.int32) for m in (semantic, instance))
  return types.Segmentation(*maps, **kwargs)


def noisy(seed, size=(20, 24)):
  rng = np.random.default_rng(seed)
  instance = rng.integers(0, 6, (4, 4)).repeat(5, 0).repeat(6, 1)
  semantic = rng.integers(0, 4, 6)[instance]
  where = rng.random(size) < 0.2
  semantic = np.where(where, rng.integers(0, 4, size), semantic)
  score = rng.random(size).astype(np.float32)
  return segmentation(semantic, instance, score=score)


@pytest.mark.parametrize('case', range(3))
@pytest.mark.parametrize('min_pixels', [0, 40, 200])
def test_majority_vote_of_the_original(shared, case, min_pixels):
  maps = np.load(shared / 'oracles' / 'pix2seq' / 'pure' / 'majority_vote.npz')
  original = segmentation(maps[f'{case}_semantic'], maps[f'{case}_identity'])
  refined = PanopticTask(
    stuff(int(original.semantic.max()) + 1),
    min_pixels=min_pixels,
    merge_stuff=False,
    void_id_zero=False,
  ).refine(original)
  for ours, name in (
    (refined.semantic, 'semantic'),
    (refined.instance, 'identity'),
  ):
    want = maps[f'{case}_mp{min_pixels}_{name}']
    np.testing.assert_array_equal(ours, want)
    assert ours.dtype == np.int32


@pytest.mark.parametrize('kind', ['clean', 'random'])
@pytest.mark.parametrize('coco', [0, 1])
def test_whole_postprocess_of_the_original(shared, kind, coco):
  folder = shared / 'oracles' / 'pix2seq' / 'A'
  maps = np.load(folder / 'io_postprocess.npz')
  refiner = PanopticTask(
    stuff(133),
    min_pixels=int(maps['min_pixels']),
    merge_stuff=False,
    void_id_zero=bool(coco),
  )
  for n in range(2):
    h, w = maps['unpadded_sizes'][n]
    read = panoptic_ids.resize_nearest(
      maps[f'pred_{kind}'][n, :h, :w], tuple(maps['orig_sizes'][n].tolist())
    )
    refined = refiner.refine(segmentation(read[..., 0], read[..., 1]))
    semantic, instance = refined.semantic, refined.instance
    want = {
      name: maps[f'{kind}_coco{coco}_{n}_{name}']
      for name in ('semantic', 'identity')
    }
    if coco:  # numbers of COCO's files, and ids as they were before
      semantic = np.where(
        semantic > 0, maps['coco_table'][np.maximum(semantic - 1, 0)], 0
      )
    np.testing.assert_array_equal(semantic, want['semantic'])
    np.testing.assert_array_equal(
      instance, np.where(want['semantic'] > 0, want['identity'], 0)
    )


@pytest.mark.parametrize('seed', range(4))
@pytest.mark.parametrize('void_id_zero', [True, False])
def test_each_id_has_one_class_and_void_has_none(seed, void_id_zero):
  some = task(void_id_zero=void_id_zero, min_pixels=30)
  before = noisy(seed)
  after = some.refine(before)
  assert not after.instance[after.semantic == 0].any()
  for i in np.unique(after.instance):
    if i:
      assert len(np.unique(after.semantic[after.instance == i])) == 1
  if void_id_zero:
    assert not after.semantic[before.instance == 0].any()
  assert after.score is before.score
  again = some.refine(after)
  if void_id_zero:
    np.testing.assert_array_equal(again.semantic, after.semantic)
    np.testing.assert_array_equal(again.instance, after.instance)


def test_stuff_of_one_class_becomes_one_segment_and_things_stay_apart():
  maps = segmentation([[1, 1, 2, 2, 3]], [[4, 5, 7, 6, 8]])
  merged, apart = task().refine(maps), task(merge_stuff=False).refine(maps)
  assert merged.instance.tolist() == [[4, 5, 6, 6, 8]]
  assert apart.instance.tolist() == maps.instance.tolist()
  assert len(task().segments(merged)[1]) == 4


def test_small_segments_become_void():
  maps = segmentation([[1, 1, 1, 2]], [[1, 1, 1, 2]])
  assert task(min_pixels=2).refine(maps).semantic.tolist() == [[1, 1, 1, 0]]
  assert task(min_pixels=1).refine(maps).semantic.tolist() == [[1, 1, 1, 2]]


def test_segments_are_named_in_order_with_their_mean_score():
  refined = task().refine(noisy(0))
  ids, segments = task().segments(refined)
  assert [s.id for s in segments] == list(range(1, len(segments) + 1))
  np.testing.assert_array_equal(ids == 0, refined.semantic == 0)
  for s in segments:
    where = ids == s.id
    assert np.unique(refined.semantic[where]).tolist() == [s.class_id]
    assert len(np.unique(refined.instance[where])) == 1
    assert s.score == pytest.approx(refined.score[where].mean(), rel=1e-6)
  assert ids.dtype == np.int32


@pytest.mark.parametrize('semantic', [[[0, 0]], [[1, 1]], [[0, 2]]])
def test_segments_of_void_and_of_maps_without_ids(semantic):
  maps = segmentation(semantic, [[0, 0]])
  ids, segments = task().segments(maps)
  classes = [0, *(s.class_id for s in segments)]
  np.testing.assert_array_equal(np.array(classes)[ids], semantic)
  assert all(s.score is None for s in segments)


def test_scores_of_the_truth_are_one_and_add_up():
  some = task(min_pixels=1)
  total = some.empty()
  for seed in range(3):
    truth = some.refine(noisy(seed))
    ids, segments = some.segments(truth)
    # The truth of files has other numbers, and the answer must not care.
    ids = np.where(ids > 0, ids * 1000 + seed, 0)
    segments = [s._replace(id=s.id * 1000 + seed) for s in segments]
    meta = {'truth': {'ids': ids, 'segments': tuple(segments)}}
    total = total.merge(some.metrics(truth, meta))
  scores = total.compute()
  assert scores['pq'] == scores['miou'] == scores['pixel_accuracy'] == 1
  back = type(total).from_bytes(total.to_bytes()).compute()
  assert back == scores


def test_one_class_for_all_when_classes_do_not_count():
  some = task(class_agnostic=True, merge_stuff=False)
  truth = segmentation([[1, 1, 3, 3]], [[1, 1, 2, 2]])
  answer = segmentation([[2, 2, 3, 3]], [[1, 1, 2, 2]])
  ids, segments = some.segments(truth)
  meta = {'truth': {'ids': ids, 'segments': segments}}
  scores = some.empty().merge(some.metrics(answer, meta)).compute()
  assert scores['pq'] == 1
  assert 'miou' not in scores
  assert scores.keys() == some.empty().compute().keys()


def test_labels_that_can_be_given():
  assert task(given=('instance',)).given == ('instance',)
  with pytest.raises(ValueError, match=r"task.given=\('bits',\) may hold"):
    task(given=('bits',))


def test_classes_of_segments():
  segments = [types.Segment(70_000, 2), types.Segment(3, 1)]
  ids = np.array([[70_000, 3, 0]])
  assert panoptic.semantic_of(ids, segments).tolist() == [[2, 1, 0]]
  with pytest.raises(ValueError, match='no segment names'):
    panoptic.semantic_of(ids + 2, segments)


def test_great_ids_are_refined_alike():
  small = noisy(1)
  factor = 400_000
  great = small._replace(instance=small.instance * factor)
  ours, theirs = task().refine(great), task().refine(small)
  np.testing.assert_array_equal(ours.semantic, theirs.semantic)
  np.testing.assert_array_equal(ours.instance, theirs.instance * factor)
  assert task().segments(ours)[1] == task().segments(theirs)[1]


def test_predicts_with_one_call():
  calls = []
  raw = task().predict(lambda *a: calls.append(a) or 'raw', {'image': 1}, 'k')
  assert (raw, calls) == ('raw', [({'image': 1}, 'k')])


def test_refuses_what_is_wrong():
  with pytest.raises(ValueError, match='min_pixels=-1'):
    task(min_pixels=-1)
  with pytest.raises(ValueError, match='categories'):
    PanopticTask([])
  with pytest.raises(ValueError, match='num_classes=3'):
    task().refine(segmentation([[4]], [[1]]))


def test_is_registered_and_is_a_task():
  assert registry.TASKS['panoptic'] is PanopticTask
  assert isinstance(task(), types.Task)
  assert task().given == ()


def test_split_things_cuts_ids_at_gaps():
  """Two things of one id, apart, become two; stuff of one id stays one."""
  categories = (
    types.Category(1, 'cell', True),
    types.Category(2, 'ground', False),
  )
  instance = np.full((8, 9), 1, np.int32)
  instance[:, 4] = 3  # a thing that cuts the ground in two
  instance[1:3, 1:3] = instance[5:7, 6:8] = 2  # far apart, one id
  semantic = np.where(instance == 1, 2, 1).astype(np.int32)
  found = types.Segmentation(semantic, instance)
  for split, things in ((False, 2), (True, 3)):
    task = PanopticTask(categories, split_things=split)
    ids, segments = task.segments(task.refine(found))
    assert sum(s.class_id == 1 for s in segments) == things
    assert sum(s.class_id == 2 for s in segments) == 1
    np.testing.assert_array_equal(task.refine(found).semantic, semantic)
  assert ids[1, 1] != ids[5, 6]
