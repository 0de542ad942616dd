"""Weights of U-ViT in the original's names (github.com/baofff/U-ViT)."""

import math
import re
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from pix2seqd_jax.architectures.uvit import UViT
from pix2seqd_jax.pretrained import part

# Features of a head in all published models; a file does not tell.
_HEAD_DIM = 64
# Keys of a config.json (the original has none; it is what `config_of` writes
# and has the names of the original's arguments).
_FIELDS = {
  'patch_size': 'patch_size',
  'in_chans': 'in_channels',
  'embed_dim': 'dim',
  'depth': 'depth',
  'num_heads': 'num_heads',
  'mlp_ratio': 'mlp_ratio',
  'qkv_bias': 'qkv_bias',
  'mlp_time_embed': 'mlp_time_embed',
  'conv': 'conv',
  'out_chans': 'out_channels',
}
_IGNORED = ('use_checkpoint', 'name', 'norm_layer', 'qk_scale')


def module_from(
  shapes: Mapping[str, tuple[int, ...]], config: Mapping[str, Any] | None
) -> UViT:
  """The U-ViT of these shapes; heads have 64 features unless told.

  A square picture, and of a text 77 tokens, are taken for granted where the
  arrays leave that open.

  Args:
    shapes: {canonical name: their shape}.
    config: arguments by the original's names; they go before the shapes.

  Raises:
    ValueError: an unknown argument, or positions that make no picture.
  """
  config = {k: v for k, v in (config or {}).items() if k not in _IGNORED}
  fields = _from_shapes(shapes)
  fields |= {
    ours: config.pop(theirs)
    for theirs, ours in _FIELDS.items()
    if theirs in config
  }
  size = config.pop('img_size', None)
  for theirs, ours in (
    ('clip_dim', 'context_dim'),
    ('num_clip_token', 'num_context'),
    ('num_classes', 'num_classes'),
  ):
    value = config.pop(theirs, None)
    if value is not None and value > 0:
      fields[ours] = value
  if config.pop('skip', True) is not True or config:
    unknown = ', '.join(config) or 'skip=False'
    raise ValueError(
      f'config.json: {unknown} is not implemented here; known are '
      f'{", ".join((*_FIELDS, "img_size", "clip_dim", "num_clip_token"))}.'
    )
  module = UViT(**fields)
  if size is not None:
    size = (size, size) if isinstance(size, int) else tuple(size)
    return module.clone(image_size=size)
  positions = shapes.get('pos_embed')
  return module if positions is None else _square(module, positions[1])


def _square(module, num_positions) -> UViT:
  count = num_positions - module.num_extras
  side = math.isqrt(max(count, 0))
  if side**2 != count or not side:
    raise ValueError(
      f'pos_embed has {num_positions} places, {module.num_extras} of them '
      f'before the picture: {count} are no square; put a config.json with '
      'img_size (height, width) and num_clip_token beside the file.'
    )
  return module.clone(image_size=(side * module.patch_size,) * 2)


def _from_shapes(shapes) -> dict[str, Any]:
  fields: dict[str, Any] = {
    'context_dim': None,
    'mlp_time_embed': 'time_embed.0.weight' in shapes,
    'conv': 'final_layer.weight' in shapes,
    'qkv_bias': 'mid_block.attn.qkv.bias' in shapes,
  }
  if 'patch_embed.proj.weight' in shapes:
    dim, channels, patch, _ = shapes['patch_embed.proj.weight']
    fields |= {'dim': dim, 'in_channels': channels, 'patch_size': patch}
    fields['num_heads'] = max(1, dim // _HEAD_DIM)
    if 'mid_block.mlp.fc1.weight' in shapes:
      ratio = shapes['mid_block.mlp.fc1.weight'][0] / dim
      fields['mlp_ratio'] = int(ratio) if ratio == int(ratio) else ratio
    if 'decoder_pred.weight' in shapes:
      out = shapes['decoder_pred.weight'][0] // patch**2
      fields['out_channels'] = None if out == channels else out
  blocks = {
    int(match[1])
    for match in (re.match(r'in_blocks\.(\d+)\.', name) for name in shapes)
    if match
  }
  if blocks:
    fields['depth'] = 2 * len(blocks)
  if 'context_embed.weight' in shapes:
    fields['context_dim'] = shapes['context_embed.weight'][1]
  if 'label_emb.weight' in shapes:
    fields['num_classes'] = shapes['label_emb.weight'][0]
  return fields


def shapes_of(module: UViT) -> Mapping[str, Any]:
  """{'params': ...} as shapes."""
  x = jnp.zeros((1, *module.image_size, module.in_channels))
  context = label = None
  if module.context_dim:
    context = jnp.zeros((1, module.num_context, module.context_dim))
  if module.num_classes is not None:
    label = jnp.zeros((1,), jnp.int32)
  return jax.eval_shape(
    lambda: module.init(jax.random.key(0), x, 0, context, label)
  )


def config_of(module: UViT) -> dict[str, Any]:
  """The original's arguments for our module."""
  fields = {key: getattr(module, ours) for key, ours in _FIELDS.items()}
  if module.out_channels is None:
    del fields['out_chans']
  fields['img_size'] = list(module.image_size)
  if module.context_dim:
    fields['clip_dim'] = module.context_dim
    fields['num_clip_token'] = module.num_context
  if module.num_classes is not None:
    fields['num_classes'] = module.num_classes
  return fields


PART = part.Part(
  module=module_from,
  shapes=shapes_of,
  canonical=part.each(lambda name: name),
  mark='in_blocks.0.attn.qkv.weight',
  stacks=('in_blocks', 'out_blocks'),
  config=config_of,
)
