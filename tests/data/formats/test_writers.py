"""What the writer writes, our reader and the format's rules read back."""

import json

import numpy as np
import pytest
from PIL import Image

from pix2seqd_jax.data.formats import writers
from pix2seqd_jax.data.readers import coco_panoptic, semantic_folder, shapes
from pix2seqd_jax.encoding import rle
from pix2seqd_jax.types import Category, Segment

CATEGORIES = (
  Category(7, 'thing', True, (9, 8, 7)),
  Category(3, 'stuff', False, None),
)
IDS = np.array([[0, 1, 1], [2, 2, 1], [2, 2, 0]], np.int32)
SEGMENTS = (Segment(1, 2), Segment(2, 1, True, 0.1 + 0.2))


def test_our_reader_reads_it_back_exactly(tmp_path):
  source = shapes.Shapes(num_examples=4, size=(20, 28))
  images = tmp_path / 'images'
  images.mkdir()
  with writers.Writer(tmp_path, source.categories) as writer:
    for i in range(len(source)):
      example = source[i]
      Image.fromarray(example['image']).save(images / example['file'])
      segments = tuple(
        s._replace(score=None if i else 1 / 3, is_crowd=i == 2)
        for s in example['segments']
      )
      name = writer.add(example['file'], example['ids'], segments)
      assert (tmp_path / 'panoptic' / name).is_file()
  read = coco_panoptic.CocoPanoptic(
    images, tmp_path / 'panoptic', tmp_path / 'panoptic.json'
  )
  assert read.categories == source.categories and len(read) == 4
  for i in range(len(source)):
    np.testing.assert_array_equal(read[i]['ids'], source[i]['ids'])
    np.testing.assert_array_equal(read[i]['image'], source[i]['image'])
    for a, b in zip(read[i]['segments'], source[i]['segments'], strict=True):
      assert (a.id, a.class_id) == (b.id, b.class_id)
      assert a.score == (None if i else 1 / 3)
      assert a.is_crowd == (i == 2)


def test_areas_boxes_and_names(tmp_path):
  writer = writers.Writer(tmp_path, CATEGORIES)
  assert writer.add('a/x.jpg', IDS, SEGMENTS) == 'a/x.png'
  assert writer.add('a/x.png', IDS, SEGMENTS) == 'a/x_2.png'
  writer.add('y.jpg', IDS, SEGMENTS, image_id=42)
  assert not (tmp_path / 'panoptic.json').exists()
  writer.close()
  data = json.loads((tmp_path / 'panoptic.json').read_text())
  assert data['images'][0] == {
    'id': 1,
    'file_name': 'a/x.jpg',
    'height': 3,
    'width': 3,
  }
  assert [a['image_id'] for a in data['annotations']] == [1, 2, 42]
  assert data['annotations'][0]['file_name'] == 'a/x.png'
  first, second = data['annotations'][0]['segments_info']
  assert first == {
    'id': 1,
    'category_id': 3,
    'area': 3,
    'bbox': [1, 0, 2, 2],
    'iscrowd': 0,
  }
  assert second['bbox'] == [0, 1, 2, 2] and second['score'] == 0.1 + 0.2
  assert second['iscrowd'] == 1 and second['category_id'] == 7


def test_boxes_are_the_smallest_rectangles(tmp_path):
  rng = np.random.default_rng(0)
  ids = rng.integers(0, 40, (13, 17)) * 1000
  for name, (area, (left, top, width, height)) in writers._measure(ids).items():
    rows, columns = np.nonzero(ids == name)
    assert area == len(rows)
    assert (left, top) == (columns.min(), rows.min())
    assert (left + width - 1, top + height - 1) == (columns.max(), rows.max())


def test_no_json_where_the_block_fails(tmp_path):
  with pytest.raises(RuntimeError):
    with writers.Writer(tmp_path, CATEGORIES) as writer:
      writer.add('x.jpg', IDS, SEGMENTS)
      raise RuntimeError
  assert not (tmp_path / 'panoptic.json').exists()


@pytest.mark.parametrize(
  'change,words',
  [
    ({'segments': SEGMENTS[:1]}, 'exactly one segment'),
    ({'segments': (*SEGMENTS, Segment(3, 1))}, 'exactly one segment'),
    ({'segments': (*SEGMENTS, SEGMENTS[0])}, 'exactly one segment'),
    ({'segments': (Segment(1, 3), SEGMENTS[1])}, r'class 3.*1\.\.2'),
    ({'file_name': '../x.jpg'}, 'climbs out'),
    ({'file_name': '/x.jpg'}, 'absolute'),
    ({'ids': IDS.astype(float)}, 'must be integers'),
    ({'ids': -IDS, 'segments': (Segment(-1, 1), Segment(-2, 1))}, '24 bits'),
    ({'image_id': 1}, 'image_id=1 was written before'),
  ],
)
def test_bad_maps(tmp_path, change, words):
  writer = writers.Writer(tmp_path, CATEGORIES)
  writer.add('first.jpg', IDS, SEGMENTS)
  good = {'file_name': 'x.jpg', 'ids': IDS, 'segments': SEGMENTS}
  with pytest.raises(ValueError, match=words):
    writer.add(**(good | change))
  writer.close()
  data = json.loads((tmp_path / 'panoptic.json').read_text())
  assert len(data['annotations']) == 1


