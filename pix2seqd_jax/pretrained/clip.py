"""CLIP in transformers' names: the text tower alone, and both towers.

Stable Diffusion's files have the text tower as `text_encoder` (diffusers) or
below `cond_stage_model.transformer` (CompVis); transformers 4 begins its names
with `text_model.`, transformers 5 does not.
"""

import math
import re
from collections.abc import Collection, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from pix2seqd_jax.architectures.clip_image import CLIP as Both
from pix2seqd_jax.architectures.clip_image import CLIPImage
from pix2seqd_jax.architectures.clip_text import CLIPText
from pix2seqd_jax.pretrained import part

# CompVis' whole models hold the text tower under a name of its own.
_WHOLE = 'cond_stage_model.'
_TEXT, _IMAGE = 'text_model.', 'vision_model.'
_BARE = re.compile(r'(embeddings|encoder|final_layer_norm)\..+')
_NO_WEIGHT = re.compile(r'.*\bembeddings\.position_ids')
# The rest of a whole CLIP.
_OTHERS = re.compile(
  r'vision_model\..+|(visual|text)_projection\.weight|logit_scale'
)
# Query, key and value as one array: OpenAI's own files and OpenCLIP's.
_FUSED = re.compile(r'.*\bresblocks\.\d+\.attn\.in_proj_weight')
_KINDS = ('clip', 'clip_text_model', 'clip_vision_model')
# Of transformers' configs: what a key that is not there means.
_HEADS = {_TEXT: 8, _IMAGE: 12}
_LEGACY_EOS, _EOS = 2, 49407


def _refuse_fused(names):
  fused = [name for name in names if _FUSED.fullmatch(name)]
  if fused:
    raise ValueError(
      f'{fused[0]} and {len(fused) - 1} more hold query, key and value as one '
      "array: these are OpenAI's or OpenCLIP's own names, which are not read. "
      "Take the same model in transformers' form (of Stable Diffusion 2.x, the "
      'folder text_encoder of diffusers); other parts of this checkpoint can '
      'be had by --part.'
    )


def text_names(names: Collection[str]) -> dict[str, str | None]:
  """transformers 4's names of the text tower; passes over what is not in it.

  That is the image tower and the projections of a whole CLIP, and the rest of
  a whole Stable Diffusion.

  Raises:
    ValueError: names of OpenAI or OpenCLIP.
  """
  _refuse_fused(names)
  is_whole = any(name.startswith(_WHOLE) for name in names)
  found: dict[str, str | None] = {}
  for name in names:
    if is_whole and not name.startswith(_WHOLE):
      found[name] = None
      continue
    short = name.removeprefix(_WHOLE).removeprefix('transformer.')
    if _BARE.fullmatch(short):
      short = _TEXT + short
    is_other = _NO_WEIGHT.fullmatch(short) or _OTHERS.fullmatch(short)
    found[name] = None if is_other else short
  return found


def canonical(names: Collection[str]) -> dict[str, str | None]:
  """transformers' names of both towers.

  Raises:
    ValueError: names of OpenAI or OpenCLIP.
  """
  _refuse_fused(names)
  return {n: None if _NO_WEIGHT.fullmatch(n) else n for n in names}


def text_module(
  shapes: Mapping[str, tuple[int, ...]],
  config: Mapping[str, Any] | None = None,
) -> CLIPText:
  """The text tower of these arrays.

  Args:
    shapes: {canonical name: their shape}: widths and depth.
    config: transformers' config.json, of the tower or of a whole CLIP. Heads,
      activation and the token that ends a text are only there; without one
      a head has 64 features, and the rest is OpenAI's.

  Raises:
    ValueError: the config describes another kind of network, or without one
      the number of heads cannot be told.
  """
  return CLIPText(**_text(shapes, _section(config, 'text_config')))


def module(
  shapes: Mapping[str, tuple[int, ...]],
  config: Mapping[str, Any] | None = None,
) -> Both:
  """Both towers of these arrays; see `text_module`."""
  dim = shapes.get('text_projection.weight', (512,))[0]
  return Both(
    text=_text(shapes, _section(config, 'text_config')),
    image=_image(shapes, _section(config, 'vision_config')),
    embedding_dim=(config or {}).get('projection_dim', dim),
  )


def _section(config, name) -> dict[str, Any] | None:
  """A tower's part of a config: of a whole CLIP's, or all of its own."""
  if not config:
    return None
  # Those of diffusers have a _class_name, and some of CLIP's have one too.
  kind = config.get('_class_name', 'CLIP')
  if not str(kind).startswith('CLIP') or 'embed_dim' in config:
    raise ValueError(
      'the config.json beside it is of another network than CLIP (of diffusers '
      'or of U-ViT); move it away, or put its own there.'
    )
  if config.get('model_type', 'clip') not in _KINDS:
    raise ValueError(
      f'the config has model_type={config["model_type"]!r}, which is none of '
      f'{", ".join(_KINDS)}.'
    )
  nested = {**(config.get(name) or {}), **(config.get(f'{name}_dict') or {})}
  found = nested or dict(config)
  if found.get('layer_norm_eps', 1e-5) != 1e-5:
    raise ValueError(
      f'the config has layer_norm_eps={found["layer_norm_eps"]}, but CLIP has '
      '1e-05.'
    )
  return found


