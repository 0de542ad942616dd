"""TFDS's own builders of COCO, Cityscapes and DAVIS, from local files.

They need TensorFlow, the extra `tf`: without it these tests are skipped.
"""

import json

import numpy as np
import pytest
import tfds_folders

from pix2seqd_jax.data.formats.panoptic_record import png
from pix2seqd_jax.data.readers import semantic_folder
from pix2seqd_jax.data.readers.coco_categories import COCO_PANOPTIC
from pix2seqd_jax.data.readers.tfds import Tfds


@pytest.fixture(scope='module')
def coco(tmp_path_factory):
  return tfds_folders.coco(tmp_path_factory.mktemp('coco'))


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
    yield from enumerate(
      tfds_folders.panoptic_examples(tfds_folders.files(root))
    )

  builder = tfds.object_detection.Coco
  monkeypatch.setattr(builder, '_split_generators', _split_generators)
  monkeypatch.setattr(builder, '_generate_examples', _generate_examples)
  kwargs = {'name': 'coco/2017_panoptic', 'data_dir': tmp_path / 'a'}
  found = Tfds(**kwargs, download=True)
  assert len(labels) == 2 and found.categories == COCO_PANOPTIC
  assert sorted(tfds_folders.by_file(found)) == sorted(
    image['file_name'] for image in data['images']
  )
  # What tfds.load itself prepares: tfrecord.
  tfds.load('coco/2017_panoptic', data_dir=tmp_path / 'b', download=True)
  loaded = Tfds(name='coco/2017_panoptic', data_dir=tmp_path / 'b')
  assert loaded._records.file_format == 'tfrecord'
  tfds_folders.equal(loaded, found)
  # And what it yields.
  for example in tfds.load('coco/2017_panoptic', data_dir=tmp_path / 'b')[
    'train'
  ].as_numpy_iterator():
    ours = tfds_folders.by_file(loaded)[example['image/filename'].decode()]
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

  videos = tfds_folders.videos()

  def _split_generators(self, _):
    return {'train': self._generate_examples()}

  def _generate_examples(self):
    for video, (frames, maps) in videos.items():
      example = tfds_folders.davis_example(video, frames, [])
      example['video']['segmentations'] = [m[..., None] for m in maps]
      yield video, example

  monkeypatch.setattr(davis.Davis, '_split_generators', _split_generators)
  monkeypatch.setattr(davis.Davis, '_generate_examples', _generate_examples)
  tfds_folders.check_videos(
    Tfds(name='davis/480p', data_dir=tmp_path / 'a', download=True), videos
  )
  tfds.load('davis/480p', data_dir=tmp_path / 'b', download=True)
  tfds_folders.check_videos(
    Tfds(name='davis/480p', data_dir=tmp_path / 'b'), videos
  )


def test_loading_cityscapes_by_name_prepares_it(tfds, tmp_path):
  import zipfile

  # Its images are 1024 x 2048 by declaration; the zips are downloaded by
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
  tfds_folders.equal(found, files)
