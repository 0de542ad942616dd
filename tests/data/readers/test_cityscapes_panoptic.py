"""The official panoptic Cityscapes: names, classes, ids, counts."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from pix2seqd_jax import types
from pix2seqd_jax.data.readers import cityscapes_panoptic as cityscapes
from pix2seqd_jax.data.readers.layouts import CITYSCAPES
from pix2seqd_jax.data.validate import validate
from pix2seqd_jax.registry import DATASETS

# Road, two cars, a group of people, void.
_IDS = np.array([[7, 7, 26000, 0], [24, 24, 26001, 26001]])


@pytest.fixture(params=['label ids', 'train ids'])
def layout(request, tmp_path):
  """Two images as the benchmark's scripts write them."""
  numbers = [label.label_id for label in CITYSCAPES]
  if request.param == 'train ids':
    numbers = list(range(19))
  by_label = dict(zip([label.label_id for label in CITYSCAPES], numbers))
  data = {
    'images': [],
    'annotations': [],
    'categories': [
      {
        'id': number,
        'name': label.name,
        'color': list(label.color),
        'supercategory': 'x',
        'isthing': int(label.is_thing),
      }
      for number, label in zip(numbers, CITYSCAPES)
    ],
  }
  maps = tmp_path / 'gtFine' / 'cityscapes_panoptic_val'
  maps.mkdir(parents=True)
  for stem in ('frankfurt_000000_000294', 'munster_000001_000019'):
    city = stem.partition('_')[0]
    folder = tmp_path / 'leftImg8bit' / 'val' / city
    folder.mkdir(parents=True)
    Image.new('RGB', (4, 2)).save(folder / f'{stem}_leftImg8bit.png')
    colors = np.stack([_IDS & 255, _IDS >> 8 & 255, _IDS >> 16], -1)
    path = maps / f'{stem}_gtFine_panoptic.png'
    Image.fromarray(colors.astype(np.uint8)).save(path)
    data['images'].append(
      {
        'id': stem,
        'width': 4,
        'height': 2,
        'file_name': f'{stem}_gtFine_leftImg8bit.png',
      }
    )
    data['annotations'].append(
      {
        'image_id': stem,
        'file_name': path.name,
        'segments_info': [
          {
            'id': i,
            'category_id': by_label[i if i < 1000 else i // 1000],
            'area': int((i == _IDS).sum()),
            'iscrowd': int(i == 24),
          }
          for i in (7, 24, 26000, 26001)
        ],
      }
    )

  class Layout:
    root, numbers = tmp_path, by_label

    def args(self, root=tmp_path, **kwargs):
      path = tmp_path / 'gtFine' / 'cityscapes_panoptic_val.json'
      path.write_text(json.dumps(self.data))
      return {
        'images': f'{root}/leftImg8bit/val',
        'panoptic': f'{root}/gtFine/cityscapes_panoptic_val',
        'annotations': f'{root}/gtFine/cityscapes_panoptic_val.json',
        'official': False,
        **kwargs,
      }

    def open(self, **kwargs):
      return cityscapes.CityscapesPanoptic(**self.args(**kwargs))

  Layout.data = data
  return Layout()


def test_reads_the_official_files(layout):
  source = layout.open()
  assert DATASETS['cityscapes_panoptic'] is type(source)
  assert isinstance(source, types.Source) and len(source) == 2
  names = [category.name for category in source.categories]
  assert names == [label.name for label in CITYSCAPES] and len(names) == 19
  assert sum(category.is_thing for category in source.categories) == 8
  example = source[1]
  assert example['file'] == 'munster/munster_000001_000019_leftImg8bit.png'
  assert example['image_id'] == 'munster_000001_000019'
  np.testing.assert_array_equal(example['ids'], [[1, 1, 3, 0], [2, 2, 4, 4]])
  found = [(names[s.class_id - 1], s.is_crowd) for s in example['segments']]
  assert found == [
    ('road', False),
    ('person', True),
    ('car', False),
    ('car', False),
  ]
  assert validate(type(source), layout.args()).found == []


def test_an_archive_will_do(layout, tmp_path_factory):
  layout.args()
  where = tmp_path_factory.mktemp('packed') / 'city'
  packed = shutil.make_archive(where, 'zip', layout.root)
  ours, theirs = layout.open(), layout.open(root=packed)
  for key, value in ours[0].items():
    np.testing.assert_array_equal(value, theirs[0][key])


def test_the_order_of_the_json_does_not_matter(layout):
  expected = layout.open().categories
  layout.data['categories'].reverse()
  assert layout.open().categories == expected


def test_counts_are_insisted_on(layout):
  with pytest.raises(ValueError, match=r'has 2 annotations.*has 500\..*offici'):
    layout.open(official=True)
  with pytest.raises(ValueError, match='has 2975'):
    layout.open(official=True, split='train')
  with pytest.raises(ValueError, match=r"data\.split='dev' must be one of"):
    layout.open(official=True, split='dev')
  result = validate(cityscapes.CityscapesPanoptic, layout.args(official=True))
  assert [f.rule for f in result.found] == ['wrong_count']
  entry = layout.data['annotations'][0], layout.data['images'][0]
  for i in range(498):
    layout.data['annotations'].append({**entry[0], 'image_id': f'a_{i}'})
    layout.data['images'].append({**entry[1], 'id': f'a_{i}'})
  assert len(layout.open(official=True)) == 500
  assert len(layout.open(official=True, max_examples=3)) == 3


def test_what_contradicts_cityscapes(layout):
  info = layout.data['annotations'][0]['segments_info'][2]
  info['category_id'] = layout.numbers[27]
  with pytest.raises(ValueError, match=r'id 26000 is of label 26.*\(truck\)'):
    layout.open()
  info['category_id'] = layout.numbers[26]
  layout.data['categories'][11]['isthing'] = 0
  with pytest.raises(ValueError, match="is 'person', isthing=0; in City"):
    layout.open()
  del layout.data['categories'][11]
  with pytest.raises(ValueError, match='evaluates 19 classes'):
    layout.open()


def test_names_of_images():
  form = cityscapes.CityscapesJson
  for given, expected in (
    ('a_1_2_gtFine_leftImg8bit.png', 'a/a_1_2_leftImg8bit.png'),
    ('a_1_2_leftImg8bit.png', 'a/a_1_2_leftImg8bit.png'),
    ('a/a_1_2_leftImg8bit.png', 'a/a_1_2_leftImg8bit.png'),
    ('other.png', 'other.png'),
    ('../up_1_leftImg8bit.png', '../up_1_leftImg8bit.png'),
  ):
    assert form.image_name(None, given) == expected
