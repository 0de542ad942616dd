"""LPIPS against its definition in plain operations of PyTorch.

The package itself is not installed. This follows the paper's equation 1 and
the names in the package's files.
"""

import functools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torch_models

from pix2seqd_jax.pretrained import sources

# torchvision's numbers of VGG-16's convolutions; a pooling before each stage.
STAGES = ((0, 2), (5, 7), (10, 12, 14), (17, 19, 21), (24, 26, 28))
WIDTHS = (64, 128, 256, 512, 512)


class Theirs(torch.nn.Module):
  """Holds the tensors by torchvision's and the package's names."""

  def __init__(self, seed):
    super().__init__()
    rng = np.random.default_rng(seed)
    self.arrays, channels = {}, 3
    for i, (numbers, width) in enumerate(zip(STAGES, WIDTHS)):
      for number in numbers:
        kernel = rng.normal(size=(width, channels, 3, 3))
        kernel *= np.sqrt(2 / (9 * channels))
        self.arrays[f'features.{number}.weight'] = kernel
        self.arrays[f'features.{number}.bias'] = 0.1 * rng.normal(size=width)
        channels = width
      lin = rng.uniform(size=(1, width, 1, 1)) / width
      self.arrays[f'lin{i}.model.1.weight'] = lin
    self.arrays = {
      k: torch.from_numpy(np.float32(v)) for k, v in self.arrays.items()
    }

  def forward(self, x, y):
    w = {k: v.to(x.dtype) for k, v in self.arrays.items()}

    def column(values):
      return torch.tensor(values, dtype=x.dtype)[:, None, None]

    shift, scale = (
      column(v) for v in ((-0.030, -0.088, -0.188), (0.458, 0.448, 0.450))
    )
    x, y = (x - shift) / scale, (y - shift) / scale
    total = 0
    for i, numbers in enumerate(STAGES):
      if i:
        x, y = F.max_pool2d(x, 2), F.max_pool2d(y, 2)
      for n in numbers:
        kernel, bias = w[f'features.{n}.weight'], w[f'features.{n}.bias']
        x, y = (F.relu(F.conv2d(z, kernel, bias, padding=1)) for z in (x, y))
      a, b = (z / (z.norm(dim=1, keepdim=True) + 1e-10) for z in (x, y))
      distance = F.conv2d((a - b) ** 2, w[f'lin{i}.model.1.weight'])
      total = total + distance.mean((1, 2, 3))
    return total


@functools.cache
def ours(module, kind):
  module = module.clone(dtype=kind)
  return lambda variables, x, y: (module.apply(variables, x, y),)


@pytest.mark.parametrize('seed', torch_models.SEEDS[:3])
def test_the_same_distances(seed, tmp_path):
  model = Theirs(seed)
  torch.save(model.arrays, tmp_path / 'lpips.pth')
  module, variables = sources.load('lpips-vgg', tmp_path / 'lpips.pth')
  rng = np.random.default_rng(seed)
  x = rng.uniform(-1, 1, size=(2, 3, 32, 49))
  pair = np.float32(x), np.float32(np.clip(x + rng.normal(size=x.shape), -1, 1))
  torch_models.same(
    'lpips_vgg',
    seed,
    functools.partial(ours, module),
    variables,
    model,
    lambda model, x, y: (model(x, y),),
    pair,
    8e-6,
  )


def test_the_two_published_files_as_one(tmp_path):
  """torchvision's, with its classifier, and the package's linear layers."""
  arrays = Theirs(0).arrays
  extra = {'classifier.0.weight': torch.zeros(3, 2)}
  for name, part in (('vgg16-397923af.pth', 'features'), ('vgg.pth', 'lin')):
    some = {k: v for k, v in arrays.items() if k.startswith(part)}
    torch.save(some | (extra if part == 'features' else {}), tmp_path / name)
  for name in ('vgg16-397923af.pth', 'vgg.pth'):
    with pytest.raises(ValueError, match=r'missing: (lin0|features\.0)'):
      sources.load('lpips-vgg', tmp_path / name)
  whole = {}
  for path in tmp_path.glob('*.pth'):
    whole |= torch.load(path)
  torch.save(whole, tmp_path / 'whole.pt')
  _, variables = sources.load('lpips-vgg', tmp_path / 'whole.pt')
  lin = variables['params']['lin4']['kernel']
  np.testing.assert_array_equal(
    lin[:, 0], arrays['lin4.model.1.weight'][0, :, 0, 0]
  )
  last = variables['params']['features']['28']['bias']
  np.testing.assert_array_equal(last, arrays['features.28.bias'])
