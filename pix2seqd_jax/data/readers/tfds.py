"""Data sets that TensorFlow Datasets prepared: COCO, Cityscapes, DAVIS.

Prepared ones are read without TensorFlow, from array_record and from tfrecord
shards alike: TFDS tells where the records are, `tf_example` what is in them.
Preparing (downloads included) is TFDS's own code, of the extra `tf`.
"""

import importlib.util

import numpy as np

from pix2seqd_jax.data.formats import panoptic_record
from pix2seqd_jax.data.formats.categories import categories_from_json, read_json
from pix2seqd_jax.data.formats.decode import decode_image, decode_label_map
from pix2seqd_jax.data.formats.faults import refuse
from pix2seqd_jax.data.formats.files import check_relative
from pix2seqd_jax.data.formats.records import Records
from pix2seqd_jax.data.readers.array_record import read_features
from pix2seqd_jax.data.readers.coco_categories import COCO_PANOPTIC
from pix2seqd_jax.data.readers.layouts import LAYOUTS
from pix2seqd_jax.registry import DATASETS
from pix2seqd_jax.types import Category, Segment


@DATASETS.register('tfds')
class Tfds:
  """A split of a TFDS data set; a `types.Source`.

  Three kinds are known by their fields:
    coco/2017_panoptic, and what has its fields: as `coco_panoptic` reads them.
    cityscapes/semantic_segmentation: as `semantic_folder` reads them.
    davis: each frame is an example, with `video` (its name) and `frame` (from
      0); ids are those of the objects, 0 is the background, one class. Each
      access reads a whole video: convert them
      (`pix2seqd_jax.cli.convert_data`).

  Args:
    folder: of the prepared data (it holds features.json), or None.
    name: otherwise, TFDS's name, such as 'coco/2017_panoptic'.
    data_dir: where TFDS keeps its data sets; None is its default.
    download: where `name` is not prepared, have TFDS do so (needs the extra
      `tf`), as array_record. Do this on one machine before a run on many.
    split: such as 'train', 'validation' or 'train[:10%]'.
    categories: a JSON of classes in the order of the labels (categories.json,
      or COCO's with `categories`); None takes the names of the data set, which
      must be COCO's, or numbers below 133 for these.
    max_examples: the first so many only; None for all.
    exif: whether to turn images as their EXIF orientation says.

  Raises:
    ValueError: not prepared, no such split, unknown fields or classes; when an
      example is read, for a damaged record, naming shard and record.
  """

  def __init__(
    self,
    folder=None,
    *,
    name=None,
    data_dir=None,
    download=False,
    split='train',
    categories=None,
    max_examples=None,
    exif=True,
  ):
    if max_examples is not None and max_examples < 1:
      _bad(f'max_examples={max_examples} must be at least 1, or None for all.')
    if (folder is None) == (name is None):
      _bad(f'folder={folder} and name={name}: give one of the two.')
    if folder is None:
      folder = prepared(name, data_dir, download)
    info = _info(folder)
    try:
      shards = info.splits[str(split)].file_instructions
    except (ValueError, KeyError) as error:
      _bad(f'split={split!r} of {folder}: {error}', error)
    self.folder, self.split, self.exif = str(folder), split, exif
    self.max_examples = max_examples
    self._records = Records(shards, info.file_format.value)
    if not len(self._records):
      _bad(f'split={split!r} of {folder} has no examples.')
    kind = _kind(folder, info.features)
    self.categories = kind.categories(info.features, categories)
    self._kind = kind(self._records, self.categories, exif)

  def __len__(self):
    return min(len(self._kind), self.max_examples or len(self._kind))

  def __getitem__(self, index):
    index = int(index)
    if not 0 <= index < len(self):
      raise IndexError(f'example {index} of {len(self)}')
    return self._kind.example(index)

  def file_name(self, index):
    """Where the record lies, where the example itself cannot be read."""
    return self._kind.file_name(index)

  def original(self, index):
    """The bytes of the files of an example; see `panoptic_record.pack`."""
    return self._kind.original(index)


