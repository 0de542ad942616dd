"""Weights of Stable Diffusion's UNet, in diffusers' and in CompVis' names."""

import re
from collections.abc import Collection, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from pix2seqd_jax.architectures.sd_unet import SDUNet
from pix2seqd_jax.pretrained.part import Part

_COMPVIS_PREFIX = 'model.diffusion_model.'
# LDMSeg's checkpoints hold conv_in a second time, under this name.
_COPY = 'new_conv.'
# Heads where no config tells: Stable Diffusion 1 has 8 at each level, 2 (which
# is known by its linear projections) as many as there are 64 features.
_NUM_HEADS = 8
_HEAD_DIM = 64

_CLASS = 'UNet2DConditionModel'
_WITH, _WITHOUT = 'CrossAttn{}Block2D', '{}Block2D'
# Our fields that are one entry of their config.
_FIELDS = {
  'in_channels': 'in_channels',
  'out_channels': 'out_channels',
  'use_linear_projection': 'linear',
  'norm_num_groups': 'groups',
  'norm_eps': 'epsilon',
  'flip_sin_to_cos': 'flip_sin_to_cos',
  'freq_shift': 'freq_shift',
  'dropout': 'dropout',
}
_OTHER_FIELDS = (
  'block_out_channels',
  'down_block_types',
  'up_block_types',
  'layers_per_block',
  'attention_head_dim',
  'num_attention_heads',
  'cross_attention_dim',
)
# What our module is, of all that theirs can be asked for.
_FIXED = {
  'center_input_sample': False,
  'downsample_padding': 1,
  'mid_block_scale_factor': 1,
  'mid_block_type': 'UNetMidBlock2DCrossAttn',
  'act_fn': 'silu',
  'transformer_layers_per_block': 1,
  'attention_type': 'default',
  'resnet_time_scale_shift': 'default',
  'resnet_out_scale_factor': 1.0,
  'time_embedding_type': 'positional',
  'conv_in_kernel': 3,
  'conv_out_kernel': 3,
}
# Softmaxes are in float32 anyway; the size is that of the training images;
# every config of diffusers has the number of heads of an embedding that is off.
_IGNORED = (
  'sample_size',
  'upcast_attention',
  'addition_embed_type_num_heads',
)

_COMPVIS_HEADS = {
  'input_blocks.0.0': 'conv_in',
  'time_embed.0': 'time_embedding.linear_1',
  'time_embed.2': 'time_embedding.linear_2',
  'middle_block.0': 'mid_block.resnets.0',
  'middle_block.1': 'mid_block.attentions.0',
  'middle_block.2': 'mid_block.resnets.1',
  'out.0': 'conv_norm_out',
  'out.2': 'conv_out',
}
_COMPVIS_RESNET = {
  'in_layers.0': 'norm1',
  'in_layers.2': 'conv1',
  'emb_layers.1': 'time_emb_proj',
  'out_layers.0': 'norm2',
  'out_layers.3': 'conv2',
  'skip_connection': 'conv_shortcut',
}


def canonical(names: Collection[str]) -> dict[str, str | None]:
  """{name: diffusers' name, or None for LDMSeg's copy of conv_in}.

  CompVis numbers all blocks of one direction, whatever they are; which is
  which is read from the names themselves, so any number of layers will do.
  """
  bare = {name: name.removeprefix(_COMPVIS_PREFIX) for name in names}
  heads = _compvis_heads(bare.values())
  return {
    name: None if one.startswith(_COPY) else _renamed(one, heads)
    for name, one in bare.items()
  }


def _renamed(name, heads) -> str:
  match = re.match(
    r'(input_blocks\.0\.0|(?:in|out)put_blocks\.\d+\.\d+(?:\.op|\.conv)?'
    r'|middle_block\.\d|time_embed\.\d|out\.\d)\.',
    name,
  )
  head = heads.get(match[1]) if match else None
  if head is None:
    return name
  rest = name[match.end() :]
  for theirs, ours in _COMPVIS_RESNET.items():
    if rest.startswith(theirs + '.'):
      rest = ours + rest.removeprefix(theirs)
  return f'{head}.{rest}'


