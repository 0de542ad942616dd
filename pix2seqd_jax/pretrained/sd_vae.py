"""Stable Diffusion's autoencoder in diffusers' and in CompVis' names.

https://github.com/CompVis/latent-diffusion is what the first files were made
with: blocks are `down`, `up` and `mid`, and `up` counts from the largest map.
"""

import re
from collections.abc import Collection, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from pix2seqd_jax.architectures import sd_vae
from pix2seqd_jax.pretrained import part

# CompVis' whole models hold this one under a name of its own.
_WHOLE = 'first_stage_model.'
# What else is in a file of training: discriminator and perceptual loss, and
# averages under names without dots.
_PASSED_OVER = re.compile(r'(loss|model_ema)\..*')
_COMPVIS = (
  (r'(encoder)\.down\.(\d+)\.block', r'\1.down_blocks.\2.resnets'),
  (r'(decoder)\.up\.(\d+)\.block', r'\1.up_blocks.\2.resnets'),
  (
    r'(encoder)\.down\.(\d+)\.downsample\.conv',
    r'\1.down_blocks.\2.downsamplers.0.conv',
  ),
  (
    r'(decoder)\.up\.(\d+)\.upsample\.conv',
    r'\1.up_blocks.\2.upsamplers.0.conv',
  ),
  (r'(\w+)\.mid\.block_1', r'\1.mid_block.resnets.0'),
  (r'(\w+)\.mid\.block_2', r'\1.mid_block.resnets.1'),
  (r'(\w+)\.mid\.attn_1\.norm', r'\1.mid_block.attentions.0.group_norm'),
  (r'(\w+)\.mid\.attn_1\.([qkv])', r'\1.mid_block.attentions.0.to_\2'),
  (r'(\w+)\.mid\.attn_1\.proj_out', r'\1.mid_block.attentions.0.to_out.0'),
  (r'(\w+)\.norm_out', r'\1.conv_norm_out'),
)
_COMPVIS = tuple((re.compile(old + r'(?=\.)'), new) for old, new in _COMPVIS)
_NIN = re.compile(r'(?<=\.)nin_shortcut(?=\.)')
_UP = re.compile(r'decoder\.up\.(\d+)\.')
_OLD = {
  'query': 'to_q',
  'key': 'to_k',
  'value': 'to_v',
  'proj_attn': 'to_out.0',
}
_OLD_NAME = re.compile(rf'(?<=\.attentions\.0\.)({"|".join(_OLD)})(?=\.)')
_CONVS = r'.*\.conv_shortcut\.weight|(post_)?quant_conv\.weight'
# Their options that change the network, and the values that ours has.
_FIXED = {
  '_class_name': 'AutoencoderKL',
  'act_fn': 'silu',
  'mid_block_add_attention': True,
  'use_quant_conv': True,
  'use_post_quant_conv': True,
}
_BLOCKS = {
  'down_block_types': 'DownEncoderBlock2D',
  'up_block_types': 'UpDecoderBlock2D',
}


def canonical(names: Collection[str]) -> dict[str, str | None]:
  """Names of today's diffusers; passes over what is no part of the network.

  That is the rest of a whole Stable Diffusion, what is left of training, and
  the linear layer of a half that the file does not have: LDMSeg's files keep
  `post_quant_conv` and no decoder.
  """
  is_whole = any(name.startswith(_WHOLE) for name in names)
  bare = {
    name: name.removeprefix(_WHOLE)
    for name in names
    if name.startswith(_WHOLE) or not is_whole
  }
  ups = [int(match[1]) for match in map(_UP.match, bare.values()) if match]
  found: dict[str, str | None] = dict.fromkeys(names)
  found |= {
    name: _canonical(short, max(ups, default=0)) for name, short in bare.items()
  }
  for half, linear in (
    ('encoder.', 'quant_conv.'),
    ('decoder.', 'post_quant_conv.'),
  ):
    if not any(name.startswith(half) for name in bare.values()):
      lone = [n for n, short in bare.items() if short.startswith(linear)]
      found |= dict.fromkeys(lone)
  return found


def _canonical(name, last_up) -> str | None:
  if _PASSED_OVER.fullmatch(name):
    return None
  name = _UP.sub(lambda match: f'decoder.up.{last_up - int(match[1])}.', name)
  for old, new in _COMPVIS:
    name, count = old.subn(new, name)
    if count:
      break
  name = _NIN.sub('conv_shortcut', name)
  return _OLD_NAME.sub(lambda match: _OLD[match[1]], name)