def _tower(shapes, config, prefix) -> dict[str, Any]:
  """What both towers have."""
  fields: dict[str, Any] = {}
  layers = f'{prefix}encoder.layers.'
  numbered = re.compile(re.escape(layers) + r'(\d+)\..+')
  depths = [int(match[1]) for match in map(numbered.fullmatch, shapes) if match]
  if depths:
    fields['num_layers'] = 1 + max(depths)
  for ours, name in (('mlp_dim', 'mlp.fc1'), ('width', 'layer_norm1')):
    if f'{layers}0.{name}.weight' in shapes:
      fields[ours] = shapes[f'{layers}0.{name}.weight'][0]
  for ours, theirs in (
    ('width', 'hidden_size'),
    ('mlp_dim', 'intermediate_size'),
    ('num_layers', 'num_hidden_layers'),
    ('activation', 'hidden_act'),
  ):
    if theirs in (config or {}):
      fields[ours] = config[theirs]
  if config is not None:
    fields['num_heads'] = config.get('num_attention_heads', _HEADS[prefix])
  elif 'width' in fields:
    fields['num_heads'] = _num_heads(fields['width'])
  return fields


def _num_heads(width) -> int:
  """That of OpenAI's models."""
  if width % 64:
    raise ValueError(
      f'with a width of {width} the number of heads cannot be told from the '
      'weights (in the standard models a head has 64 features); put the '
      "model's config.json beside its file."
    )
  return width // 64


def _text(shapes, config) -> dict[str, Any]:
  fields = _tower(shapes, config, _TEXT)
  for ours, theirs, table in (
    ('vocab_size', 'vocab_size', 'token_embedding'),
    ('num_positions', 'max_position_embeddings', 'position_embedding'),
  ):
    found = shapes.get(f'{_TEXT}embeddings.{table}.weight')
    if found:
      fields[ours] = found[0]
    if theirs in (config or {}):
      fields[ours] = config[theirs]
  eos = _LEGACY_EOS if config is None else config.get('eos_token_id', _EOS)
  if not isinstance(eos, int):
    raise ValueError(f'the config has eos_token_id={eos}; it must be a number.')
  return fields | {'eos_id': None if eos == _LEGACY_EOS else eos}


def _image(shapes, config) -> dict[str, Any]:
  fields = _tower(shapes, config, _IMAGE)
  embeddings = f'{_IMAGE}embeddings.'
  patches = shapes.get(f'{embeddings}patch_embedding.weight')
  positions = shapes.get(f'{embeddings}position_embedding.weight')
  if patches and positions:
    side = math.isqrt(positions[0] - 1)
    fields |= {'patch_size': patches[-1], 'image_size': side * patches[-1]}
  for name in ('patch_size', 'image_size'):
    if name in (config or {}):
      fields[name] = config[name]
  return fields


def text_shapes(module: CLIPText) -> dict[str, Any]:
  """{'params': ...} as shapes."""
  ids = jax.ShapeDtypeStruct((1, 1), jnp.int32)
  return jax.eval_shape(module.init, jax.random.key(0), ids)


def shapes(module: Both) -> dict[str, Any]:
  """{'params': ...} as shapes."""
  ids = jax.ShapeDtypeStruct((1, 1), jnp.int32)
  size = _image_tower(module).image_size
  image = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
  return jax.eval_shape(module.init, jax.random.key(0), image, ids)


def _image_tower(module) -> CLIPImage:
  return CLIPImage(**module.image, parent=None)


def text_config(module: CLIPText) -> dict[str, Any]:
  """transformers' config.json of a CLIPTextModel."""
  return {
    'architectures': ['CLIPTextModel'],
    'model_type': 'clip_text_model',
    **_config(module),
    'vocab_size': module.vocab_size,
    'max_position_embeddings': module.num_positions,
    'eos_token_id': _LEGACY_EOS if module.eos_id is None else module.eos_id,
  }


def config(module: Both) -> dict[str, Any]:
  """transformers' config.json of a CLIPModel."""
  text, image = CLIPText(**module.text, parent=None), _image_tower(module)
  dim = {'projection_dim': module.embedding_dim}
  text = text_config(text) | dim
  del text['architectures']
  return {
    'architectures': ['CLIPModel'],
    'model_type': 'clip',
    'text_config': text,
    'vision_config': {
      'model_type': 'clip_vision_model',
      **_config(image),
      'image_size': image.image_size,
      'patch_size': image.patch_size,
      **dim,
    },
    **dim,
  }


def _config(tower) -> dict[str, Any]:
  return {
    'hidden_size': tower.width,
    'intermediate_size': tower.mlp_dim,
    'num_hidden_layers': tower.num_layers,
    'num_attention_heads': tower.num_heads,
    'hidden_act': tower.activation,
    'layer_norm_eps': 1e-5,
  }


TEXT = part.Part(
  module=text_module,
  shapes=text_shapes,
  canonical=text_names,
  mark=f'{_TEXT}embeddings.token_embedding.weight',
  prefix=_TEXT,
  stacks=('encoder.layers',),
  config=text_config,
)
CLIP = part.Part(
  module=module,
  shapes=shapes,
  canonical=canonical,
  mark=f'{_IMAGE}embeddings.class_embedding',
  stacks=(f'{_TEXT}encoder.layers', f'{_IMAGE}encoder.layers'),
  config=config,
)
