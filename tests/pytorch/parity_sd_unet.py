"""The UNet against diffusers' UNet2DConditionModel, fresh and tiny.

`python -m pytest tests/pytorch -o python_files='parity_*.py'`, which
launch/parity.sh does in an environment of its own.
"""

import functools

import numpy as np
import pytest
import torch
import torch_models
from diffusers import UNet2DConditionModel

from pix2seqd_jax.pretrained import part, sd_unet, sources
from pix2seqd_jax.pretrained.sd_unet import PART

BASE = {
  'in_channels': 4,
  'out_channels': 4,
  'sample_size': 8,
  'down_block_types': ('CrossAttnDownBlock2D', 'DownBlock2D'),
  'up_block_types': ('UpBlock2D', 'CrossAttnUpBlock2D'),
  'block_out_channels': (32, 64),
  'cross_attention_dim': 24,
  'attention_head_dim': 8,
}
CONFIGS = {
  'sd1': BASE,
  'sd2': BASE
  | {
    'use_linear_projection': True,
    'attention_head_dim': (2, 4),
    'layers_per_block': 1,
    'down_block_types': ('CrossAttnDownBlock2D', 'CrossAttnDownBlock2D'),
    'up_block_types': ('CrossAttnUpBlock2D', 'CrossAttnUpBlock2D'),
  },
  # Everything that a config can say otherwise.
  'other': BASE
  | {
    'in_channels': 7,
    'out_channels': 3,
    'flip_sin_to_cos': False,
    'freq_shift': 1,
    'norm_num_groups': 4,
    'norm_eps': 1e-3,
    'block_out_channels': (20, 36),
    'attention_head_dim': 2,
    'layers_per_block': 1,
    'down_block_types': ('DownBlock2D', 'CrossAttnDownBlock2D'),
    'up_block_types': ('CrossAttnUpBlock2D', 'UpBlock2D'),
  },
  # LDMSeg's: the layers of the context are taken out of the made network.
  'ldmseg': BASE | {'in_channels': 12, 'layers_per_block': 1},
}
# Of the published config.json files, all that is not the default.
SD = {
  'sample_size': 64,
  'cross_attention_dim': 768,
  'attention_head_dim': 8,
}
FULL = {
  'sd15': (SD, 686, 859_520_964),
  'sd21': (
    SD
    | {
      'sample_size': 96,
      'cross_attention_dim': 1024,
      'attention_head_dim': (5, 10, 20, 20),
      'use_linear_projection': True,
      'upcast_attention': True,
    },
    686,
    865_910_724,
  ),
}


def without_context(model):
  """LDMSeg's surgery."""
  for block in model.modules():
    if hasattr(block, 'attn2'):
      block.attn2 = block.norm2 = None
  return model


def has_context(name):
  return name != 'ldmseg'


@functools.cache
def model_of(name):
  """diffusers' network, its weights as they come."""
  model = UNet2DConditionModel(**CONFIGS[name])
  return model if has_context(name) else without_context(model)


def loaded(name, seed, folder):
  """(their model, our module, its variables), by way of their files."""
  model = torch_models.redraw(model_of(name), seed)
  if has_context(name):
    model.save_pretrained(folder)
  else:  # as LDMSeg's: weights alone, no config
    torch.save({'unet': model.state_dict()}, folder / 'unet.pt')
    folder /= 'unet.pt'
  return model, *sources.load('sd15', folder, 'unet')


def inputs_of(name, seed):
  """x, the context, the times; the same in float32 on either side."""
  rng = np.random.default_rng(seed)
  config = CONFIGS[name]
  x = rng.normal(size=(2, config['in_channels'], 8, 12))
  context = rng.normal(size=(2, 5, config['cross_attention_dim']))
  time = rng.uniform(0, 1000, 2)
  inputs = [x, context] if has_context(name) else [x]
  return [np.float32(value) for value in inputs], np.float32(time)


@functools.cache
def ours(module, kind):
  """Our network as a function of its weights and inputs.

  The times are float32 on either side, whose codes the original makes so.
  """
  module = module.clone(dtype=kind)

  def function(variables, x, *context):
    time = variables['time'].astype('float32')
    return (module.apply(variables['net'], x, time, *context),)

  return function


def same(name, seed, model, module, variables):
  inputs, time = inputs_of(name, seed)

  def theirs(model, x, context=None):
    return (model(x, torch.from_numpy(time), context).sample,)

  torch_models.same(
    f'sd_unet {name}',
    seed,
    functools.partial(ours, module),
    {'net': variables, 'time': time},
    model,
    theirs,
    inputs,
    8e-6,
  )


@pytest.mark.parametrize('seed', torch_models.SEEDS)
@pytest.mark.parametrize('name', CONFIGS)
def test_the_same_numbers(name, seed, tmp_path):
  model, module, variables = loaded(name, seed, tmp_path)
  assert (module.context_dim is not None) == has_context(name)
  same(name, seed, model, module, variables)


@pytest.mark.parametrize('name', CONFIGS)
def test_ours_in_theirs(name, tmp_path):
  """Random weights of ours, by a file, in theirs; no name is left."""
  model, module, _ = loaded(name, 0, tmp_path)
  variables = torch_models.draw(PART, module)
  folder = tmp_path / 'ours'
  state = torch_models.export(PART, module, variables, folder)
  model.load_state_dict(state, strict=True)
  if has_context(name):
    model = UNet2DConditionModel.from_pretrained(
      folder, low_cpu_mem_usage=False
    )
    for key, value in model.state_dict().items():
      assert torch.equal(state[key], value)
  same(name, torch_models.OURS, model, module, variables)


@pytest.mark.parametrize('name', FULL)
def test_the_published_sizes(name):
  config, count, size = FULL[name]
  with torch.device('meta'):
    model = UNet2DConditionModel(**config)
  shapes = torch_models.shapes(model)
  assert len(shapes) == count
  assert sum(value.numel() for value in model.parameters()) == size
  module, _ = part.plan(PART, torch_models.sizes(shapes), {**model.config})
  assert torch_models.table(PART, module) == shapes
  assert sd_unet.module_from(shapes, None) == module  # without a config


def test_ldmsegs_sizes():
  """Twelve channels, no context, a copy of conv_in: weights alone tell."""
  with torch.device('meta'):
    model = without_context(UNet2DConditionModel(**SD, in_channels=12))
  shapes = torch_models.shapes(model)
  copy = {'new_conv.weight': (320, 12, 3, 3), 'new_conv.bias': (320,)}
  module, plan = part.plan(PART, torch_models.sizes(shapes | copy))
  assert module.in_channels == 12 and module.context_dim is None
  assert torch_models.table(PART, module) == shapes
  assert sum(plan.passed_over.values()) == 2
