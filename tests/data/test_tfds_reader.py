"""TFDS directories: the examples of the original readers, whatever the format.

The directories are prepared by TFDS's own code, without TensorFlow; with it,
by its own builders of COCO, Cityscapes and DAVIS from local files.
"""

import json
import pathlib
import pickle
import struct

import numpy as np
import pytest
import tiny_coco
from PIL import Image

from pix2seqd_jax import types
from pix2seqd_jax.data import coco_panoptic, records, semantic_folder
from pix2seqd_jax.data.array_record import ArrayRecord
from pix2seqd_jax.data.array_record_writer import Conversion
from pix2seqd_jax.data.coco_categories import COCO_PANOPTIC
from pix2seqd_jax.data.panoptic_record import png
from pix2seqd_jax.data.tfds_reader import Tfds
from pix2seqd_jax.registry import DATASETS


def _prepare(name, folder, features, examples):
  """Examples of bytes and numbers -> the folder that TFDS wrote."""
  import tensorflow_datasets as tfds

  def _info(self):
    return tfds.core.DatasetInfo(
      builder=self, features=tfds.features.FeaturesDict(features())
    )

  def _generate_examples(self):
    yield from enumerate(examples)

  builder = type(
    name,
    (tfds.core.GeneratorBasedBuilder,),
    {
      'VERSION': tfds.core.Version('1.0.0'),
      'pkg_dir_path': folder,
      '_info': _info,
      '_split_generators': lambda self, _: {'train': _generate_examples(self)},
      '_generate_examples': _generate_examples,
    },
  )(data_dir=folder, file_format='array_record')
  builder.download_and_prepare()
  return pathlib.Path(builder.data_dir)


def _panoptic_features(names=None, num_classes=133):
  import tensorflow_datasets as tfds

  kwargs = {'names': names} if names else {'num_classes': num_classes}
  return {
    'image': tfds.features.Image(encoding_format='jpeg'),
    'image/filename': tfds.features.Text(),
    'image/id': np.int64,
    'panoptic_image': tfds.features.Image(encoding_format='png'),
    'panoptic_image/filename': tfds.features.Text(),
    'panoptic_objects': tfds.features.Sequence(
      {
        'id': np.int64,
        'area': np.int64,
        'bbox': tfds.features.BBoxFeature(),
        'is_crowd': np.bool_,
        'label': tfds.features.ClassLabel(**kwargs),
      }
    ),
  }


def _panoptic_examples(layout):
  import tensorflow_datasets as tfds

  data = json.loads(pathlib.Path(layout['annotations']).read_text())
  labels = {c['id']: i for i, c in enumerate(data['categories'])}
  for image, annotation in zip(data['images'], data['annotations']):
    picture = pathlib.Path(layout['images'], image['file_name'])
    panoptic = pathlib.Path(layout['panoptic'], annotation['file_name'])
    yield {
      'image': picture.read_bytes(),
      'image/filename': image['file_name'],
      'image/id': image['id'],
      'panoptic_image': panoptic.read_bytes(),
      'panoptic_image/filename': annotation['file_name'],
      'panoptic_objects': [
        {
          'id': info['id'],
          'area': 1,
          'bbox': tfds.features.BBox(0.0, 0.0, 1.0, 1.0),
          'is_crowd': bool(info['iscrowd']),
          'label': labels[info['category_id']],
        }
        for info in annotation['segments_info']
      ],
    }


def _as_tfrecord(folder, target):
  """The same prepared data, as if TFDS had written tfrecord."""
  target.mkdir()
  for path in folder.iterdir():
    if 'array_record' not in path.name:
      text = path.read_text()
      (target / path.name).write_text(text.replace('array_record', 'tfrecord'))
  info = json.loads((folder / 'dataset_info.json').read_text())
  (split,) = info['splits']
  for path in sorted(folder.glob('*.array_record-*')):
    shard = records.Shard(str(path), 0, int(split['shardLengths'][0]), -1)
    shard = shard._replace(examples_in_shard=shard.take)
    found = records.Records([shard])
    with open(
      target / path.name.replace('array_record', 'tfrecord'), 'wb'
    ) as f:
      for i in range(len(found)):
        data = found.read(i)
        length = struct.pack('<Q', len(data))
        f.write(length + records.masked_crc(length) + data + b'crc.')
  return target


