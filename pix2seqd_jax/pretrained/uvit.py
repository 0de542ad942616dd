"""U-ViT in the names of its authors' code, which wraps a state dict in nothing.

Their files have no config.json. One beside the weights may hold the arguments
of their constructor; `save` writes it, and it is needed for what shapes do not
show: another number of heads than the authors', a text of another length than
77, an image that is not square.
"""

import math
import re
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from pix2seqd_jax.architectures.uvit import UViT
from pix2seqd_jax.pretrained import part

_BLOCK = re.compile(r'in_blocks\.(\d+)\..+')
_HEAD_DIM = 64
# The largest model is the one whose heads have 72.
_HEADS = {1152: 16}
_TOKENS = 77
# Our fields and the arguments of their constructors; those of the text's form
# are last.
_ARGUMENTS = {
  'patch_size': 'patch_size',
  'in_channels': 'in_chans',
  'width': 'embed_dim',
  'depth': 'depth',
  'num_heads': 'num_heads',
  'mlp_ratio': 'mlp_ratio',
  'qkv_bias': 'qkv_bias',
  'mlp_time_embed': 'mlp_time_embed',
  'conv': 'conv',
  'skip': 'skip',
  'num_classes': 'num_classes',
  'context_dim': 'clip_dim',
  'context_tokens': 'num_clip_token',
}


def module(
  shapes: Mapping[str, tuple[int, ...]],
  config: Mapping[str, Any] | None = None,
) -> UViT:
  """The network of these arrays.

  Args:
    shapes: {their name: their shape}.
    config: arguments of their constructor, before what the shapes show. What
      is in neither: 64 features a head (72 where the width is 1152), 77 tokens
      of text, a square.

  Raises:
    ValueError: without a config the heads or the image's sides cannot be
      told.
  """
  config = dict(config or {})
  fields = _sizes(shapes) | _options(shapes)
  fields |= {o: config[t] for o, t in _ARGUMENTS.items() if t in config}
  # In theirs, -1 stands for no classes.
  fields['num_classes'] = max(fields['num_classes'], 0)
  width = fields.get('width', UViT.width)
  if 'num_heads' not in fields:
    fields['num_heads'] = _num_heads(width)
  channels = fields.get('in_channels', UViT.in_channels)
  out = config.get('out_chans', _out_channels(shapes, fields))
  if out not in (None, channels):
    fields['out_channels'] = out
  size = config.get('img_size')
  if size is None:
    size = _image_size(shapes, fields)
  fields['image_size'] = size if isinstance(size, int) else tuple(size)
  return UViT(**fields)


def _sizes(shapes) -> dict[str, Any]:
  """What the shapes show, of arrays that every U-ViT has."""
  fields: dict[str, Any] = {}
  patches = shapes.get('patch_embed.proj.weight')
  if patches and len(patches) == 4:
    fields['width'], fields['in_channels'], _, fields['patch_size'] = patches
  inner = shapes.get('mid_block.mlp.fc1.bias')
  if inner and 'width' in fields:
    ratio = inner[0] / fields['width']
    fields['mlp_ratio'] = int(ratio) if ratio == int(ratio) else ratio
  blocks = [int(match[1]) for match in map(_BLOCK.fullmatch, shapes) if match]
  if blocks:
    fields['depth'] = 2 * (1 + max(blocks))
  return fields


def _options(shapes) -> dict[str, Any]:
  """What the shapes show by an array that is there or not."""
  if not shapes:
    return {'num_classes': UViT.num_classes}
  labels = shapes.get('label_emb.weight')
  context = shapes.get('context_embed.weight')
  has = lambda pattern: any(re.fullmatch(pattern, name) for name in shapes)
  return {
    'num_classes': labels[0] if labels else 0,
    'context_tokens': _TOKENS if has(r'context_embed\..+') else 0,
    'context_dim': context[1] if context else UViT.context_dim,
    'qkv_bias': has(r'\w+_block.*\.qkv\.bias'),
    'mlp_time_embed': has(r'time_embed\..+'),
    'conv': has(r'final_layer\..+'),
    'skip': has(r'out_blocks\..+\.skip_linear\..+'),
  }


def _num_heads(width: int) -> int:
  """That of the authors' models."""
  if width % _HEAD_DIM:
    raise ValueError(
      f'from a width of {width} the number of heads cannot be told; the '
      "authors' models have 64 features in one. Put a config.json beside the "
      'weights with {"num_heads": ...}.'
    )
  return _HEADS.get(width, width // _HEAD_DIM)


def _out_channels(shapes, fields) -> int | None:
  """What the head makes of a token, over the pixels of a patch."""
  head, size = shapes.get('decoder_pred.bias'), fields.get('patch_size')
  return head[0] // size**2 if head and size else None


def _image_size(shapes, fields) -> int:
  """The side of a square of as many patches as have a position."""
  positions = shapes.get('pos_embed')
  if positions is None or len(positions) != 3:
    return UViT.image_size
  tokens = fields.get('context_tokens', UViT.context_tokens)
  patches = positions[1] - 1 - tokens - bool(fields['num_classes'])
  side = math.isqrt(max(patches, 0))
  if side * side != patches or not side:
    raise ValueError(
      f'of {positions[1]} positions {patches} are left for patches beside '
      f'the time and {tokens} tokens of text, which make no square. Put a '
      'config.json beside the weights with {"img_size": [height, width], '
      '"num_clip_token": ...}.'
    )
  return side * fields.get('patch_size', UViT.patch_size)


def shapes(module: UViT) -> dict[str, Any]:
  """{'params': ...} as shapes."""
  size = module.image_size
  height, width = (size, size) if isinstance(size, int) else size
  x = jax.ShapeDtypeStruct((1, height, width, module.in_channels), jnp.float32)
  time = jax.ShapeDtypeStruct((1,), jnp.float32)
  condition = None
  if module.num_classes:
    condition = jax.ShapeDtypeStruct((1,), jnp.int32)
  elif module.context_tokens:
    context = (1, module.context_tokens, module.context_dim)
    condition = jax.ShapeDtypeStruct(context, jnp.float32)
  return jax.eval_shape(module.init, jax.random.key(0), x, time, condition)


def config(module: UViT) -> dict[str, Any]:
  """The arguments of their constructor.

  Of `uvit_t2i` where there is a context, else of `uvit`. `img_size` as a pair
  and `out_chans` are ours alone.
  """
  size = module.image_size
  found: dict[str, Any] = {
    'name': 'uvit_t2i' if module.context_tokens else 'uvit',
    'img_size': size if isinstance(size, int) else list(size),
  }
  if module.out_channels not in (None, module.in_channels):
    found['out_chans'] = module.out_channels
  found |= {t: getattr(module, o) for o, t in _ARGUMENTS.items()}
  if module.context_tokens:
    del found['num_classes']
  else:
    del found['clip_dim'], found['num_clip_token']
    found['num_classes'] = module.num_classes or -1
  return found


PART = part.Part(
  module=module,
  shapes=shapes,
  canonical=part.each(lambda name: name),
  mark='mid_block.attn.qkv.weight',
  stacks=('in_blocks', 'out_blocks'),
  config=config,
  file='uvit.safetensors',
)
