"""Files of weights: shards, folders, and all that can be wrong with them."""

import json
import pickle
import sys

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from pix2seqd_jax.pretrained import torch_files

ARRAYS = {
  'a.weight': np.arange(6, dtype=np.float32).reshape(2, 3),
  'b.bias': np.ones(4, np.float16),
  'c': np.array([1.5, -2], ml_dtypes.bfloat16),
  'ids': np.arange(3),
}


def same(found, arrays=ARRAYS):
  assert found.keys() == arrays.keys()
  for name, array in arrays.items():
    tensor = found[name]
    assert (tensor.shape, tensor.dtype) == (array.shape, array.dtype.name)
    np.testing.assert_array_equal(np.asarray(tensor), array)


@pytest.fixture
def sharded(tmp_path):
  names = list(ARRAYS)
  places = {}
  for i in range(2):
    file = f'model-{i}.safetensors'
    save_file({n: ARRAYS[n] for n in names[i::2]}, tmp_path / file)
    places |= dict.fromkeys(names[i::2], file)
  index = tmp_path / 'model.safetensors.index.json'
  index.write_text(json.dumps({'weight_map': places}))
  return index


def test_a_file_and_its_folder(tmp_path):
  save_file(ARRAYS, tmp_path / 'model.safetensors')
  same(torch_files.read(tmp_path / 'model.safetensors'))
  found = torch_files.read(tmp_path)
  same(found)
  assert list(torch_files.half_precision(found)) == ['b.bias', 'c']


def test_shards(sharded):
  same(torch_files.read(sharded))
  same(torch_files.read(sharded.parent))


def test_a_missing_shard(sharded):
  (sharded.parent / 'model-1.safetensors').unlink()
  with pytest.raises(ValueError, match=r'1 are missing: model-1\.safetensors'):
    torch_files.read(sharded)


@pytest.mark.parametrize('name', ['../secret.safetensors', '/etc/passwd', 3])
def test_a_shard_stays_in_its_folder(sharded, name):
  sharded.write_text(json.dumps({'weight_map': {'a': name}}))
  with pytest.raises(ValueError, match='beside its index'):
    torch_files.read(sharded)


def test_a_promise_that_no_shard_keeps(sharded):
  index = json.loads(sharded.read_text())
  index['weight_map']['lost'] = 'model-0.safetensors'
  sharded.write_text(json.dumps(index))
  with pytest.raises(ValueError, match='do not hold: lost'):
    torch_files.read(sharded)


@pytest.mark.parametrize('text', ['', '[]', '{"weight_map": 3}', '{}'])
def test_what_is_no_index(sharded, text):
  sharded.write_text(text)
  with pytest.raises(ValueError, match='no index of shards'):
    torch_files.read(sharded)


@pytest.mark.parametrize('keep', [0, 5, 40, -1])
def test_truncated(tmp_path, keep):
  path = tmp_path / 'model.safetensors'
  save_file(ARRAYS, path)
  path.write_bytes(path.read_bytes()[:keep])
  with pytest.raises(ValueError, match='not a whole safetensors file'):
    torch_files.read(path)


class _Trap:
  def __reduce__(self):
    return sys.exit, ('a pickle was executed',)


@pytest.mark.parametrize('name', ['model.safetensors', 'model.bin', 'm.pt'])
def test_a_pickle_is_never_executed(tmp_path, name):
  (tmp_path / name).write_bytes(pickle.dumps(_Trap()))
  with pytest.raises(ValueError, match=r'not a whole|only torch|refused|whole'):
    torch_files.read(tmp_path / name)


def test_without_torch_a_torch_file_names_the_way(tmp_path, monkeypatch):
  monkeypatch.setitem(sys.modules, 'torch', None)
  (tmp_path / 'unet.bin').write_bytes(b'PK')
  with pytest.raises(ValueError, match='pip install torch'):
    torch_files.read(tmp_path / 'unet.bin')


def test_a_folder_without_weights(tmp_path):
  with pytest.raises(ValueError, match='holds none of diffusion_pytorch_model'):
    torch_files.read(tmp_path)
  save_file(ARRAYS, tmp_path / 'mine.safetensors')
  with pytest.raises(ValueError, match=r'it has mine\.safetensors: name'):
    torch_files.read(tmp_path)


@pytest.mark.parametrize('name', ['absent.safetensors', 'weights.h5'])
def test_no_such_file(tmp_path, name):
  if name.endswith('h5'):
    (tmp_path / name).write_bytes(b'x')
  with pytest.raises(ValueError, match=r'does not exist|no file of weights'):
    torch_files.read(tmp_path / name)