@pytest.fixture(scope='module')
def coco(tmp_path_factory):
  """(the original reader without scores, the prepared folder, its root)."""
  root = tmp_path_factory.mktemp('coco')
  layout = tiny_coco.write(root)
  path = pathlib.Path(layout['annotations'])
  data = json.loads(path.read_text())
  for annotation in data['annotations']:
    for info in annotation['segments_info']:
      info.pop('score', None)
  path.write_text(json.dumps(data))
  folder = _prepare(
    'TinyPanoptic',
    root / 'tfds',
    lambda: _panoptic_features(num_classes=2),
    list(_panoptic_examples(layout)),
  )
  return coco_panoptic.CocoPanoptic(**layout), folder, root


def _by_file(source):
  """TFDS shuffles: the examples by file, their indices checked."""
  found = {}
  for i in range(len(source)):
    example = source[i]
    assert example.pop('index') == i
    found[example['file']] = example
  return found


def _equal(found, wanted):
  found, wanted = _by_file(found), _by_file(wanted)
  assert sorted(found) == sorted(wanted)
  for file, example in wanted.items():
    assert sorted(found[file]) == sorted(example)
    for key, value in example.items():
      np.testing.assert_array_equal(found[file][key], value, err_msg=key)


@pytest.mark.parametrize('file_format', ['array_record', 'tfrecord'])
def test_panoptic_examples_equal_those_of_the_files(
  coco, tmp_path, file_format
):
  source, folder, root = coco
  if file_format == 'tfrecord':
    folder = _as_tfrecord(folder, tmp_path / 'tfrecord')
  found = Tfds(folder, categories=root / 'panoptic.json')
  assert DATASETS['tfds'] is Tfds and isinstance(found, types.Source)
  assert found.categories == source.categories
  _equal(found, source)
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
  for name, labels, wanted in (
    ('ByName', names, ((187, names[0], False), (1, 'person', True))),
    ('ByNumber', None, tuple(c[:3] for c in COCO_PANOPTIC)),
  ):
    folder = _prepare(
      name,
      tmp_path / name,
      lambda labels=labels: _panoptic_features(labels),
      list(_panoptic_examples(_files(root))),
    )
    assert tuple(c[:3] for c in Tfds(folder).categories) == wanted
  with pytest.raises(ValueError, match='2 classes, but the data set has 133'):
    Tfds(folder, categories=root / 'panoptic.json')


def _files(root):
  return {
    'images': root / 'images',
    'panoptic': root / 'maps',
    'annotations': root / 'panoptic.json',
  }


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


def _cityscapes(root, count=3):
  """Files in the layout of Cityscapes; what TFDS makes of them."""
  rng = np.random.default_rng(0)
  examples = []
  for i in range(count):
    stem = f'aachen_00000{i}_000019'
    image = png(rng.integers(0, 256, (8, 16, 3), np.uint8))
    labels = png(rng.integers(0, 34, (8, 16), np.uint8))
    for kind, data in (
      ('leftImg8bit', image),
      ('gtFine', labels),
    ):
      folder = root / kind / 'aachen'
      folder.mkdir(parents=True, exist_ok=True)
      ending = '_labelIds' if kind == 'gtFine' else ''
      (folder / f'{stem}_{kind}{ending}.png').write_bytes(data)
    examples.append(
      {'image_id': stem, 'image_left': image, 'segmentation_label': labels}
    )
  return examples


def _cityscapes_features():
  import tensorflow_datasets as tfds

  return {
    'image_id': tfds.features.Text(),
    'image_left': tfds.features.Image(
      shape=(None, None, 3), encoding_format='png'
    ),
    'segmentation_label': tfds.features.Image(
      shape=(None, None, 1), encoding_format='png'
    ),
  }


