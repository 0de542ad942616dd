"""Instances: drawn as COCO does, painted in order, round from our writer."""

import json

import numpy as np
import pytest
from PIL import Image

from pix2seqd_jax.data import validate
from pix2seqd_jax.data.formats import faults, writers
from pix2seqd_jax.data.readers import shapes
from pix2seqd_jax.data.readers.coco_instances import CocoInstances
from pix2seqd_jax.encoding import rle

H, W = 20, 30
SQUARE = [2, 2, 12, 2, 12, 12, 2, 12]


def mask(rows, columns):
  found = np.zeros((H, W), bool)
  found[rows, columns] = True
  return found


def runs(found, compressed):
  counts = rle.from_mask(found)
  counts = rle.to_string(counts) if compressed else counts.tolist()
  return {'size': [H, W], 'counts': counts}


CROWD = mask(slice(0, 20), slice(0, 25))
SMALL = mask(slice(4, 7), slice(4, 7))


def annotations():
  """A crowd under a square under a small one; two polygons; one hidden."""
  common = {'image_id': 7, 'category_id': 18, 'iscrowd': 0}
  return [
    {**common, 'id': 10, 'segmentation': runs(SMALL, True)},
    {**common, 'id': 11, 'segmentation': [SQUARE], 'category_id': 3},
    {**common, 'id': 12, 'segmentation': runs(CROWD, False), 'iscrowd': 1},
    # Hidden by 14, which is as large and comes later.
    {**common, 'id': 13, 'segmentation': runs(mask(19, 29), True)},
    {**common, 'id': 14, 'segmentation': runs(mask(19, 29), True)},
    {
      **common,
      'id': 15,
      'segmentation': [[25, 0, 28, 0, 28, 3, 25, 3], [26, 9, 29, 9, 29, 12]],
    },
  ]


