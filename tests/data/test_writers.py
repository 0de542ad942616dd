"""What the writer writes, our reader and the format's rules read back."""

import json

import numpy as np
import pytest
from PIL import Image

from pix2seqd_jax.data import coco_panoptic, shapes, writers
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
  with writers.PanopticWriter(tmp_path, source.categories) as writer:
    for i in range(len(source)):
      example = source[i]
      Image.fromarray(example['image']).save(images / example['file'])
      segments = tuple(
        s._replace(score=None if i else 1 / 3, is_crowd=i == 2)
        for s in example['segments']
      )
      path = writer.add(example['file'], example['ids'], segments)
      assert path.is_file()
  read = coco_panoptic.CocoPanoptic(
    images, tmp_path / 'panoptic', tmp_path / 'panoptic.json'
  )
  assert read.categories == source.categories and len(read) == 4
  for i in range(len(source)):
    np.testing.assert_array_equal(read[i]['ids'], source[i]['ids'])
    np.testing.assert_array_equal(read[i]['image'], source[i]['image'])
    for a, b in zip(read[i]['segments'], source[i]['segments'], strict=True):
      assert (a.id, a.category) == (b.id, b.category)
      assert a.score == (None if i else 1 / 3)
      assert a.is_crowd == (i == 2)


def test_areas_boxes_and_names(tmp_path):
  writer = writers.PanopticWriter(tmp_path, CATEGORIES)
  assert writer.add('a/x.jpg', IDS, SEGMENTS).name == 'x.png'
  assert writer.add('a/x.png', IDS, SEGMENTS).name == 'x_2.png'
  writer.add('y.jpg', IDS, SEGMENTS, image_id=42)
  assert not (tmp_path / 'panoptic.json').exists()
  data = json.loads(writer.close().read_text())
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
    with writers.PanopticWriter(tmp_path, CATEGORIES) as writer:
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
  writer = writers.PanopticWriter(tmp_path, CATEGORIES)
  writer.add('first.jpg', IDS, SEGMENTS)
  good = {'file_name': 'x.jpg', 'ids': IDS, 'segments': SEGMENTS}
  with pytest.raises(ValueError, match=words):
    writer.add(**(good | change))
  assert len(json.loads(writer.close().read_text())['annotations']) == 1
