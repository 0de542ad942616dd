"""The reader of shards: equal examples, pickles, processes, damage."""

import json
import pickle

import numpy as np
import pytest
import tiny_coco

from pix2seqd_jax import types
from pix2seqd_jax.data import pipeline
from pix2seqd_jax.data.convert import Conversion
from pix2seqd_jax.data.formats.tf_example import decode_example, encode_example
from pix2seqd_jax.data.readers import coco_panoptic, shapes
from pix2seqd_jax.data.readers.array_record import ArrayRecord
from pix2seqd_jax.registry import DATASETS

SOURCE = shapes.Shapes(num_examples=10, size=(16, 20))


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  folder = tmp_path_factory.mktemp('records')
  Conversion(SOURCE, folder, 'train', num_shards=3).run()
  return folder


def test_examples_equal_those_of_the_reader(folder):
  found = ArrayRecord(folder)
  assert DATASETS['array_record'] is ArrayRecord
  assert isinstance(found, types.Source)
  tiny_coco.assert_same(found, SOURCE)
  tiny_coco.assert_same(pickle.loads(pickle.dumps(found)), SOURCE)
  with pytest.raises(IndexError):
    found[10]
  assert len(ArrayRecord(folder, max_examples=4)) == 4
  assert len(ArrayRecord(folder, max_examples=40, verify=True)) == 10


@pytest.mark.parametrize('exif', [True, False])
def test_files_keep_their_bytes(tmp_path, exif):
  layout = tiny_coco.write(tmp_path)
  if not exif:  # the one that is turned would not fit its map
    (tmp_path / 'images/ä/1.jpg').write_bytes(
      (tmp_path / 'images/ä/3.jpg').read_bytes()
    )
    (tmp_path / 'maps/1_map.png').write_bytes(
      (tmp_path / 'maps/3_map.png').read_bytes()
    )
    text = (tmp_path / 'panoptic.json').read_text()
    text = text.replace('70001', '70003', 1)
    (tmp_path / 'panoptic.json').write_text(text)
  source = coco_panoptic.CocoPanoptic(**layout, exif=exif)
  Conversion(source, tmp_path / 'out', 'val').run()
  found = ArrayRecord(tmp_path / 'out', 'val')
  assert found.exif is exif
  tiny_coco.assert_same(found, source)
  for i in range(len(source)):
    original = found.original(i)
    name, map_name = source[i]['file'], original['map_file']
    assert original['image'] == (tmp_path / 'images' / name).read_bytes()
    assert original['map'] == (tmp_path / 'maps' / map_name).read_bytes()
  # Shards of shards are the same shards.
  Conversion(found, tmp_path / 'again', 'val').run()
  shards = [next((tmp_path / d).glob('*_record')) for d in ('out', 'again')]
  assert shards[0].read_bytes() == shards[1].read_bytes()


def test_real_images(shared, tmp_path):
  root = shared / 'data' / 'coco_mini'
  source = coco_panoptic.CocoPanoptic(
    root / 'images',
    root / 'panoptic',
    root / 'annotations' / 'panoptic_class_agnostic.json',
    max_examples=4,
  )
  Conversion(source, tmp_path, 'train').run()
  tiny_coco.assert_same(ArrayRecord(tmp_path), source)


def test_batches_by_any_number_of_processes(folder):
  transforms = (
    ('random_flip', {}),
    ('pad', {'size': (16, 20)}),
    ('labels', {'size': (8, 10), 'num_ids': 9}),
  )

  def run(source, processes=1):
    fractions = [
      pipeline.train_batches(
        source,
        transforms,
        batch_size=4,
        seed=3,
        process_index=p,
        process_count=processes,
        num_threads=2,
      )
      for p in range(processes)
    ]
    for _ in range(4):
      parts = [next(fraction) for fraction in fractions]
      yield {k: np.concatenate([p[k] for p in parts]) for k in parts[0]}

  found = ArrayRecord(folder)
  for one, two, expected in zip(run(found), run(found, 2), run(SOURCE)):
    for key, value in expected.items():
      np.testing.assert_array_equal(one[key], value)
      np.testing.assert_array_equal(two[key], value)


@pytest.fixture
def copy(folder, tmp_path):
  for path in folder.iterdir():
    (tmp_path / path.name).write_bytes(path.read_bytes())
  return tmp_path


_SHARD = 'train-00001-of-00003.array_record'


def test_a_split_without_its_description_is_not_there(copy):
  (copy / 'train.json').rename(copy / 'other.json')
  (copy / '.train.unfinished.json').touch()
  with pytest.raises(
    ValueError, match=r'train\.json does not exist.*not finished.*: other\.$'
  ):
    ArrayRecord(copy)


def test_missing_cut_and_exchanged_shards(copy):
  path = copy / _SHARD
  data = bytearray(path.read_bytes())
  data[200] ^= 1
  path.write_bytes(data)
  with pytest.raises(ValueError, match=rf'{_SHARD} is damaged: its digest'):
    ArrayRecord(copy, verify=True)
  path.write_bytes(data[:-1])
  with pytest.raises(ValueError, match=rf'{_SHARD} has .* was not copied'):
    ArrayRecord(copy)
  path.unlink()
  with pytest.raises(ValueError, match=rf'{_SHARD} does not exist'):
    ArrayRecord(copy)


def test_a_malformed_record_names_shard_and_record(copy):
  from array_record.python.array_record_module import ArrayRecordWriter

  features = decode_example(ArrayRecord(copy)._records.read(4))
  wrong = encode_example(features | {'panoptic_objects/label': np.array([99])})
  path = copy / _SHARD
  writer = ArrayRecordWriter(str(path), 'group_size:1')
  for record in (b'\xff no Example', wrong, b''):
    writer.write(record)
  writer.close()
  metadata = json.loads((copy / 'train.json').read_text())
  metadata['shards'][1]['bytes'] = path.stat().st_size
  (copy / 'train.json').write_text(json.dumps(metadata))
  found = ArrayRecord(copy)
  for i, words in ((3, 'no tf.train.Example'), (4, 'labels'), (5, 'image')):
    with pytest.raises(ValueError, match=rf'{_SHARD}, record {i - 3}.*{words}'):
      found[i]
  assert found[2]['index'] == 2 and found[6]['index'] == 6


@pytest.mark.parametrize(
  'change,words',
  [
    ({'format': 'x'}, 'not the description'),
    ({'version': 2}, 'version 2'),
    ({'count': 11}, 'shards of 10 examples but a count of 11'),
    ({'count': '10'}, "lacks 'count'"),
    ({'exif': None}, "lacks 'exif'"),
    ({'categories': []}, 'at least one category'),
    ({'shards': [{'file': 'a'}]}, 'a shard without one of'),
    (
      {'shards': [{'file': 'a', 'count': 0, 'bytes': 1, 'sha256': ''}]},
      'shard of 0 examples',
    ),
    (
      {'shards': [{'file': '../a', 'count': 1, 'bytes': 1, 'sha256': ''}]},
      'climbs out',
    ),
  ],
)
def test_a_damaged_description_is_refused(copy, change, words):
  path = copy / 'train.json'
  path.write_text(json.dumps(json.loads(path.read_text()) | change))
  with pytest.raises(ValueError, match=words) as caught:
    ArrayRecord(copy)
  assert 'train.json' in str(caught.value)


def test_bad_arguments(folder):
  with pytest.raises(ValueError, match='max_examples=0'):
    ArrayRecord(folder, max_examples=0)
  with pytest.raises(ValueError, match='climbs out'):
    ArrayRecord(folder, '../train')
