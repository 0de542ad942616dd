"""The COCO panoptic reader: laws, real files, everything that can be wrong."""

import json
import pickle
import shutil

import numpy as np
import pytest
from PIL import Image

from pix2seqd_jax import types
from pix2seqd_jax.data.formats.files import read_panoptic_png
from pix2seqd_jax.data.readers import coco_panoptic
from pix2seqd_jax.registry import DATASETS

_IDS = np.array([[7, 7, 0, 900], [7, 70000, 70000, 900]])


def _save_map(path, ids):
  colors = np.stack([ids & 255, ids >> 8 & 255, ids >> 16], -1)
  Image.fromarray(colors.astype(np.uint8)).save(path)


@pytest.fixture
def layout(tmp_path):
  """A tiny data set: `.data` is the JSON, `.open()` writes and reads it."""

  class Layout:
    root = tmp_path
    data = {
      'images': [
        {'id': 5, 'file_name': 'five.png'},
        {'id': 3, 'file_name': 'three.png'},
      ],
      'annotations': [
        {
          'image_id': i,
          'file_name': f'{name}_map.png',
          'segments_info': [
            {'id': 70000, 'category_id': 90, 'iscrowd': 0},
            {'id': 7, 'category_id': 4, 'iscrowd': 0},
            {'id': 900, 'category_id': 90, 'iscrowd': 1, 'score': 0.5},
          ],
        }
        for i, name in ((3, 'three'), (5, 'five'))
      ],
      'categories': [
        {'id': 90, 'name': 'thing', 'isthing': 1, 'color': [1, 2, 3]},
        {'id': 4, 'name': 'stuff', 'isthing': 0},
      ],
    }

    def open(self, **kwargs):
      path = tmp_path / 'a.json'
      path.write_text(json.dumps(self.data))
      folders = {'images': tmp_path / 'i', 'panoptic': tmp_path / 'p'} | kwargs
      return coco_panoptic.CocoPanoptic(annotations=path, **folders)

  (tmp_path / 'i').mkdir()
  (tmp_path / 'p').mkdir()
  for name, level in (('three', 3), ('five', 5)):
    Image.new('RGB', (4, 2), (level,) * 3).save(tmp_path / f'i/{name}.png')
    _save_map(tmp_path / f'p/{name}_map.png', _IDS)
  return Layout()


def test_reads_what_is_there(layout):
  source = layout.open()
  assert DATASETS['coco_panoptic'] is type(source)
  assert isinstance(source, types.Source) and len(source) == 2
  assert source.categories == (
    types.Category(90, 'thing', True, (1, 2, 3)),
    types.Category(4, 'stuff', False, None),
  )
  example = source[1]
  assert example['file'] == 'five.png' and example['index'] == 1
  assert example['image_id'] == 5 and (example['image'] == 5).all()
  assert example['ids'].dtype == np.int32
  np.testing.assert_array_equal(example['ids'], [[2, 2, 0, 3], [2, 1, 1, 3]])
  assert example['segments'] == (
    types.Segment(1, 1),
    types.Segment(2, 2),
    types.Segment(3, 1, True, 0.5),
  )
  with pytest.raises(IndexError):
    source[2]


def test_files_are_looked_for_at_construction_until_one_is_there(layout):
  (layout.root / 'i' / 'five.png').unlink()
  source = layout.open()
  with pytest.raises(ValueError, match=r'five\.png, named by .*a\.json, does'):
    source[1]
  assert len(layout.open(max_examples=1)) == 1
  (layout.root / 'p' / 'three_map.png').unlink()
  with pytest.raises(ValueError, match=r'three_map\.png, named by'):
    layout.open()[0]
  (layout.root / 'p' / 'five_map.png').unlink()
  with pytest.raises(ValueError, match=r'three_map\.png.*check data\.images'):
    layout.open()


def _edit(layout, *path, to):
  *keys, last = path
  place = layout.data
  for key in keys:
    place = place[key]
  if to is None:
    del place[last]
  else:
    place[last] = to


_FIRST = ('annotations', 0)
_INFO = (*_FIRST, 'segments_info', 0)


@pytest.mark.parametrize(
  'path,value,words',
  [
    (('images',), None, "no list 'images'"),
    (('categories',), [], 'at least one category'),
    (('annotations',), [], 'has no annotations'),
    (('images', 0, 'file_name'), '../five.png', r"five.png'.*by '\.\.'"),
    (('images', 0, 'file_name'), '/five.png', 'absolute'),
    ((*_FIRST, 'file_name'), 'a/../../m.png', r"by '\.\.'"),
    (('images', 0, 'id'), 3, 'two images have the same id'),
    (('images', 0, 'id'), 6, 'image_id=5 has no entry'),
    ((*_FIRST, 'image_id'), 5, 'same image_id'),
    ((*_FIRST, 'segments_info'), None, "'segments_info'"),
    ((*_INFO, 'category_id'), 91, r'three_map.png .* category 91'),
    ((*_INFO, 'id'), 7, 'two segments have the same id'),
    ((*_INFO, 'id'), 0, r'must lie in 1\.\.2\^24 - 1'),
    ((*_INFO, 'id'), 'x', 'wrong kind'),
  ],
)
def test_a_broken_json_is_refused_at_construction(layout, path, value, words):
  _edit(layout, *path, to=value)
  with pytest.raises(ValueError, match=words) as caught:
    layout.open()
  assert 'a.json' in str(caught.value)


