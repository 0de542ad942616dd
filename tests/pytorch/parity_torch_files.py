"""PyTorch's own files, written by PyTorch."""

import collections
import pathlib
import pickle

import numpy as np
import pytest
import torch

from pix2seqd_jax.pretrained import torch_files

WEIGHTS = {
  'conv.weight': torch.arange(24.0).reshape(2, 3, 2, 2),
  # Neither contiguous nor at the beginning of its storage.
  'part.weight': torch.arange(12.0).reshape(3, 4)[1:].T,
  'half': torch.tensor([1.5, -2.0], dtype=torch.float16),
  'brain': torch.tensor([1.5, -3e38], dtype=torch.bfloat16),
  'double': torch.tensor([1 / 3], dtype=torch.float64),
  'count': torch.tensor(7),
}


def same(found):
  assert found.keys() == WEIGHTS.keys()
  for name, value in WEIGHTS.items():
    array = np.asarray(found[name])
    assert found[name].shape == array.shape == tuple(value.shape)
    assert found[name].dtype == array.dtype.name
    assert str(value.dtype) == f'torch.{array.dtype.name}'
    np.testing.assert_array_equal(
      array.astype(np.float64), value.double().numpy()
    )


@pytest.mark.parametrize('name', ['w.bin', 'w.pt', 'w.pth', 'w.ckpt'])
@pytest.mark.parametrize('zipped', [True, False], ids=['zip', 'before-1.6'])
def test_weights(tmp_path, name, zipped):
  torch.save(WEIGHTS, tmp_path / name, _use_new_zipfile_serialization=zipped)
  found = torch_files.read(tmp_path / name)
  same(found)
  assert list(torch_files.half_precision(found)) == ['half', 'brain']


def test_a_folder_and_parameters(tmp_path):
  """What a module's state is, with gradients and the module's metadata."""
  layer = torch.nn.Linear(3, 2)
  torch.save(layer.state_dict(), tmp_path / 'pytorch_model.bin')
  found = torch_files.read(tmp_path)
  np.testing.assert_array_equal(
    np.asarray(found['weight']), layer.weight.detach().numpy()
  )
  torch.save(dict(layer.named_parameters()), tmp_path / 'pytorch_model.bin')
  assert torch_files.read(tmp_path).keys() == {'weight', 'bias'}


def test_weights_beside_an_optimizer(tmp_path):
  path = tmp_path / 'last.pt'
  adam = {'state': {0: {'step': torch.tensor(3.0)}}, 'param_groups': [{}]}
  torch.save({'epoch': 3, 'state_dict': WEIGHTS, 'optimizer': adam}, path)
  same(torch_files.read(path))
  other = {name: value + 1 for name, value in WEIGHTS.items()}
  torch.save({'student': other, 'teacher': WEIGHTS}, path)
  same(torch_files.read(path, 'teacher'))
  with pytest.raises(ValueError, match=r"one of \['student', 'teacher'\]"):
    torch_files.read(path)
  with pytest.raises(ValueError, match="no weights under 'pupil'"):
    torch_files.read(path, 'pupil')


class _Trap:
  """Makes a file where it is unpickled."""

  def __init__(self, path):
    self.path = path

  def __reduce__(self):
    return pathlib.Path.touch, (self.path,)


@pytest.mark.parametrize('zipped', [True, False], ids=['zip', 'before-1.6'])
def test_code_is_refused_and_not_run(tmp_path, zipped):
  path, proof = tmp_path / 'w.pt', tmp_path / 'was_run'
  torch.save(
    {**WEIGHTS, 'trap': _Trap(proof)},
    path,
    _use_new_zipfile_serialization=zipped,
  )
  with pytest.raises(ValueError, match='would execute code of the file'):
    torch_files.read(path)
  path.write_bytes(pickle.dumps(_Trap(proof)))
  with pytest.raises(ValueError, match=r'w\.pt (holds|is no whole)'):
    torch_files.read(path)
  assert not proof.exists()
  # The trap works.
  pickle.loads(path.read_bytes())
  assert proof.exists()


@pytest.mark.parametrize('keep', [0, 10, 300, -1, -30])
@pytest.mark.parametrize('zipped', [True, False], ids=['zip', 'before-1.6'])
def test_truncated(tmp_path, keep, zipped):
  path = tmp_path / 'w.bin'
  torch.save(WEIGHTS, path, _use_new_zipfile_serialization=zipped)
  path.write_bytes(path.read_bytes()[:keep])
  with pytest.raises(ValueError, match=r'w\.bin (holds|is no whole)'):
    torch_files.read(path)


@pytest.mark.parametrize('inner', ['', 'pytorch_model'])
def test_a_checkpoint_of_deepspeed(tmp_path, inner):
  """Weights under `module`, beside what DeepSpeed tells of the run."""
  path = tmp_path / inner / 'mp_rank_00_model_states.pt'
  path.parent.mkdir(exist_ok=True)
  shapes = collections.OrderedDict((k, v.shape) for k, v in WEIGHTS.items())
  torch.save(
    {
      'module': collections.OrderedDict(WEIGHTS),
      'buffer_names': [],
      'optimizer': None,
      'param_shapes': [shapes],
      'global_steps': 80_000,
      'ds_config': {'zero_optimization': {'stage': 2}},
      'ds_version': '0.12.6',
    },
    path,
  )
  same(torch_files.read(tmp_path))
  same(torch_files.read(path))
