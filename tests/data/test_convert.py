"""Conversion: equal bytes, resumption after a kill, nothing half done."""

import json
import pathlib

import numpy as np
import pytest
import tiny_coco

from pix2seqd_jax.data.convert import Conversion
from pix2seqd_jax.data.readers import shapes
from pix2seqd_jax.data.readers.array_record import ArrayRecord

SOURCE = shapes.Shapes(num_examples=10, size=(16, 20))


def _files(folder):
  return {path.name: path.read_bytes() for path in folder.iterdir()}


def _convert(folder, source=SOURCE, **kwargs):
  threads = kwargs.pop('num_threads', 4)
  on_example = kwargs.pop('on_example', None)
  kwargs = {'num_shards': 4, 'origin': {'seed': 0}} | kwargs
  conversion = Conversion(source, folder, 'train', **kwargs)
  return conversion.run(num_threads=threads, on_example=on_example)


@pytest.fixture(scope='module')
def unbroken(tmp_path_factory):
  folder = tmp_path_factory.mktemp('unbroken')
  _convert(folder)
  return _files(folder)


def test_equal_input_makes_equal_bytes(unbroken, tmp_path):
  _convert(tmp_path, num_threads=1)
  assert _files(tmp_path) == unbroken
  assert sorted(unbroken) == [
    *(f'train-0000{i}-of-00004.array_record' for i in range(4)),
    'train.json',
  ]


def test_the_description(unbroken):
  metadata = json.loads(unbroken['train.json'])
  counts = [shard['count'] for shard in metadata['shards']]
  assert sum(counts) == metadata['count'] == 10 and set(counts) == {2, 3}
  assert metadata['source'] == {'seed': 0} and len(metadata['digest']) == 64
  assert len(metadata['categories']) == len(SOURCE.categories)


class _Killed(BaseException):
  pass


def _break_off(folder, after, **kwargs):
  """A conversion that is gone after some examples, as if it were killed."""
  left = [after]

  def on_example():
    left[0] -= 1
    if left[0] < 0:
      raise _Killed

  with pytest.raises(_Killed):
    _convert(folder, on_example=on_example, num_threads=1, **kwargs)


@pytest.mark.parametrize('after', [0, 1, 3, 6, 9])
def test_a_broken_conversion_is_not_there_and_goes_on(
  unbroken, tmp_path, after
):
  _break_off(tmp_path, after)
  with pytest.raises(ValueError, match='not finished'):
    ArrayRecord(tmp_path)
  # What a SIGKILL leaves beside finished shards.
  (tmp_path / '.train-00003-of-00004.array_record.partial').write_bytes(b'x')
  started, stepped = [], []
  conversion = Conversion(
    SOURCE, tmp_path, 'train', num_shards=4, origin={'seed': 0}
  )
  conversion.run(on_start=started.append, on_example=lambda: stepped.append(1))
  bounds = [0, 2, 5, 7, 10]
  assert started == [max(b for b in bounds if b <= after)]
  assert len(stepped) == 10 - started[0]
  assert _files(tmp_path) == unbroken


@pytest.mark.parametrize('change', ['origin', 'shards', 'bytes', 'journal'])
def test_another_plan_or_damage_starts_anew(unbroken, tmp_path, change):
  kwargs = {
    'origin': {'origin': {'seed': 1}},
    'shards': {'num_shards': 5},
  }.get(change, {})
  _break_off(tmp_path, 6, **kwargs)
  (tmp_path / 'train-2-00000-of-00001.array_record').write_bytes(b'kept')
  if change == 'bytes':
    path = tmp_path / 'train-00000-of-00004.array_record'
    path.write_bytes(path.read_bytes()[:-1])
  elif change == 'journal':
    (tmp_path / '.train.unfinished.json').write_bytes(b'{')
  started = []
  Conversion(SOURCE, tmp_path, 'train', num_shards=4, origin={'seed': 0}).run(
    on_start=started.append
  )
  assert started == [0]
  found = _files(tmp_path)
  # Another split's shards, although its name begins alike.
  assert found.pop('train-2-00000-of-00001.array_record') == b'kept'
  assert found == unbroken


def test_a_finished_split_is_replaced_only_if_told(unbroken, tmp_path):
  _convert(tmp_path)
  with pytest.raises(ValueError, match='--overwrite'):
    _convert(tmp_path)
  other = shapes.Shapes(num_examples=7, size=(16, 20), seed=1)
  _break_off(tmp_path, 5, source=other, overwrite=True)
  with pytest.raises(ValueError, match='not finished'):
    ArrayRecord(tmp_path)
  _convert(tmp_path, other)
  tiny_coco.assert_same(ArrayRecord(tmp_path), other)


def test_two_at_once_are_refused(tmp_path):
  def on_example():
    with pytest.raises(ValueError, match='another process converts train'):
      _convert(tmp_path)

  _convert(tmp_path, on_example=on_example)
  assert len(ArrayRecord(tmp_path)) == 10


class _Wrong:
  categories = SOURCE.categories

  def __init__(self, **changes):
    self.changes = changes

  def __len__(self):
    return 3

  def __getitem__(self, index):
    if index == 2 and 'raises' in self.changes:
      raise ValueError('images/two.jpg has zero bytes')
    return SOURCE[index] | self.changes


@pytest.mark.parametrize(
  'changes,words',
  [
    ({'index': 7}, 'read back with another index'),
    ({'ids': SOURCE[0]['ids'].astype(np.int64)}, 'another ids'),
    ({'image': SOURCE[0]['image'][:8]}, 'must be equal'),
    ({'past': np.zeros(3)}, "key 'past'"),
    ({'raises': True}, r'two\.jpg has zero bytes'),
  ],
)
def test_what_would_be_read_back_otherwise_is_refused(tmp_path, changes, words):
  with pytest.raises(ValueError, match=words):
    _convert(tmp_path, _Wrong(**changes), num_shards=1)
  left = {path.name for path in pathlib.Path(tmp_path).iterdir()}
  assert left <= {'.train.unfinished.json'}


@pytest.mark.parametrize(
  'kwargs,words',
  [
    ({'num_shards': 11}, r'--shards=11 must lie in 0\.\.10'),
    ({'num_shards': -1}, '--shards=-1'),
  ],
)
def test_bad_arguments(tmp_path, kwargs, words):
  with pytest.raises(ValueError, match=words):
    _convert(tmp_path, **kwargs)
  with pytest.raises(ValueError, match="--split='a b'"):
    Conversion(SOURCE, tmp_path, 'a b')
