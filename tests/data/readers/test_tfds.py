"""TFDS directories: the examples of the original readers, whatever the format.

The directories are prepared by TFDS's own code, without TensorFlow; those of
its own builders are test_tfds_builders.py's.
"""

import pickle

import numpy as np
import pytest
import tfds_folders
import tiny_coco

from pix2seqd_jax import types
from pix2seqd_jax.data.convert import Conversion
from pix2seqd_jax.data.formats.panoptic_record import png
from pix2seqd_jax.data.readers import semantic_folder
from pix2seqd_jax.data.readers.array_record import ArrayRecord
from pix2seqd_jax.data.readers.coco_categories import COCO_PANOPTIC
from pix2seqd_jax.data.readers.tfds import Tfds
from pix2seqd_jax.registry import DATASETS


@pytest.fixture(scope='module')
def coco(tmp_path_factory):
  return tfds_folders.coco(tmp_path_factory.mktemp('coco'))


@pytest.mark.parametrize('file_format', ['array_record', 'tfrecord'])
def test_panoptic_examples_equal_those_of_the_files(
  coco, tmp_path, file_format
):
  source, folder, root = coco
  if file_format == 'tfrecord':
    folder = tfds_folders.as_tfrecord(folder, tmp_path / 'tfrecord')
  found = Tfds(folder, categories=root / 'panoptic.json')
  assert DATASETS['tfds'] is Tfds and isinstance(found, types.Source)
  assert found.categories == source.categories
  tfds_folders.equal(found, source)
  tiny_coco.assert_same(pickle.loads(pickle.dumps(found)), found)
  # Random access, parts of a split, and further as ArrayRecord.
  part = Tfds(folder, split='train[50%:]', categories=root / 'panoptic.json')
  assert part[0]['file'] == found[3]['file'] and len(part) == 3
  Conversion(found, tmp_path / 'out', 'train').run()
  tiny_coco.assert_same(ArrayRecord(tmp_path / 'out'), found)
  assert found.original(2)['image'] in {
    path.read_bytes() for path in (root / 'images').rglob('*.*')
  }


def test_a_prepared_data_set_is_found_by_name(coco):
  _, folder, root = coco
  kwargs = {'categories': root / 'panoptic.json'}
  found = Tfds(name='tiny_panoptic', data_dir=root / 'tfds', **kwargs)
  assert found.folder == str(folder)
  with pytest.raises(ValueError, match=r"'coco/2017_panoptic' is not prepared"):
    Tfds(name='coco/2017_panoptic', data_dir=root / 'tfds')


def test_names_of_classes(tmp_path, coco):
  _, _, root = coco
  names = ['sky-other-merged', 'person']
  for name, labels, expected in (
    ('ByName', names, ((187, names[0], False), (1, 'person', True))),
    ('ByNumber', None, tuple(c[:3] for c in COCO_PANOPTIC)),
  ):
    folder = tfds_folders.prepare(
      name,
      tmp_path / name,
      lambda labels=labels: tfds_folders.panoptic_features(labels),
      list(tfds_folders.panoptic_examples(tfds_folders.files(root))),
    )
    assert tuple(c[:3] for c in Tfds(folder).categories) == expected
  with pytest.raises(ValueError, match='2 classes, but the data set has 133'):
    Tfds(folder, categories=root / 'panoptic.json')


def test_what_is_wrong_is_told(coco, tmp_path):
  _, folder, root = coco
  categories = root / 'panoptic.json'
  for kwargs, words in (
    ({}, "'0' is no class of COCO"),
    ({'split': 'val', 'categories': categories}, "split='val'"),
    ({'split': 'train[:', 'categories': categories}, 'split'),
    ({'max_examples': 0}, 'max_examples=0'),
    ({'name': 'coco'}, 'one of the two'),
    ({'categories': folder / 'features.json'}, 'at least one category'),
  ):
    with pytest.raises(ValueError, match=words):
      Tfds(folder, **kwargs)
  with pytest.raises(ValueError, match='is not a data set that TFDS prepared'):
    Tfds(tmp_path)


def test_a_damaged_shard_names_shard_and_record(coco, tmp_path):
  _, folder, root = coco
  for path in folder.iterdir():
    data = bytearray(path.read_bytes())
    if 'array_record' in path.name:
      data[500] ^= 1
    (tmp_path / path.name).write_bytes(data)
  found = Tfds(tmp_path, categories=root / 'panoptic.json')
  with pytest.raises(ValueError, match=r'-00000-of-00001, record \d'):
    for i in range(len(found)):
      found[i]


def test_cityscapes_examples_equal_those_of_the_files(tmp_path):
  examples = tfds_folders.cityscapes(tmp_path)
  folder = tfds_folders.prepare(
    'TinyCityscapes',
    tmp_path / 'tfds',
    tfds_folders.cityscapes_features,
    examples,
  )
  found = Tfds(folder)
  files = semantic_folder.SemanticFolder(
    tmp_path / 'leftImg8bit', tmp_path / 'gtFine', layout='cityscapes'
  )
  assert found.categories == files.categories
  tfds_folders.equal(found, files)
  with pytest.raises(ValueError, match='cityscapes has its own'):
    Tfds(folder, categories='x.json')
  examples[0]['segmentation_label'] = png(np.full((8, 16), 77, np.uint8))
  wrong = Tfds(
    tfds_folders.prepare(
      'BadLabels',
      tmp_path / 'b',
      tfds_folders.cityscapes_features,
      examples[:1],
    )
  )
  with pytest.raises(ValueError, match=r'record 0.*a label that Cityscapes'):
    wrong[0]


def test_frames_of_videos_are_examples(tmp_path):
  videos = tfds_folders.videos()
  folder = tfds_folders.prepare(
    'TinyDavis',
    tmp_path / 'tfds',
    tfds_folders.davis_features,
    [
      tfds_folders.davis_example(name, *video) for name, video in videos.items()
    ],
  )
  found = Tfds(folder)
  tfds_folders.check_videos(found, videos)
  tiny_coco.assert_same(pickle.loads(pickle.dumps(found)), found)
  Conversion(found, tmp_path / 'out', 'train').run()
  tiny_coco.assert_same(ArrayRecord(tmp_path / 'out'), found)
  folder = tfds_folders.prepare(
    'BadDavis',
    tmp_path / 'bad',
    tfds_folders.davis_features,
    [tfds_folders.davis_example('bear', *videos['bear'], num_frames=9)],
  )
  with pytest.raises(ValueError, match=r'record 0: bear has 3 frames'):
    Tfds(folder)


def test_without_download_or_tensorflow_it_says_so(tmp_path, monkeypatch):
  import importlib.util

  find = importlib.util.find_spec
  monkeypatch.setattr(
    importlib.util,
    'find_spec',
    lambda name, *args: None if name == 'tensorflow' else find(name, *args),
  )
  for download, words in ((False, 'is not prepared'), (True, r'\[tf\]')):
    with pytest.raises(ValueError, match=words):
      Tfds(name='davis/480p', data_dir=tmp_path, download=download)