def prepared(name, data_dir=None, download=False):
  """The folder of a TFDS data set, which is prepared if need be.

  Raises:
    ValueError: it is not prepared and `download` is False, the extra `tf` is
      not installed, or TFDS cannot prepare it.
  """
  import tensorflow_datasets as tfds
  from tensorflow_datasets.core import read_only_builder

  where = {} if data_dir is None else {'data_dir': data_dir}
  try:
    # Needs neither TensorFlow nor TFDS's code for the data set.
    builder = read_only_builder.builder_from_files(name, **where)
    return str(builder.data_dir)
  except (tfds.core.DatasetNotFoundError, OSError) as error:
    if not download:
      _bad(
        f'name={name!r} is not prepared in {data_dir or "the default folder"}; '
        'set data.source.download=True, or prepare it by tfds build.',
        error,
      )
  if importlib.util.find_spec('tensorflow') is None:
    _bad(
      f'download=True: TFDS needs TensorFlow to prepare {name!r}; pip install '
      "'pix2seqd_jax[tf]', or prepare it elsewhere and copy the folder."
    )
  try:
    # What tfds.load(name, download=True) does before it reads.
    builder = tfds.builder(name, **where)
    builder.download_and_prepare(file_format='array_record')
  except Exception as error:  # downloads, manual ones, unknown names
    _bad(f'name={name!r} cannot be prepared by TFDS: {error}', error)
  return str(builder.data_dir)


class _Panoptic:
  """The fields of coco/2017_panoptic."""

  fields = ('image', 'panoptic_image', 'panoptic_objects')

  def __init__(self, records, categories, exif):
    self.records, self.exif = records, exif
    self.num_classes = len(categories)

  def __len__(self):
    return len(self.records)

  def example(self, index):
    return panoptic_record.unpack(
      read_features(self.records, index),
      self.records.name(index),
      index,
      self.num_classes,
      exif=self.exif,
    )

  def file_name(self, index):
    return self.records.name(index)

  def original(self, index):
    features = read_features(self.records, index)
    return {
      'image': features['image'][0],
      'map': features['panoptic_image'][0],
      'map_file': features['panoptic_image/filename'][0].decode(),
    }

  @staticmethod
  def categories(features, path):
    try:
      names = list(features['panoptic_objects'].feature['label'].names)
    except (AttributeError, KeyError, TypeError) as error:
      _bad('the field panoptic_objects has no class label.', error)
    if path is not None:
      entries = read_json(path)
      if isinstance(entries, dict):
        entries = entries.get('categories')
      found = categories_from_json(entries, f'{path}: categories')
      if len(found) != len(names):
        _bad(
          f'categories={path} has {len(found)} classes, but the data set has '
          f'{len(names)} labels.'
        )
      return found
    if names == [str(i) for i in range(len(COCO_PANOPTIC))]:
      return COCO_PANOPTIC
    known = {category.name: category for category in COCO_PANOPTIC}
    strange = [name for name in names if name not in known]
    if strange:
      _bad(
        f'categories is not given, and {strange[0]!r} is no class of COCO; '
        'give a categories.json, which says which classes are things.'
      )
    return tuple(known[name] for name in names)


class _Semantic:
  """The fields of cityscapes/semantic_segmentation."""

  fields = ('image_id', 'image_left', 'segmentation_label')
  layout = LAYOUTS['cityscapes']

  def __init__(self, records, categories, exif):
    self.records, self.exif = records, exif
    self.numbers = np.full(256, -1, np.int32)
    for value, number in self.layout.values.items():
      self.numbers[value] = number

  def __len__(self):
    return len(self.records)

  def example(self, index):
    features, name = (
      read_features(self.records, index),
      self.records.name(index),
    )
    fail = _failing(name)
    image_id = panoptic_record.text(features, 'image_id', fail)
    city = image_id.partition('_')[0]
    file = f'{city}/{image_id}{self.layout.image_ending}'
    image, values = _pair(
      features,
      ('image_left', 'segmentation_label'),
      f'{name} ({file})',
      self.exif,
    )
    ids = self.numbers[np.clip(values, 0, 255)]
    if values.max() > 255 or values.min() < 0 or ids.min() < 0:
      fail(f'{file} has a label that Cityscapes lacks.', 'class_out_of_range')
    present = np.flatnonzero(np.bincount(ids.ravel()))
    return {
      'image': image,
      'ids': ids,
      'segments': tuple(Segment(int(c), int(c)) for c in present if c),
      'index': index,
      'file': check_relative(file, name),
    }

  def file_name(self, index):
    return self.records.name(index)

  def original(self, index):
    return {'image': read_features(self.records, index)['image_left'][0]}

  @classmethod
  def categories(cls, features, path):
    _without(path, 'cityscapes')
    return cls.layout.categories


