"""The autoencoder against diffusers' AutoencoderKL, fresh and tiny."""

import functools

import numpy as np
import pytest
import torch
import torch_models
from diffusers import AutoencoderKL

from pix2seqd_jax.architectures.sd_vae import SDVAE
from pix2seqd_jax.pretrained import part, sources
from pix2seqd_jax.pretrained.sd_vae import PART


def blocks(levels):
  """What a config says for so many levels."""
  return {
    'down_block_types': ('DownEncoderBlock2D',) * levels,
    'up_block_types': ('UpDecoderBlock2D',) * levels,
  }


CONFIGS = {
  'sd': {
    'block_out_channels': (32, 64),
    'latent_channels': 4,
    'layers_per_block': 2,
    **blocks(2),
  },
  'other': {
    'in_channels': 5,
    'out_channels': 2,
    'block_out_channels': (12, 20, 20),
    'latent_channels': 3,
    'layers_per_block': 1,
    'norm_num_groups': 4,
    **blocks(3),
  },
}
FULL = {
  'block_out_channels': (128, 256, 512, 512),
  'latent_channels': 4,
  'layers_per_block': 2,
  'sample_size': 512,
  **blocks(4),
}


@functools.cache
def model_of(name):
  """diffusers' network, its weights as they come."""
  return AutoencoderKL(**CONFIGS[name])


@functools.cache
def ours(module, kind):
  """Moments of an image and images of a latent."""
  module = module.clone(dtype=kind)

  def function(variables, x, z):
    posterior = module.apply(variables, x, method='encode')
    return (*posterior, module.apply(variables, z, method='decode'))

  return function


def same(name, seed, model, module, variables):
  rng = np.random.default_rng(seed)
  config = CONFIGS[name]
  channels = config.get('in_channels', 3)
  x = np.float32(rng.normal(size=(2, channels, 16, 24)))
  z = np.float32(rng.normal(size=(2, config['latent_channels'], 6, 4)))

  def theirs(model, x, z):
    posterior = model.encode(x).latent_dist
    return posterior.mean, posterior.logvar, model.decode(z).sample

  torch_models.same(
    f'sd_vae {name}',
    seed,
    functools.partial(ours, module),
    variables,
    model,
    theirs,
    (x, z),
    8e-6,
  )


@pytest.mark.parametrize('seed', torch_models.SEEDS)
@pytest.mark.parametrize('name', CONFIGS)
def test_the_same_numbers(name, seed, tmp_path):
  model = torch_models.redraw(model_of(name), seed)
  model.save_pretrained(tmp_path)
  same(name, seed, model, *sources.load('sd15', tmp_path, 'vae'))


@pytest.mark.parametrize('name', CONFIGS)
def test_ours_in_theirs(name, tmp_path):
  model = model_of(name)
  model.save_pretrained(tmp_path / 'theirs')
  module, _ = sources.load('sd15', tmp_path / 'theirs', 'vae')
  variables = torch_models.draw(PART, module)
  state = torch_models.export(PART, module, variables, tmp_path / 'ours')
  model.load_state_dict(state, strict=True)
  again = AutoencoderKL.from_pretrained(
    tmp_path / 'ours', low_cpu_mem_usage=False
  )
  for key, value in again.state_dict().items():
    assert torch.equal(state[key], value)
  same(name, torch_models.OURS, model, module, variables)


def test_the_published_sizes():
  with torch.device('meta'):
    model = AutoencoderKL(**FULL)
  shapes = torch_models.shapes(model)
  assert len(shapes) == 248
  assert sum(p.numel() for p in model.parameters()) == 83_653_863
  module, _ = part.plan(PART, torch_models.sizes(shapes), dict(model.config))
  assert module == SDVAE()
  assert torch_models.table(PART, module) == shapes