def test_cityscapes_examples_equal_those_of_the_files(tmp_path):
  examples = _cityscapes(tmp_path)
  folder = _prepare(
    'TinyCityscapes', tmp_path / 'tfds', _cityscapes_features, examples
  )
  found = Tfds(folder)
  files = semantic_folder.SemanticFolder(
    tmp_path / 'leftImg8bit', tmp_path / 'gtFine', layout='cityscapes'
  )
  assert found.categories == files.categories
  _equal(found, files)
  with pytest.raises(ValueError, match='cityscapes has its own'):
    Tfds(folder, categories='x.json')
  examples[0]['segmentation_label'] = png(np.full((8, 16), 77, np.uint8))
  wrong = Tfds(
    _prepare('BadLabels', tmp_path / 'b', _cityscapes_features, examples[:1])
  )
  with pytest.raises(ValueError, match=r'record 0.*a label that Cityscapes'):
    wrong[0]


def _films():
  """{video: (frames as JPEG, maps)}."""
  import io

  rng, films = np.random.default_rng(0), {}
  for video, count in (('bear', 3), ('dog-gooses', 2)):
    frames, maps = [], []
    for _ in range(count):
      buffer = io.BytesIO()
      image = rng.integers(0, 256, (6, 9, 3), np.uint8)
      Image.fromarray(image).save(buffer, 'JPEG')
      frames.append(buffer.getvalue())
      maps.append(rng.integers(0, 4, (6, 9), np.uint8))
    films[video] = frames, maps
  return films


def _davis_features():
  import tensorflow_datasets as tfds

  image = tfds.features.Image
  return {
    'video': tfds.features.Sequence(
      {
        'frames': image(shape=(None, None, 3)),
        'segmentations': image(shape=(None, None, 1)),
      }
    ),
    'metadata': {'num_frames': np.int64, 'video_name': np.str_},
  }


def _davis_example(video, frames, maps, num_frames=None):
  return {
    'video': {'frames': frames, 'segmentations': [png(m) for m in maps]},
    'metadata': {
      'num_frames': num_frames or len(frames),
      'video_name': video,
    },
  }


def _check_films(found, films):
  assert found.categories == (types.Category(1, 'object', True),)
  examples = [found[i] for i in range(len(found))]
  assert sorted((e['video'], e['frame']) for e in examples) == [
    (video, i) for video in sorted(films) for i in range(len(films[video][0]))
  ]
  for i, example in enumerate(examples):
    video, frame = example['video'], example['frame']
    assert example['index'] == i
    assert example['file'] == f'{video}/{frame:05d}.jpg'
    frames, maps = films[video]
    np.testing.assert_array_equal(example['ids'], maps[frame])
    assert example['ids'].dtype == np.int32
    assert example['segments'] == tuple(
      types.Segment(int(i), 1) for i in np.unique(maps[frame]) if i
    )
    assert found.original(i)['image'] == frames[frame]


def test_frames_of_films_are_examples(tmp_path):
  films = _films()
  folder = _prepare(
    'TinyDavis',
    tmp_path / 'tfds',
    _davis_features,
    [_davis_example(video, *film) for video, film in films.items()],
  )
  found = Tfds(folder)
  _check_films(found, films)
  tiny_coco.assert_same(pickle.loads(pickle.dumps(found)), found)
  Conversion(found, tmp_path / 'out', 'train').run()
  tiny_coco.assert_same(ArrayRecord(tmp_path / 'out'), found)
  folder = _prepare(
    'BadDavis',
    tmp_path / 'bad',
    _davis_features,
    [_davis_example('bear', *films['bear'], num_frames=9)],
  )
  with pytest.raises(ValueError, match=r'record 0: bear has 3 frames'):
    Tfds(folder)


# With TensorFlow: TFDS's own builders, from local files.


@pytest.fixture
def tfds():
  pytest.importorskip('tensorflow', reason='needs the extra tf')
  import tensorflow_datasets
  from tensorflow_datasets.testing import test_utils

  with test_utils.disable_gcs_access():  # no network
    yield tensorflow_datasets