@pytest.mark.parametrize(
  'kwargs,words',
  [
    ({'images': '/nowhere'}, 'data.images=/nowhere is not a folder'),
    ({'max_examples': 0}, 'data.max_examples=0'),
  ],
)
def test_bad_arguments(layout, kwargs, words):
  with pytest.raises(ValueError, match=words):
    layout.open(**kwargs)


def test_ids_must_agree_both_ways(layout):
  _edit(layout, *_INFO, 'id', to=71)
  with pytest.raises(ValueError, match=r'three_map.png has the ids 70000'):
    layout.open()[0]
  _edit(layout, *_INFO, 'id', to=70000)
  extra = {'id': 12, 'category_id': 4}
  layout.data['annotations'][0]['segments_info'].append(extra)
  with pytest.raises(ValueError, match=r'names the ids 12.*three_map\.png'):
    layout.open()[0]


def test_a_image_without_segments_is_all_void(layout):
  layout.data['annotations'][0]['segments_info'] = []
  _save_map(layout.root / 'p' / 'three_map.png', 0 * _IDS)
  example = layout.open()[0]
  assert example['segments'] == () and not example['ids'].any()


def test_image_and_map_must_have_one_size(layout):
  Image.new('RGB', (5, 2)).save(layout.root / 'i' / 'three.png')
  with pytest.raises(ValueError, match=r'three.png is 2 x 5 .* is 2 x 4'):
    layout.open()[0]


def test_exif_orientation_and_the_map(layout):
  upright = layout.root / 'p' / 'three_map.png'
  image = Image.new('RGB', (2, 4))
  exif = image.getexif()
  exif[0x0112] = 6
  image.save(layout.root / 'i' / 'three.png', exif=exif)
  assert layout.open()[0]['image'].shape == (2, 4, 3)
  _save_map(upright, _IDS.T)
  with pytest.raises(ValueError, match=r'data\.exif=False'):
    layout.open()[0]
  assert layout.open(exif=False)[0]['image'].shape == (4, 2, 3)


@pytest.mark.parametrize('kind', ['i/three.png', 'p/three_map.png'])
def test_zero_bytes(layout, kind):
  (layout.root / kind).write_bytes(b'')
  with pytest.raises(ValueError, match=rf'{kind[2:]} is empty'):
    layout.open()[0]


def test_a_gray_map_is_refused(layout):
  Image.new('L', (4, 2)).save(layout.root / 'p' / 'three_map.png')
  with pytest.raises(ValueError, match=r"three_map.png .* mode 'L'"):
    layout.open()[0]


_REAL = {
  'nuclei/val': ('nuclei/val', 'nuclei/panoptic_val', 'nuclei', 'panoptic_val'),
  'nuclei/train': (
    'nuclei/train',
    'nuclei/panoptic_train',
    'nuclei',
    'panoptic_train',
  ),
  'coco': (
    'coco_mini/images',
    'coco_mini/panoptic',
    'coco_mini',
    'panoptic_full',
  ),
  'agnostic': (
    'coco_mini/images',
    'coco_mini/panoptic',
    'coco_mini',
    'panoptic_class_agnostic',
  ),
}


@pytest.mark.parametrize('name', _REAL)
def test_real_files(shared, name):
  images, panoptic, folder, file = _REAL[name]
  root = shared / 'data'
  annotations = root / folder / 'annotations' / f'{file}.json'
  source = coco_panoptic.CocoPanoptic(
    root / images, root / panoptic, annotations
  )
  raw = json.loads(annotations.read_text())
  assert len(source) == len(raw['annotations'])
  assert [c.id for c in source.categories] == [
    c['id'] for c in raw['categories']
  ]
  for index in range(0, len(source), max(1, len(source) // 6)):
    example, truth = source[index], raw['annotations'][index]
    ids = example['ids']
    assert example['image'].shape == (*ids.shape, 3)
    assert example['image_id'] == truth['image_id']
    areas = np.bincount(ids.ravel(), minlength=len(example['segments']) + 1)
    original = read_panoptic_png(root / panoptic / truth['file_name'])
    for segment, info in zip(
      example['segments'], truth['segments_info'], strict=True
    ):
      category = source.categories[segment.class_id - 1]
      assert category.id == info['category_id']
      assert segment.is_crowd == bool(info['iscrowd'])
      assert areas[segment.id] == info['area']
      assert (original[ids == segment.id] == info['id']).all()
    np.testing.assert_array_equal(ids == 0, original == 0)


def test_an_archive_gives_the_same_examples(layout, tmp_path_factory):
  """As data.root=NAME.zip does, which stands before each of the paths."""
  ours = layout.open()
  where = tmp_path_factory.mktemp('packed') / 'all'
  packed = shutil.make_archive(where, 'zip', layout.root)
  theirs = coco_panoptic.CocoPanoptic(
    f'{packed}/i', f'{packed}/p', f'{packed}/a.json'
  )
  assert theirs.categories == ours.categories and len(theirs) == len(ours)
  again = pickle.loads(pickle.dumps(theirs))  # as for workers
  for source in (theirs, again):
    for index in range(len(ours)):
      for key, value in ours[index].items():
        np.testing.assert_array_equal(value, source[index][key])
  with pytest.raises(ValueError, match=r"all\.zip has no folder 'train'"):
    coco_panoptic.CocoPanoptic(
      f'{packed}/train', f'{packed}/p', f'{packed}/a.json'
    )
