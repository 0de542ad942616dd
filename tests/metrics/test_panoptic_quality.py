import json

import numpy as np
import pytest

from pix2seqd_jax import registry, types
from pix2seqd_jax.metrics import panoptic_quality
from pix2seqd_jax.metrics.panoptic_quality import PanopticQuality

CATEGORIES = (
  types.Category(1, 'cat', True),
  types.Category(2, 'dog', True),
  types.Category(7, 'grass', False),
  types.Category(9, 'sky', False),
)
COUNTS = ('tp', 'fp', 'fn', 'iou')


def scene(seed, size=(24, 30), num_segments=8, void=0.2, crowd=0.0):
  """A map of blobs (nearest of random points) with its segments."""
  rng = np.random.default_rng(seed)
  points = rng.uniform(0, 1, (num_segments, 2)) * size
  grid = np.stack(np.indices(size), -1)[:, :, None]
  nearest = ((grid - points) ** 2).sum(-1).argmin(-1)
  names = rng.choice(90_000, num_segments, replace=False) + 1
  names[rng.uniform(size=num_segments) < void] = 0
  ids = names[nearest].astype(np.int32)
  segments = tuple(
    types.Segment(int(i), int(rng.integers(1, 5)), bool(rng.random() < crowd))
    for i in np.unique(ids)
    if i
  )
  return ids, segments


def pair(seed):
  truth = scene(seed, crowd=0.2)
  pred = scene(seed + (seed % 3 == 0), num_segments=8 + seed % 3)
  return truth, pred


def state(truth, pred, **kwargs):
  return PanopticQuality.from_maps(*truth, *pred, CATEGORIES, **kwargs)


def assert_equal(a, b, exact=False):
  for key in ('tp', 'fp', 'fn'):
    np.testing.assert_array_equal(getattr(a, key), getattr(b, key))
  np.testing.assert_allclose(a.iou, b.iou, rtol=0, atol=0 if exact else 1e-12)


def oracle_images(shared):
  folder = shared / 'oracles' / 'metrics'
  tables = json.loads((folder / 'pq_synthetic.json').read_text())
  maps = np.load(folder / 'pq_synthetic.npz')
  rows = tables['categories']
  classes = {row['id']: i + 1 for i, row in enumerate(rows)}
  categories = tuple(
    types.Category(row['id'], row['name'], bool(row['isthing'])) for row in rows
  )
  states = []
  for n, image in enumerate(tables['images']):
    truth, pred = (
      tuple(
        types.Segment(
          s['id'], classes[s['category_id']], bool(s.get('iscrowd'))
        )
        for s in image[f'{side}_segments_info']
      )
      for side in ('gt', 'pred')
    )
    states.append(
      PanopticQuality.from_maps(
        maps[f'gt/{n}'],
        truth,
        maps[f'pred/{n}'],
        pred,
        categories,
        truth_areas={s['id']: s['area'] for s in image['gt_segments_info']},
      )
    )
  return tables, categories, states


def test_equals_panopticapi_on_each_image(shared):
  tables, categories, states = oracle_images(shared)
  for image, ours in zip(tables['images'], states):
    for row, category in enumerate(categories):
      want = image['per_category'].get(
        str(category.id), {'iou': 0, 'tp': 0, 'fp': 0, 'fn': 0}
      )
      for key in COUNTS:
        assert getattr(ours, key)[row] == pytest.approx(want[key], abs=1e-12), (
          image['note'],
          category,
          key,
        )


def test_equals_panopticapi_in_all(shared):
  tables, categories, states = oracle_images(shared)
  total = PanopticQuality.empty(categories)
  for one in states:
    total = total.merge(one)
  scores = total.compute()
  for group, suffix in (
    ('All', ''),
    ('Things', '_things'),
    ('Stuff', '_stuff'),
  ):
    for key in ('pq', 'sq', 'rq'):
      want = tables['result'][group][key]
      assert scores[key + suffix] == pytest.approx(want, abs=1e-12)
  for category in categories:
    row = tables['result']['per_class'][str(category.id)]
    for key, want in row.items():
      ours = scores[f'{key}_class/{category.name}']
      assert ours == pytest.approx(want, abs=1e-12)


@pytest.mark.parametrize('seed', range(4))
def test_quality_of_the_truth_is_one(seed):
  truth = scene(seed)
  scores = state(truth, truth).compute()
  assert (scores['pq'], scores['sq'], scores['rq']) == (1, 1, 1)


@pytest.mark.parametrize('seed', range(6))
def test_ignores_the_numbering_of_segments_and_their_order(seed):
  rng = np.random.default_rng(seed)
  truth, pred = pair(seed)

  def renumber(ids, segments):
    fresh = rng.permutation(10_000)[: len(segments)] + 5
    new = np.zeros_like(ids)
    for segment, i in zip(segments, fresh):
      new[ids == segment.id] = i
    segments = [s._replace(id=int(i)) for s, i in zip(segments, fresh)]
    return new, segments

  renamed = renumber(*truth), renumber(*pred)
  assert_equal(state(truth, pred), state(*renamed))
  # Order matters for crowds alone (panopticapi keeps the last of a class).
  ids, segments = pred
  assert_equal(state(truth, pred), state(truth, (ids, segments[::-1])))


