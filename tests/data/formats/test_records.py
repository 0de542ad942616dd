"""Random access to records: order, parts of files, pickles, damage."""

import pickle
import struct
from concurrent import futures

import numpy as np
import pytest

from pix2seqd_jax.data.formats import records


def _record(i):
  return b'%d' % i * (i % 7 + 1)


def _array_record(path, items):
  from array_record.python.array_record_module import ArrayRecordWriter

  writer = ArrayRecordWriter(str(path), 'group_size:1,uncompressed')
  for item in items:
    writer.write(item)
  writer.close()


def _tfrecord(path, items):
  with open(path, 'wb') as file:
    for item in items:
      length = struct.pack('<Q', len(item))
      file.write(length + records.masked_crc(length))
      file.write(item + records.masked_crc(item))


_WRITERS = {'array_record': _array_record, 'tfrecord': _tfrecord}


@pytest.fixture(params=records.FORMATS)
def kind(request):
  return request.param


@pytest.fixture
def shards(tmp_path, kind):
  """Records 0..19 in three files, of which the last is skipped by half."""
  found, first = [], 0
  for number, count in enumerate((5, 1, 14)):
    path = tmp_path / f'{number}.{kind}'
    _WRITERS[kind](path, map(_record, range(first, first + count)))
    found.append(records.Shard(str(path), 0, count, count))
    first += count
  return found


def test_any_order_from_any_thread(shards, kind):
  found = records.Records(shards, kind)
  assert len(found) == 20
  order = np.random.default_rng(0).permutation(np.repeat(np.arange(20), 3))
  with futures.ThreadPoolExecutor(4) as pool:
    assert list(pool.map(found.read, order)) == [_record(i) for i in order]
  assert pickle.loads(pickle.dumps(found)).read(19) == _record(19)
  with pytest.raises(IndexError):
    found.read(20)


def test_parts_of_files(shards, kind):
  part = [
    shards[0]._replace(skip=3, take=2),
    shards[2]._replace(skip=10, take=-1),  # as TFDS says: all that follow
  ]
  found = records.Records(part, kind)
  expected = [3, 4, 16, 17, 18, 19]
  assert [found.read(i) for i in range(len(found))] == [
    _record(i) for i in expected
  ]
  assert found.name(2).endswith(f'2.{kind}, record 10')


def test_damage_is_the_right_record_or_an_error_that_names_it(tmp_path, kind):
  path = tmp_path / f'a.{kind}'
  items = [bytes(np.random.default_rng(i).bytes(2000)) for i in range(4)]
  _WRITERS[kind](path, items)
  whole, raised = path.read_bytes(), 0
  rng = np.random.default_rng(0)
  for trial in range(24):
    data = bytearray(whole)
    if trial % 3:
      # Of TFRecord only the headers are compared: the first of them.
      place = rng.integers(12) if kind == 'tfrecord' else rng.integers(10_000)
      data[place] ^= 1 << rng.integers(8)
    else:
      data = data[: rng.integers(1, len(data))]
    path.write_bytes(data)
    found = records.Records([records.Shard(str(path), 0, 4, 4)], kind)
    for i, item in enumerate(items):
      try:
        assert found.read(i) == item
      except ValueError as error:
        raised += 1
        assert f'a.{kind}, record {i} cannot be read' in str(error)
  assert raised > 20


def test_a_tfrecord_of_another_length_is_refused(tmp_path):
  path = tmp_path / 'a.tfrecord'
  _tfrecord(path, [b'a', b'b'])
  found = records.Records([records.Shard(str(path), 0, 3, 3)], 'tfrecord')
  with pytest.raises(ValueError, match='2 records, not 3'):
    found.read(0)


def test_files_and_formats_are_looked_at_at_once(tmp_path):
  path = tmp_path / 'a'
  with pytest.raises(ValueError, match=r'a does not exist'):
    records.Records([records.Shard(str(path), 0, 1, 1)])
  path.touch()
  with pytest.raises(ValueError, match='zero bytes'):
    records.Records([records.Shard(str(path), 0, 1, 1)])
  with pytest.raises(ValueError, match="'parquet' cannot be read one by one"):
    records.Records([], 'parquet')


def test_tensorflow_reads_the_same_tfrecord(tmp_path):
  tf = pytest.importorskip('tensorflow', reason='needs the extra tf')
  path = tmp_path / 'a.tfrecord'
  items = [_record(i) for i in range(9)] + [b'']
  _tfrecord(path, items)
  assert list(tf.data.TFRecordDataset(str(path)).as_numpy_iterator()) == items
  with tf.io.TFRecordWriter(str(tmp_path / 'b.tfrecord')) as writer:
    for item in items:
      writer.write(item)
  assert (tmp_path / 'b.tfrecord').read_bytes() == path.read_bytes()