def module_from(
  shapes: Mapping[str, tuple[int, ...]],
  config: Mapping[str, Any] | None = None,
) -> sd_vae.SDVAE:
  """The network of these arrays.

  Args:
    shapes: {canonical name: their shape}; which halves there are, widths,
      channels and depth.
    config: diffusers' config.json; the number of groups is only there.

  Raises:
    ValueError: the config describes an autoencoder of another kind.
  """
  config = dict(config or {})
  _check(config)
  parts = tuple(
    half
    for half in sd_vae.PARTS
    if any(name.startswith(f'{half}.') for name in shapes)
  )
  fields = _from_shapes(shapes)
  for ours, theirs in (
    ('in_channels', 'in_channels'),
    ('out_channels', 'out_channels'),
    ('latent_channels', 'latent_channels'),
    ('layers_per_block', 'layers_per_block'),
    ('groups', 'norm_num_groups'),
  ):
    if theirs in config:
      fields[ours] = config[theirs]
  if 'block_out_channels' in config:
    fields['block_out_channels'] = tuple(config['block_out_channels'])
  return sd_vae.SDVAE(parts=parts or sd_vae.PARTS, **fields)


def _from_shapes(shapes) -> dict[str, Any]:
  """What the arrays show of our module's fields."""

  def find(name, axis):
    shape = shapes.get(f'{name}.weight', ())
    return shape[axis] if len(shape) > axis else None

  down, up = 'encoder.down_blocks', 'decoder.up_blocks'
  widths = _count(find, f'{down}.{{}}.resnets.0.conv1')
  if not widths:
    widths = _count(find, f'{up}.{{}}.resnets.0.conv1')[::-1]
  layers = len(_count(find, f'{down}.0.resnets.{{}}.conv1'))
  if not layers:
    layers = len(_count(find, f'{up}.0.resnets.{{}}.conv1')) - 1
  moments = find('encoder.conv_out', 0)
  fields = {
    'in_channels': find('encoder.conv_in', 1),
    'out_channels': find('decoder.conv_out', 0),
    'latent_channels': moments // 2 if moments else find('decoder.conv_in', 1),
    'block_out_channels': widths,
    'layers_per_block': max(layers, 0),
  }
  return {name: value for name, value in fields.items() if value}


def _count(find, pattern) -> tuple[int, ...]:
  """Outputs of the layers that are numbered 0, 1, ..., until one is missing."""
  found = []
  while (width := find(pattern.format(len(found)), 0)) is not None:
    found.append(width)
  return tuple(found)


def _check(config):
  wrong = {
    key: config[key]
    for key, value in _FIXED.items()
    if config.get(key, value) != value
  }
  wrong |= {
    key: config[key]
    for key, value in _BLOCKS.items()
    if set(config.get(key, ())) - {value}
  }
  if wrong:
    raise ValueError(
      f'the config has {wrong}, but SDVAE is the autoencoder of Stable '
      f'Diffusion 1.x and 2.x, with {_FIXED | _BLOCKS}.'
    )


def shapes(module: sd_vae.SDVAE) -> dict[str, Any]:
  """{'params': ...} as shapes."""
  is_encoder = 'encoder' in module.parts
  channels = module.in_channels if is_encoder else module.latent_channels
  side = module.factor if is_encoder else 1
  x = jax.ShapeDtypeStruct((1, side, side, channels), jnp.float32)
  return jax.eval_shape(module.init, jax.random.key(0), x)


def config(module: sd_vae.SDVAE) -> dict[str, Any]:
  """diffusers' config.json, but for `scaling_factor`, which is no size."""
  levels = len(module.block_out_channels)
  return {
    **_FIXED,
    'in_channels': module.in_channels,
    'out_channels': module.out_channels,
    'latent_channels': module.latent_channels,
    'block_out_channels': list(module.block_out_channels),
    'layers_per_block': module.layers_per_block,
    'norm_num_groups': module.groups,
    'sample_size': 64 * module.factor,
    **{key: [block] * levels for key, block in _BLOCKS.items()},
  }


PART = part.Part(
  module=module_from,
  shapes=shapes,
  canonical=canonical,
  mark='encoder.mid_block.attentions.0.to_q.weight',
  convs=lambda module: _CONVS,
  config=config,
  file='diffusion_pytorch_model.safetensors',
)