class _Frames:
  """The fields of davis: videos, of which each frame becomes an example."""

  fields = ('metadata', 'video')
  parts = ('frames', 'segmentations')

  def __init__(self, records, categories, exif):
    self.records, self.exif = records, exif
    counts = [self._video(i)[2] for i in range(len(records))]
    self.videos = np.repeat(np.arange(len(counts)), counts)
    self.frames = np.concatenate([np.arange(count) for count in counts])

  def __len__(self):
    return len(self.videos)

  def _video(self, number):
    features = read_features(self.records, number)
    name = self.records.name(number)
    fail = _failing(name)
    video = panoptic_record.text(features, 'metadata/video_name', fail)
    check_relative(video, name)
    counts = [len(features.get(f'video/{key}', ())) for key in self.parts]
    said = panoptic_record.numbers_of(features, 'metadata/num_frames', fail)
    if said.tolist() != [counts[0]] or counts[0] != counts[1]:
      fail(
        f'{video} has {counts[0]} frames and {counts[1]} maps, and says '
        f'num_frames={said.tolist()}.'
      )
    return features, video, counts[0]

  def _frame(self, index):
    """The features of one frame, its video and its number in it."""
    number, frame = int(self.videos[index]), int(self.frames[index])
    features, video, _ = self._video(number)
    return (
      {key: features[f'video/{key}'][frame : frame + 1] for key in self.parts},
      video,
      frame,
    )

  def example(self, index):
    features, video, frame = self._frame(index)
    file = f'{video}/{frame:05d}.jpg'
    name = f'{self.records.name(int(self.videos[index]))} ({file})'
    image, ids = _pair(features, self.parts, name, self.exif)
    if ids.min() < 0 or ids.max() > 254:
      _failing(name)('its map has ids beyond 0..254.', 'bad_segment_id')
    present = np.flatnonzero(np.bincount(ids.ravel()))
    return {
      'image': image,
      'ids': ids.astype(np.int32),
      'segments': tuple(Segment(int(i), 1) for i in present if i),
      'index': index,
      'file': file,
      'video': video,
      'frame': frame,
    }

  def file_name(self, index):
    return self.records.name(int(self.videos[index]))

  def original(self, index):
    return {'image': self._frame(index)[0]['frames'][0]}

  @staticmethod
  def categories(features, path):
    _without(path, 'davis')
    return (Category(1, 'object', True),)


_KINDS = (_Panoptic, _Semantic, _Frames)


def _kind(folder, features):
  for kind in _KINDS:
    if all(field in features for field in kind.fields):
      return kind
  return _bad(
    f'folder={folder} has the fields {", ".join(sorted(features))}; known are '
    'those of coco/2017_panoptic, cityscapes/semantic_segmentation and davis.'
  )


def _info(folder):
  import tensorflow_datasets as tfds

  try:
    return tfds.builder_from_directory(folder).info
  except Exception as error:  # whatever is wrong with its two JSONs
    return _bad(
      f'folder={folder} is not a data set that TFDS prepared (with '
      f'dataset_info.json, features.json): {str(error).splitlines()[0]}',
      error,
    )


def _pair(features, keys, name, exif):
  """An image and its map of one channel, of equal size."""
  fail = _failing(name)
  image, values = (panoptic_record.blob(features, key, fail) for key in keys)
  image = decode_image(image, name, exif=exif)
  values = decode_label_map(values, f'{name}, {keys[1]}')
  if image.shape[:2] != values.shape:
    fail(
      f'the image is {image.shape[0]} x {image.shape[1]} but its map is '
      f'{values.shape[0]} x {values.shape[1]}.',
      'sizes_differ',
    )
  return image, values


def _failing(name):
  return lambda what, rule='bad_record': refuse(rule, name, f'{name}: {what}')


def _without(path, name):
  if path is not None:
    _bad(f'categories={path}: {name} has its own; leave it out.')


def _bad(what, cause=None):
  try:
    refuse('bad_argument', 'data.source', f'data.{what}')
  except ValueError as error:
    raise error from cause