def test_run_lengths_are_the_masks_of_the_things(tmp_path):
  source = shapes.Shapes(num_examples=2, size=(20, 28))
  with writers.Writer(tmp_path, source.categories, ('rle',)) as writer:
    for i in range(2):
      example = source[i]
      segments = [s._replace(score=0.5) for s in example['segments']]
      writer.add(example['file'], example['ids'], segments, image_id=i + 5)
  data = json.loads((tmp_path / 'instances.json').read_text())
  results = json.loads((tmp_path / 'instances_results.json').read_text())
  assert {c['isthing'] for c in data['categories']} == {1}
  assert [a['id'] for a in data['annotations']] == [*range(1, len(results) + 1)]
  found = iter(zip(data['annotations'], results, strict=True))
  for i in range(2):
    example = source[i]
    for segment in example['segments']:
      category = source.categories[segment.class_id - 1]
      if not category.is_thing:
        continue
      annotation, result = next(found)
      mask = example['ids'] == segment.id
      counts = rle.from_string(result['segmentation']['counts'])
      np.testing.assert_array_equal(rle.to_mask(counts, (20, 28)), mask)
      assert result['segmentation'] == annotation['segmentation']
      assert result['segmentation']['size'] == [20, 28]
      assert result['category_id'] == category.id
      assert result['image_id'] == i + 5 and result['score'] == 0.5
      assert annotation['area'] == mask.sum()
  assert next(found, None) is None


def test_label_maps_are_read_back_as_a_semantic_folder(tmp_path):
  source = shapes.Shapes(num_examples=2, size=(20, 28))
  (tmp_path / 'images').mkdir()
  with writers.Writer(
    tmp_path, source.categories, ('labels',), values='classes'
  ) as writer:
    for i in range(2):
      example = source[i]
      image = Image.fromarray(example['image'])
      image.save(tmp_path / 'images' / example['file'])
      writer.add(example['file'], example['ids'], example['segments'])
  names = [c.name for c in source.categories]
  read = semantic_folder.SemanticFolder(
    tmp_path / 'images', tmp_path / 'labels', classes=names, first=1, void=(0,)
  )
  for i in range(2):
    classes = {s.id: s.class_id for s in source[i]['segments']}
    expected = np.vectorize(lambda n, classes=classes: classes.get(n, 0))(
      source[i]['ids']
    )
    np.testing.assert_array_equal(read[i]['ids'], expected)


def test_pycocotools_loads_the_results(tmp_path):
  coco = pytest.importorskip('pycocotools.coco')
  source = shapes.Shapes(num_examples=2, size=(20, 28))
  with writers.Writer(tmp_path, source.categories, ('rle',)) as writer:
    for i in range(2):
      writer.add(source[i]['file'], source[i]['ids'], source[i]['segments'])
  truth = coco.COCO(str(tmp_path / 'instances.json'))
  found = truth.loadRes(str(tmp_path / 'instances_results.json'))
  for theirs, ours in zip(truth.anns.values(), found.anns.values()):
    assert (truth.annToMask(theirs) == found.annToMask(ours)).all()
    assert theirs['area'] == ours['area'] == truth.annToMask(theirs).sum()
    assert theirs['bbox'] == list(ours['bbox'])


@pytest.mark.parametrize('values', ['ids', 'classes'])
def test_label_maps_have_one_value_a_class(tmp_path, values):
  formats = ('labels', 'palette')
  colors = np.array([[0, 0, 0], [9, 8, 7], [1, 2, 3]], np.uint8)
  with writers.Writer(
    tmp_path, CATEGORIES, formats, colors=colors, values=values
  ) as writer:
    name = writer.add('x.jpg', IDS, SEGMENTS)
  classes = np.array([0, 2, 1])[IDS]
  legend = json.loads((tmp_path / 'labels.json').read_text())
  table = [legend['void'], *(c['value'] for c in legend['categories'])]
  assert table == ([0, 7, 3] if values == 'ids' else [0, 1, 2])
  with Image.open(tmp_path / 'labels' / name) as image:
    assert image.mode == 'L'
    np.testing.assert_array_equal(image, np.array(table)[classes])
  with Image.open(tmp_path / 'palette' / name) as image:
    assert image.mode == 'P'
    np.testing.assert_array_equal(image, classes)
    np.testing.assert_array_equal(image.convert('RGB'), colors[classes])
  assert not (tmp_path / 'panoptic').exists()


@pytest.mark.parametrize(
  'change,words',
  [
    ({'formats': ('panoptik',)}, "'panoptik' is unknown.*panoptic"),
    ({'formats': ('palette',)}, 'needs colors'),
    ({'formats': ('labels',), 'values': 'names'}, "values='names'"),
  ],
)
def test_bad_formats(tmp_path, change, words):
  with pytest.raises(ValueError, match=words):
    writers.Writer(tmp_path, CATEGORIES, **change)