@pytest.mark.parametrize('seed', range(6))
def test_padding_with_void_changes_nothing(seed):
  truth, pred = pair(seed)
  pad = [(seed, 3), (2, 5)]
  padded = [(np.pad(ids, pad), segments) for ids, segments in (truth, pred)]
  assert_equal(state(truth, pred), state(*padded))


def test_what_lies_on_void_of_the_truth_is_not_counted():
  truth, pred = scene(1, void=0), scene(2, void=0)
  wide = np.pad(pred[0], [(0, 9), (0, 0)], mode='edge')
  padded = (np.pad(truth[0], [(0, 9), (0, 0)]), truth[1])
  before, after = state(truth, pred), state(padded, (wide, pred[1]))
  np.testing.assert_array_equal(before.tp, after.tp)
  np.testing.assert_allclose(before.iou, after.iou, atol=1e-12)


def test_merging_is_associative_and_commutative():
  states = [state(*pair(seed)) for seed in range(6)]
  left = PanopticQuality.empty(CATEGORIES)
  for one in states:
    left = left.merge(one)
  right = states[5].merge(states[3]).merge(states[4])
  right = right.merge(states[2].merge(states[0].merge(states[1])))
  assert_equal(left, right)
  assert left.compute() == pytest.approx(right.compute(), abs=1e-12)


def test_bytes_are_exact_even_padded():
  ours = state(*pair(3))._replace(tp=np.array([2**53 + 1, 0, 1, 2]))
  assert ours.iou.any()
  back = PanopticQuality.from_bytes(ours.to_bytes() + b'\0' * 9)
  assert_equal(ours, back, exact=True)
  assert back.categories == CATEGORIES
  assert (back.tp.dtype, back.iou.dtype) == (np.int64, np.float64)
  empty = PanopticQuality.empty(CATEGORIES)
  assert len(empty.to_bytes()) == len(ours.to_bytes())


def test_classes_can_be_left_out():
  ids, segments = scene(5, void=0)
  wrong = [s._replace(class_id=s.class_id % 4 + 1) for s in segments]
  assert state((ids, segments), (ids, wrong)).compute()['pq'] == 0
  scores = state((ids, segments), (ids, wrong), class_agnostic=True).compute()
  assert scores['pq'] == scores['pq_class/any'] == 1
  assert 'pq_stuff' not in scores


def test_is_independent_of_the_type_of_ids():
  truth, pred = pair(4)
  wide = [(ids.astype(np.uint64), segments) for ids, segments in (truth, pred)]
  assert_equal(state(truth, pred), state(*wide), exact=True)


def test_intersections_are_those_of_masks():
  rng = np.random.default_rng(0)
  truth, pred = rng.integers(0, 4, (2, 9, 7))
  found = panoptic_quality.intersections(
    truth, np.array([3, 1, 2]), pred, np.array([2, 3, 1])
  )
  for i, t in enumerate([0, 3, 1, 2]):
    for j, p in enumerate([0, 2, 3, 1]):
      assert found[i, j] == ((truth == t) & (pred == p)).sum()


def test_refuses_what_does_not_agree():
  ids, segments = scene(0, void=0)
  good = ids, segments
  cases = {
    'no segment names': (good, (ids, segments[1:])),
    'have no pixel': (good, (ids, [*segments, types.Segment(99_999, 1)])),
    'must differ': (good, (ids, [*segments, segments[0]])),
    'not be 0': (good, (ids, [*segments, types.Segment(0, 1)])),
    'has class 5': (good, (ids, [s._replace(class_id=5) for s in segments])),
    'original size': (good, (ids[1:], segments)),
    'map of the truth': ((ids, segments[1:]), good),
  }
  for message, (truth, pred) in cases.items():
    with pytest.raises(ValueError, match=message):
      state(truth, pred)
  with pytest.raises(ValueError, match='do not merge'):
    state(good, good).merge(PanopticQuality.empty(CATEGORIES[:2]))


def test_true_segment_without_pixels_is_missed():
  ids, segments = scene(0, void=0)
  extra = (ids, [*segments, types.Segment(99_999, 2)])
  assert state(extra, (ids, segments)).fn.tolist() == [0, 1, 0, 0]


def test_is_registered_and_is_a_metric_state():
  assert registry.METRICS['panoptic_quality'] is PanopticQuality
  assert isinstance(PanopticQuality.empty(CATEGORIES), types.MetricState)
  assert set(PanopticQuality.empty(CATEGORIES).compute().values()) == {0.0}
