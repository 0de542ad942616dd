"""Laws of the generated scenes."""

import time

import numpy as np
import pytest

from pix2seqd_jax import types
from pix2seqd_jax.data.readers import drawing, shapes
from pix2seqd_jax.registry import DATASETS


def test_is_a_registered_source():
  source = DATASETS['shapes'](num_examples=3)
  assert isinstance(source, types.Source)
  assert len(source) == 3
  assert source[2]['index'] == 2
  with pytest.raises(IndexError):
    source[3]


def test_a_scene_depends_on_seed_split_and_index_alone():
  one, two = shapes.Shapes(), shapes.Shapes(num_examples=9)
  for index in (5, 0, 5):
    a, b = one[index], two[index]
    assert a['segments'] == b['segments'] and a['caption'] == b['caption']
    np.testing.assert_array_equal(a['image'], b['image'])
    np.testing.assert_array_equal(a['ids'], b['ids'])
  others = [
    shapes.Shapes(seed=1)[5],
    shapes.Shapes('eval')[5],
    shapes.Shapes('test')[5],
    one[6],
  ]
  for other in others:
    assert (other['image'] != one[5]['image']).mean() > 0.5


@pytest.mark.parametrize('size', [64, (40, 56), 17])
@pytest.mark.parametrize('occlusion', [0.0, 1.0])
def test_ids_and_segments_agree(size, occlusion):
  source = shapes.Shapes(
    size=size, occlusion=occlusion, num_things=(0, 9), thing_size=(0.1, 0.6)
  )
  for index in range(40):
    example = source[index]
    ids, segments = example['ids'], example['segments']
    assert example['image'].shape == (*source.size, 3)
    assert example['image'].dtype == np.uint8 and ids.dtype == np.int32
    assert ids.shape == source.size
    names = [s.id for s in segments]
    assert names == list(range(1, len(names) + 1))
    assert set(np.unique(ids)) - {0} == set(names)
    kinds = [source.categories[s.class_id - 1] for s in segments]
    stuff = [c.name for c in kinds if not c.is_thing]
    assert len(stuff) == len(set(stuff))
    assert sum(c.is_thing for c in kinds) <= 9


def test_things_that_show_too_little_are_left_out():
  source = shapes.Shapes(
    occlusion=1.0, num_things=(6, 6), thing_size=(0.4, 0.5), min_visible=0.5
  )
  counts = [
    sum(source.categories[s.class_id - 1].is_thing for s in e['segments'])
    for e in (source[i] for i in range(30))
  ]
  assert 1 <= min(counts) < max(counts) <= 6


def test_no_two_things_overlap_without_occlusion():
  source = shapes.Shapes(
    occlusion=0.0, num_things=(1, 6), things=('circle',), thing_size=(0.2, 0.3)
  )
  # A circle that nothing covers and no edge cuts has the area of its radius.
  full = np.pi * (0.9 * 0.2 * 32) ** 2
  for index in range(40):
    example = source[index]
    areas = np.bincount(example['ids'].ravel())
    for segment in example['segments']:
      if source.categories[segment.class_id - 1].is_thing:
        assert areas[segment.id] > 0.9 * full


@pytest.mark.parametrize('hue,apart', [(0.0, False), (1.0, True)])
def test_hue_tells_the_class_only_when_asked(hue, apart):
  source = shapes.Shapes(hue=hue)
  rng = np.random.default_rng(0)

  def hues(kind):
    colors = np.array([source._color(rng, kind) for _ in range(200)])
    return {int(np.argmax(c)) for c in colors}, colors

  if apart:
    assert hues(0)[0] == {0} and 0 not in hues(3)[0]
  else:
    assert hues(0)[0] == hues(3)[0] == {0, 1, 2}


def test_every_shape_is_inside_its_circle_and_not_empty():
  u, v = np.meshgrid(np.linspace(-1.5, 1.5, 301), np.linspace(-1.5, 1.5, 301))
  masks = {}
  for name, distance in drawing.SHAPES.items():
    inside = distance(u, v) <= 0
    assert np.hypot(u, v)[inside].max() <= 1.05, name
    assert inside.sum() * 1e-4 > 0.5, name
    masks[name] = inside
  names = list(masks)
  for i, a in enumerate(names):
    for b in names[:i]:
      union = (masks[a] | masks[b]).sum()
      assert (masks[a] & masks[b]).sum() / union < 0.9, (a, b)


def test_captions_count_the_things_that_show():
  source = shapes.Shapes(things=('star',), num_things=(2, 2), occlusion=0.0)
  example = source[0]
  stars = sum(
    source.categories[s.class_id - 1].is_thing for s in example['segments']
  )
  assert ('two stars' if stars == 2 else 'a star') in example['caption']
  assert 'in front of the ' in example['caption']
  empty = shapes.Shapes(num_things=(0, 0))[0]['caption']
  assert empty.startswith('nothing')


def test_drawing_is_not_what_training_waits_for():
  source = shapes.Shapes()
  source[0]
  start = time.process_time()
  for index in range(100):
    source[index]
  # 2,000 a second on one idle core; a crowded one must keep 200.
  assert time.process_time() - start < 0.5


@pytest.mark.parametrize(
  'kwargs,words',
  [
    ({'split': 'evl'}, "data.split='evl'.*mean 'eval'"),
    ({'things': ('circel',)}, "mean 'circle'"),
    ({'things': ()}, 'at least one shape'),
    ({'hue': 1.5}, r'data.hue=1.5 must lie in \[0, 1\]'),
    ({'num_things': (4, 2)}, 'data.num_things'),
    ({'thing_size': (0.0, 0.5)}, 'data.thing_size'),
    ({'num_examples': 0}, 'data.num_examples=0'),
    ({'size': 4}, 'data.size'),
  ],
)
def test_bad_arguments(kwargs, words):
  with pytest.raises(ValueError, match=words):
    shapes.Shapes(**kwargs)