def _compvis_heads(names) -> dict[str, str]:
  """{'input_blocks.4.1': 'down_blocks.1.attentions.0', ...}."""
  blocks: dict[tuple[str, int], dict[int, str]] = {}
  for name in names:
    match = re.match(r'(in|out)put_blocks\.(\d+)\.(\d+)\.(\w+)', name)
    if match:
      layers = blocks.setdefault((match[1], int(match[2])), {})
      layers[int(match[3])] = match[4]
  heads = dict(_COMPVIS_HEADS)
  for direction, word, change in (
    ('in', 'down', 'downsamplers.0.conv'),
    ('out', 'up', 'upsamplers.0.conv'),
  ):
    level = layer = 0
    for way, number in sorted(blocks):
      if way != direction or (way, number) == ('in', 0):
        continue
      found = blocks[way, number]
      prefix = f'{way}put_blocks.{number}'
      ours = f'{word}_blocks.{level}'
      changes = [i for i, kind in found.items() if kind in ('op', 'conv')]
      if 0 not in changes:
        heads[f'{prefix}.0'] = f'{ours}.resnets.{layer}'
        heads[f'{prefix}.1'] = f'{ours}.attentions.{layer}'
        layer += 1
      for i in changes:
        heads[f'{prefix}.{i}.{found[i]}'] = f'{ours}.{change}'
        level, layer = level + 1, 0
  return heads


