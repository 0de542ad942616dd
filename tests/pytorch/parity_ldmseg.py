"""LDMSeg's whole file as PyTorch writes it: there, and back to its own code."""

import numpy as np
import pytest
import test_ldmseg as tiny
import torch

from pix2seqd_jax.cli import weights_import as command
from pix2seqd_jax.pretrained import sources


def nested():
  """What their script saves, with all that lies beside the weights."""
  found = {name: {} for name in tiny.TINY}
  for name, value in tiny.theirs().items():
    part, _, rest = name.partition('.')
    found[part][rest] = torch.from_numpy(value)
  adam = {'state': {0: {'step': torch.tensor(3.0)}}, 'param_groups': [{}]}
  return {
    'step': 200_000,
    'epoch': 432,
    **found,
    'ema': None,
    'opt': adam,
    'p': {'train_kwargs': {'batch_size': 32}, 'name': 'ldm'},
    'scaler': {'scale': 65536.0, '_growth_tracker': 0},
    'PQ': np.float64(51.7),
  }


class Holder(torch.nn.Module):
  """A module whose state has these names and shapes."""

  def __init__(self, state):
    super().__init__()
    for name, value in state.items():
      *path, leaf = name.split('.')
      module = self
      for word in path:
        if word not in module._modules:
          module.add_module(word, torch.nn.Module())
        module = module._modules[word]
      empty = torch.zeros_like(value, requires_grad=False)
      module.register_buffer(leaf, empty)


def test_there_and_back(tmp_path):
  given = nested()
  torch.save(given, tmp_path / 'ldmseg.pt')
  ours, back = str(tmp_path / 'ours'), str(tmp_path / 'back')
  file = str(tmp_path / 'ldmseg.pt')
  command.main(['--from', 'ldmseg', '--checkpoint', file, '--out', ours])
  command.main(['--to', 'ldmseg', '--checkpoint', ours, '--out', back])
  found = torch.load(tmp_path / 'back' / 'weights.pt', weights_only=True)
  for name in ('unet', 'vae_semseg'):
    module = Holder(given[name])
    module.load_state_dict(found[name], strict=True)
    for key, value in module.state_dict().items():
      assert value.dtype == given[name][key].dtype
      assert torch.equal(value, given[name][key])
  unet = found['unet']
  copies = [
    unet[f'{name}.weight'].data_ptr() for name in ('conv_in', 'new_conv')
  ]
  assert copies[0] == copies[1]
  left_out = {'post_quant_conv.weight', 'post_quant_conv.bias'}
  assert found['vae_image'].keys() == given['vae_image'].keys() - left_out
  for key, value in found['vae_image'].items():
    assert value.dtype == torch.float16
    assert torch.equal(value, given['vae_image'][key])


@pytest.mark.parametrize('source', ['ldmseg', 'ldmseg-autoencoder'])
def test_stage_1(tmp_path, source):
  """Its own file: one network among counters, under its wrapper's name."""
  given = nested()
  state = {f'module.{k}': v for k, v in given['vae_semseg'].items()}
  keep = ('step', 'epoch', 'opt', 'p', 'scaler')
  whole = {'vae': state, **{key: given[key] for key in keep}}
  torch.save(whole, tmp_path / 'ae.pt')
  part = {'ldmseg': 'vae_semseg', 'ldmseg-autoencoder': 'autoencoder'}[source]
  module, found = sources.load(source, tmp_path / 'ae.pt', part)
  assert module == tiny.TINY['vae_semseg']
  np.testing.assert_array_equal(
    found['params']['encoder']['0']['bias'],
    given['vae_semseg']['encoder.0.bias'].numpy(),
  )


class _Trap:
  def __reduce__(self):
    return print, ('a pickle was executed',)


def test_code_beside_numbers_is_refused(tmp_path, capsys):
  torch.save({**nested(), 'p': _Trap()}, tmp_path / 'ldmseg.pt')
  with pytest.raises(ValueError, match='would execute code of the file'):
    sources.find('ldmseg', tmp_path / 'ldmseg.pt')
  assert capsys.readouterr().out == ''
