"""Folders that TFDS prepares of small files, and what they must hold."""

import json
import pathlib
import struct

import numpy as np
import tiny_coco
from PIL import Image

from pix2seqd_jax import types
from pix2seqd_jax.data.formats import records
from pix2seqd_jax.data.formats.panoptic_record import png
from pix2seqd_jax.data.readers import coco_panoptic


def prepare(name, folder, features, examples):
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
    # Two files of tests prepare the same name in one process.
    skip_registration=True,
  )(data_dir=folder, file_format='array_record')
  builder.download_and_prepare()
  return pathlib.Path(builder.data_dir)


def panoptic_features(names=None, num_classes=133):
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


def panoptic_examples(layout):
  import tensorflow_datasets as tfds

  data = json.loads(pathlib.Path(layout['annotations']).read_text())
  labels = {c['id']: i for i, c in enumerate(data['categories'])}
  for image, annotation in zip(data['images'], data['annotations']):
    path = pathlib.Path(layout['images'], image['file_name'])
    panoptic = pathlib.Path(layout['panoptic'], annotation['file_name'])
    yield {
      'image': path.read_bytes(),
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


def as_tfrecord(folder, target):
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


def by_file(source):
  """TFDS shuffles: the examples by file, their indices checked."""
  found = {}
  for i in range(len(source)):
    example = source[i]
    assert example.pop('index') == i
    found[example['file']] = example
  return found


def equal(found, expected):
  found, expected = by_file(found), by_file(expected)
  assert sorted(found) == sorted(expected)
  for file, example in expected.items():
    assert sorted(found[file]) == sorted(example)
    for key, value in example.items():
      np.testing.assert_array_equal(found[file][key], value, err_msg=key)


def files(root):
  return {
    'images': root / 'images',
    'panoptic': root / 'maps',
    'annotations': root / 'panoptic.json',
  }


def cityscapes(root, count=3):
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


def cityscapes_features():
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


def videos():
  """{video: (frames as JPEG, maps)}."""
  import io

  rng, videos = np.random.default_rng(0), {}
  for video, count in (('bear', 3), ('dog-gooses', 2)):
    frames, maps = [], []
    for _ in range(count):
      buffer = io.BytesIO()
      image = rng.integers(0, 256, (6, 9, 3), np.uint8)
      Image.fromarray(image).save(buffer, 'JPEG')
      frames.append(buffer.getvalue())
      maps.append(rng.integers(0, 4, (6, 9), np.uint8))
    videos[video] = frames, maps
  return videos


def davis_features():
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


def davis_example(video, frames, maps, num_frames=None):
  return {
    'video': {'frames': frames, 'segmentations': [png(m) for m in maps]},
    'metadata': {
      'num_frames': num_frames or len(frames),
      'video_name': video,
    },
  }


def check_videos(found, videos):
  assert found.categories == (types.Category(1, 'object', True),)
  examples = [found[i] for i in range(len(found))]
  assert sorted((e['video'], e['frame']) for e in examples) == [
    (video, i) for video in sorted(videos) for i in range(len(videos[video][0]))
  ]
  for i, example in enumerate(examples):
    video, frame = example['video'], example['frame']
    assert example['index'] == i
    assert example['file'] == f'{video}/{frame:05d}.jpg'
    frames, maps = videos[video]
    np.testing.assert_array_equal(example['ids'], maps[frame])
    assert example['ids'].dtype == np.int32
    assert example['segments'] == tuple(
      types.Segment(int(i), 1) for i in np.unique(maps[frame]) if i
    )
    assert found.original(i)['image'] == frames[frame]


def coco(root):
  """(the original reader without scores, the prepared folder, `root`)."""
  layout = tiny_coco.write(root)
  path = pathlib.Path(layout['annotations'])
  data = json.loads(path.read_text())
  for annotation in data['annotations']:
    for info in annotation['segments_info']:
      info.pop('score', None)
  path.write_text(json.dumps(data))
  folder = prepare(
    'TinyPanoptic',
    root / 'tfds',
    lambda: panoptic_features(num_classes=2),
    list(panoptic_examples(layout)),
  )
  return coco_panoptic.CocoPanoptic(**layout), folder, root