def module_from(
  shapes: Mapping[str, tuple[int, ...]], config: Mapping[str, Any] | None
) -> SDUNet:
  """The UNet of these sizes.

  Args:
    shapes: {canonical name: their shape}.
    config: their config.json; what it says goes before the shapes. Without
      one, heads are those of Stable Diffusion 1 (8) or 2 (of 64 features).

  Raises:
    ValueError: the config asks for what this UNet has not.
  """
  fields = _from_shapes(shapes) | _from_config(dict(config or {}))
  if 'num_heads' not in fields and fields.get('linear'):
    widths = fields.get('channels', SDUNet.channels)
    fields['num_heads'] = tuple(max(1, width // _HEAD_DIM) for width in widths)
  return SDUNet(**fields)


def _from_shapes(shapes) -> dict[str, Any]:
  def numbers(pattern):
    found = (re.match(pattern, name) for name in shapes)
    return {int(match[1]) for match in found if match}

  fields = {}
  if 'conv_in.weight' in shapes:
    fields['in_channels'] = shapes['conv_in.weight'][1]
  if 'conv_out.weight' in shapes:
    fields['out_channels'] = shapes['conv_out.weight'][0]
  levels = range(len(numbers(r'down_blocks\.(\d+)\.')))
  widths = [
    shapes.get(f'down_blocks.{i}.resnets.0.conv2.weight', (None,))[0]
    for i in levels
  ]
  if levels and None not in widths:
    fields['channels'] = tuple(widths)
    attending = numbers(r'down_blocks\.(\d+)\.attentions\.')
    fields['has_attention'] = tuple(i in attending for i in levels)
    layers = numbers(r'down_blocks\.\d+\.resnets\.(\d+)\.')
    fields['num_layers'] = len(layers)
  attentions = [name for name in shapes if '.transformer_blocks.' in name]
  keys = [name for name in attentions if name.endswith('attn2.to_k.weight')]
  if attentions:
    fields['context_dim'] = shapes[keys[0]][1] if keys else None
  projections = [n for n in shapes if n.endswith('.proj_in.weight')]
  # Of our own variables all matrices are 2-D, and show nothing of this.
  shortcuts = [n for n in shapes if n.endswith('.conv_shortcut.weight')]
  is_theirs = all(len(shapes[n]) == 4 for n in shortcuts)
  if projections and is_theirs:
    fields['linear'] = len(shapes[projections[0]]) == 2
  return fields


def _from_config(config) -> dict[str, Any]:
  _refuse(config)
  fields = {
    ours: config[theirs]
    for theirs, ours in _FIELDS.items()
    if config.get(theirs) is not None
  }
  if 'block_out_channels' in config:
    fields['channels'] = tuple(config['block_out_channels'])
  if 'layers_per_block' in config:
    fields['num_layers'] = _single(config, 'layers_per_block')
  if 'cross_attention_dim' in config:
    fields['context_dim'] = _single(config, 'cross_attention_dim')
  # diffusers calls the number of heads attention_head_dim, since always.
  for key in ('attention_head_dim', 'num_attention_heads'):
    heads = config.get(key)
    if heads is not None:
      is_one = isinstance(heads, int)
      fields['num_heads'] = heads if is_one else tuple(heads)
  if 'down_block_types' in config:
    fields['has_attention'] = _has_attention(config)
  return fields


def _single(config, key):
  """A number that theirs may repeat for each level."""
  value = config[key]
  if not isinstance(value, (list, tuple)):
    return value
  if len(set(value)) != 1:
    raise _refusal(key, value, 'the same for all levels')
  return value[0]


def _has_attention(config) -> tuple[bool, ...]:
  found = []
  for kind in config['down_block_types']:
    if kind not in (_WITH.format('Down'), _WITHOUT.format('Down')):
      known = f'{_WITH.format("Down")} or {_WITHOUT.format("Down")}'
      raise _refusal('down_block_types', kind, known)
    found.append(kind == _WITH.format('Down'))
  up = _block_types('Up', found[::-1])
  if list(config.get('up_block_types', up)) != up:
    raise _refusal('up_block_types', config['up_block_types'], str(up))
  return tuple(found)


def _block_types(word, has_attention) -> list[str]:
  return [(_WITH if has else _WITHOUT).format(word) for has in has_attention]


def _refuse(config) -> None:
  """Raises ValueError for a config that is not of our module."""
  if config.get('_class_name', _CLASS) != _CLASS:
    raise _refusal('_class_name', config['_class_name'], _CLASS)
  for key, value in config.items():
    if key.startswith('_') or key in (*_FIELDS, *_OTHER_FIELDS, *_IGNORED):
      continue
    if key == 'time_embedding_dim' and value is not None:
      width = 4 * config.get('block_out_channels', SDUNet.channels)[0]
      if value != width:
        raise _refusal(key, value, str(width))
      continue
    if key in _FIXED:
      value = _single(config, key)
      if value != _FIXED[key]:
        raise _refusal(key, value, repr(_FIXED[key]))
    # Whatever else there is (class embeddings, additional embeddings, dual
    # attention, ...) is off where it is None or False.
    elif value not in (None, False):
      raise _refusal(key, value, 'off (null or false)')
  if 'norm_num_groups' in config and config['norm_num_groups'] is None:
    raise _refusal('norm_num_groups', None, 'a number')


def _refusal(key, value, rule) -> ValueError:
  return ValueError(
    f'config.json: {key}={value!r} is not implemented here; it must be {rule}. '
    'Networks that need it are other than Stable Diffusion 1 and 2.'
  )


def config_of(module: SDUNet) -> dict[str, Any]:
  """Their config.json for our module.

  diffusers itself makes no UNet without a context; for such a one
  cross_attention_dim is null, and its own code must remove those layers.
  """
  fields = {key: getattr(module, ours) for key, ours in _FIELDS.items()}
  heads = module.num_heads
  return {
    '_class_name': _CLASS,
    **fields,
    **_FIXED,
    'block_out_channels': list(module.channels),
    'down_block_types': _block_types('Down', module.has_attention),
    'up_block_types': _block_types('Up', module.has_attention[::-1]),
    'layers_per_block': module.num_layers,
    'attention_head_dim': heads if isinstance(heads, int) else list(heads),
    'cross_attention_dim': module.context_dim,
  }


def shapes_of(module: SDUNet) -> Mapping[str, Any]:
  """{'params': ...} as shapes."""
  side = 2 ** (len(module.channels) - 1)
  x = jnp.zeros((1, side, side, module.in_channels))
  context = None
  if module.context_dim is not None:
    context = jnp.zeros((1, 1, module.context_dim))
  return jax.eval_shape(
    lambda: module.init(jax.random.key(0), x, jnp.zeros(1), context)
  )


def convs(module: SDUNet) -> str:
  """Names of the convolutions of 1x1: shortcuts, and around transformers."""
  around = '' if module.linear else r'|proj_in|proj_out'
  return rf'.*\.(?:conv_shortcut{around})\.weight'


PART = Part(
  module=module_from,
  shapes=shapes_of,
  canonical=canonical,
  mark='down_blocks.0.resnets.0.time_emb_proj.weight',
  literal=(r'linear_\d',),
  convs=convs,
  config=config_of,
  file='diffusion_pytorch_model.safetensors',
)