def test_loading_coco_by_name_prepares_it(tfds, coco, tmp_path, monkeypatch):
  _, _, root = coco
  data = json.loads((root / 'panoptic.json').read_text())
  labels = [c['id'] for c in data['categories']]

  def _split_generators(self, _):
    return {'train': self._generate_examples()}

  def _generate_examples(self):
    yield from enumerate(_panoptic_examples(_files(root)))

  builder = tfds.object_detection.Coco
  monkeypatch.setattr(builder, '_split_generators', _split_generators)
  monkeypatch.setattr(builder, '_generate_examples', _generate_examples)
  kwargs = {'name': 'coco/2017_panoptic', 'data_dir': tmp_path / 'a'}
  found = Tfds(**kwargs, download=True)
  assert len(labels) == 2 and found.categories == COCO_PANOPTIC
  assert sorted(_by_file(found)) == sorted(
    image['file_name'] for image in data['images']
  )
  # What tfds.load itself prepares: tfrecord.
  tfds.load('coco/2017_panoptic', data_dir=tmp_path / 'b', download=True)
  loaded = Tfds(name='coco/2017_panoptic', data_dir=tmp_path / 'b')
  assert loaded._records.file_format == 'tfrecord'
  _equal(loaded, found)
  # And what it yields.
  for example in tfds.load('coco/2017_panoptic', data_dir=tmp_path / 'b')[
    'train'
  ].as_numpy_iterator():
    ours = _by_file(loaded)[example['image/filename'].decode()]
    assert ours['image_id'] == example['image/id']
    panoptic = example['panoptic_image'].astype(int) @ [1, 256, 65536]
    for segment, number in zip(
      ours['segments'], example['panoptic_objects']['id']
    ):
      np.testing.assert_array_equal(
        ours['ids'] == segment.id, panoptic == number
      )


def test_loading_davis_by_name_prepares_it(tfds, tmp_path, monkeypatch):
  from tensorflow_datasets.video.davis import davis

  films = _films()

  def _split_generators(self, _):
    return {'train': self._generate_examples()}

  def _generate_examples(self):
    for video, (frames, maps) in films.items():
      example = _davis_example(video, frames, [])
      example['video']['segmentations'] = [m[..., None] for m in maps]
      yield video, example

  monkeypatch.setattr(davis.Davis, '_split_generators', _split_generators)
  monkeypatch.setattr(davis.Davis, '_generate_examples', _generate_examples)
  _check_films(
    Tfds(name='davis/480p', data_dir=tmp_path / 'a', download=True), films
  )
  tfds.load('davis/480p', data_dir=tmp_path / 'b', download=True)
  _check_films(Tfds(name='davis/480p', data_dir=tmp_path / 'b'), films)


def test_loading_cityscapes_by_name_prepares_it(tfds, tmp_path):
  import zipfile

  # Its pictures are 1024 x 2048 by declaration; the zips are downloaded by
  # hand, and read by TFDS's own code.
  manual = tmp_path / 'data' / 'downloads' / 'manual'
  manual.mkdir(parents=True)
  rng = np.random.default_rng(0)
  image = png(
    np.tile(rng.integers(0, 256, (8, 16, 3), np.uint8), (128, 128, 1))
  )
  labels = png(np.tile(rng.integers(0, 34, (8, 16), np.uint8), (128, 128)))
  stem = 'aachen_000000_000019'
  for kind, archive, ending, data in (
    ('leftImg8bit', 'leftImg8bit_trainvaltest', '', image),
    ('gtFine', 'gtFine_trainvaltest', '_labelIds', labels),
  ):
    with zipfile.ZipFile(manual / f'{archive}.zip', 'w') as file:
      for split in ('train', 'val', 'test'):
        file.writestr(f'{kind}/{split}/aachen/{stem}_{kind}{ending}.png', data)
  name = 'cityscapes/semantic_segmentation'
  found = Tfds(
    name=name, data_dir=tmp_path / 'data', download=True, split='validation'
  )
  for kind in ('leftImg8bit', 'gtFine'):
    with zipfile.ZipFile(manual / f'{kind}_trainvaltest.zip') as file:
      file.extractall(tmp_path / 'files')
  files = semantic_folder.SemanticFolder(
    tmp_path / 'files/leftImg8bit/val',
    tmp_path / 'files/gtFine/val',
    layout='cityscapes',
  )
  _equal(found, files)


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