@pytest.fixture
def folder(tmp_path):
  (tmp_path / 'images').mkdir()
  rng = np.random.default_rng(0)
  for name in ('a.png', 'b.png'):
    pixels = rng.integers(0, 256, (H, W, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / 'images' / name)
  return tmp_path


def write(folder, entries=None, **change):
  data = {
    'images': [
      {'id': 7, 'file_name': 'a.png', 'height': H, 'width': W},
      {'id': 8, 'file_name': 'b.png', 'height': H, 'width': W},
    ],
    'annotations': annotations() if entries is None else entries,
    'categories': [{'id': 18, 'name': 'dog'}, {'id': 3, 'name': 'car'}],
  }
  (folder / 'i.json').write_text(json.dumps(data | change))
  return {'images': folder / 'images', 'annotations': folder / 'i.json'}


def test_small_ones_stay_on_top_and_crowds_lie_under_all(folder):
  source = CocoInstances(**write(folder))
  assert [(c.id, c.name, c.is_thing) for c in source.categories] == [
    (18, 'dog', True),
    (3, 'car', True),
  ]
  first, second = source[0], source[1]
  assert (first['file'], first['image_id'], first['index']) == ('a.png', 7, 0)
  ids, segments = first['ids'], first['segments']
  assert ids.dtype == np.int32 and ids.shape == (H, W)
  assert ids.flags.c_contiguous
  assert [s.id for s in segments] == [1, 2, 3, 4, 5]  # 13 is hidden
  assert [s.class_id for s in segments] == [1, 2, 1, 1, 1]
  assert [s.is_crowd for s in segments] == [False, False, True, False, False]
  square = mask(slice(2, 12), slice(2, 12))
  np.testing.assert_array_equal(ids == 1, SMALL)
  np.testing.assert_array_equal(ids == 2, square & ~SMALL)
  np.testing.assert_array_equal(ids == 3, CROWD & ~square)
  assert ids[19, 29] == 4
  assert (ids[0:3, 25:28] == 5).all()
  # An image without annotation is an image of nothing.
  assert not second['ids'].any() and second['segments'] == ()
  assert len(source) == 2
  assert len(CocoInstances(**write(folder), max_examples=1)) == 1
  with pytest.raises(IndexError):
    source[2]


def test_pycocotools_draws_the_same_instances(folder):
  coco = pytest.importorskip('pycocotools.coco')
  args = write(folder)
  theirs, ours = coco.COCO(str(args['annotations'])), CocoInstances(**args)
  for i, annotation in enumerate(annotations()):
    counts = ours._json.shapes.counts(i, (H, W), '')
    np.testing.assert_array_equal(
      rle.to_mask(counts, (H, W)), theirs.annToMask(theirs.anns[i + 10])
    )
    assert annotation['id'] == i + 10


def test_what_the_writer_writes_is_read_back(tmp_path):
  source = shapes.Shapes(num_examples=3, size=(24, 32))
  (tmp_path / 'images').mkdir()
  with writers.Writer(tmp_path, source.categories, ('rle',)) as writer:
    for i in range(3):
      example = source[i]
      image = Image.fromarray(example['image'])
      image.save(tmp_path / 'images' / example['file'])
      scored = [s._replace(score=s.id / 7) for s in example['segments']]
      writer.add(example['file'], example['ids'], scored)
  read = CocoInstances(tmp_path / 'images', tmp_path / 'instances.json')
  things = [c for c in source.categories if c.is_thing]
  assert list(read.categories) == things
  for i in range(3):
    example, found = source[i], read[i]
    classes = {
      s.id: source.categories[s.class_id - 1] for s in example['segments']
    }
    names = [n for n, c in sorted(classes.items()) if c.is_thing]
    table = np.zeros(example['ids'].max() + 1, int)
    table[names] = np.arange(1, len(names) + 1)
    np.testing.assert_array_equal(found['ids'], table[example['ids']])
    for name, segment in zip(names, found['segments'], strict=True):
      assert things[segment.class_id - 1] == classes[name]
      assert segment.score == name / 7


BAD = [
  ({'segmentation': [[1, 2, 3, 4, 5]]}, 'bad_segmentation', 'three points'),
  ({'segmentation': [[1, 2, 3, 4]]}, 'bad_segmentation', 'three points'),
  ({'segmentation': [[1, 2, 3, '4', 5, 6]]}, 'bad_segmentation', 'three'),
  ({'segmentation': [[[1, 2], [3]]]}, 'bad_segmentation', 'three points'),
  ({'segmentation': [[1, 2, 3, None, 5, 6]]}, 'bad_segmentation', 'three'),
  ({'segmentation': [[1, 2, 3, 1e12, 5, 6]]}, 'bad_segmentation', 'far from'),
  ({'segmentation': []}, 'bad_segmentation', 'list of polygons'),
  ({'segmentation': 'x'}, 'bad_segmentation', 'list of polygons'),
  ({'segmentation': {'size': [H, W]}}, 'bad_segmentation', 'need size'),
  (
    {'segmentation': {'size': [H, W], 'counts': [5, 5]}},
    'bad_segmentation',
    'add up to 10',
  ),
  (
    {'segmentation': {'size': [W, H], 'counts': [600]}},
    'bad_segmentation',
    '30 x 20 but the image is 20 x 30',
  ),
  (
    {'segmentation': {'size': [H, W], 'counts': 'P'}},
    'bad_segmentation',
    'cut off',
  ),
  ({'category_id': 5}, 'unknown_category', 'category 5'),
  ({'image_id': 5}, 'unknown_image', 'image_id=5'),
  ({'id': 10}, 'duplicate_annotation', 'that of another one'),
  ({'iscrowd': 2}, 'bad_entry', 'iscrowd=2'),
  ({'score': 10**400}, 'bad_entry', 'score='),
]


@pytest.mark.parametrize('change, rule, words', BAD)
def test_a_bad_annotation_is_named_and_validate_lists_it(
  folder, change, rule, words
):
  good = annotations()
  bad = {**good[1], 'id': 99, **change}
  args = write(folder, [good[0], bad])
  name = f'annotation {bad["id"]}'
  with pytest.raises(faults.DataError, match=name) as caught:
    CocoInstances(**args)[0]
  assert words in str(caught.value) and caught.value.fault.rule == rule
  result = validate.validate(CocoInstances, args, num_threads=1)
  assert [(f.rule, words in f.message) for f in result.faults] == [(rule, True)]
  assert result.num_examples == 2


def test_all_faults_at_once(folder):
  bad = [
    {**annotations()[1], 'id': i, **c} for i, (c, *_) in enumerate(BAD, 30)
  ]
  images = [
    {'id': 7, 'file_name': 'a.png', 'height': H, 'width': W},
    {'id': 8, 'file_name': 'b.png', 'height': W, 'width': H},
    {'id': 9, 'file_name': 'gone.png', 'height': H, 'width': W},
  ]
  args = write(folder, bad, images=images)
  rules = validate.validate(CocoInstances, args).by_rule()
  assert rules == {
    'bad_segmentation': 12,
    'unknown_category': 1,
    'unknown_image': 1,
    'bad_entry': 2,
    'size_in_json': 1,
    'missing_file': 1,
  }


@pytest.mark.parametrize(
  'change, words',
  [
    ({'images': 3}, "no list 'images'"),
    ({'images': []}, 'no images'),
    ({'images': [{'id': 7}]}, "lacks 'file_name'"),
    ({'categories': [{'name': 'dog'}]}, "lacks 'id'"),
    ({'annotations': [{'id': 1}]}, "lacks 'image_id'"),
    ({'images': [{'id': 7, 'file_name': '../a.png'}]}, 'climbs out'),
    ({'images': [{'id': 7, 'file_name': 'c.png'}]}, 'nor do others'),
  ],
)
def test_a_bad_json(folder, change, words):
  with pytest.raises(ValueError, match=words):
    CocoInstances(**write(folder, **change))


def test_a_turned_image_is_told_of(folder):
  images = [{'id': 7, 'file_name': 'a.png', 'height': W, 'width': H}]
  source = CocoInstances(**write(folder, [], images=images))
  with pytest.raises(ValueError, match=r'20 x 30 but .* 30 x 20 .*exif=False'):
    source[0]
