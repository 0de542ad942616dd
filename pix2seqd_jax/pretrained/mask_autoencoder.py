"""Weights of LDMSeg's autoencoder of masks, as its release names them."""

import re
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from pix2seqd_jax.architectures.mask_autoencoder import MaskAutoencoder
from pix2seqd_jax.pretrained import part

# Of a whole LDMSeg checkpoint, whose networks are under names of their own.
_WHOLE = 'vae_semseg.'
_GROUPS = 32


def canonical(name: str) -> str:
  """The name without what a whole checkpoint puts before it."""
  return name.removeprefix(_WHOLE)


def module_from(
  shapes: Mapping[str, tuple[int, ...]], config: Mapping[str, Any] | None
) -> MaskAutoencoder:
  """The network of these shapes; its groups are 32, or the config's.

  Raises:
    ValueError: the config asks for what this network has not.
  """
  config = dict(config or {})
  _refuse(config)
  encoder, decoder = (
    _numbered(shapes, word) for word in ('encoder', 'decoder')
  )
  convs = {i: s for i, s in encoder.items() if len(s) == 4}
  fields: dict[str, Any] = {'groups': config.get('norm_num_groups', _GROUPS)}
  if len(convs) > 2:
    # The last two are `hidden` and the moments, a convolution each.
    *levels, hidden, moments = sorted(convs)
    fields['in_channels'] = convs[levels[0]][1]
    fields['widths'] = (
      convs[levels[0]][0],
      *(convs[i][0] for i in levels[2::2]),
    )
    fields['hidden'] = convs[hidden][0]
    fields['latent_channels'] = convs[moments][0] // 2
  ups = [s for _, s in sorted(decoder.items()) if s[2:] == (2, 2)]
  last = [s for _, s in sorted(decoder.items()) if s[2:] == (3, 3)]
  if last:
    fields['out_channels'] = last[-1][0]
    fields['num_upscalers'] = len(ups)
  if ups:
    fields['upscale_channels'] = ups[0][1]
  return MaskAutoencoder(**fields)


def _numbered(shapes, word) -> dict[int, tuple[int, ...]]:
  """{index in the Sequential: shape of its weight}."""
  found = {}
  for name, shape in shapes.items():
    match = re.fullmatch(rf'{word}\.(\d+)\.weight', name)
    if match:
      found[int(match[1])] = shape
  return found


def _refuse(config):
  """Raises ValueError for a network that is another."""
  for key, value in (
    ('parametrization', 'gaussian'),
    ('num_latents', 2),
    ('num_mid_blocks', 0),
    ('act_fn', 'none'),
    ('clamp_output', False),
    ('fuse_rgb', False),
    ('resize_input', False),
    ('skip_encoder', False),
  ):
    if config.get(key, value) != value:
      raise ValueError(
        f'config.json: {key}={config[key]!r} is not implemented here; the '
        f'released autoencoder has {value!r}.'
      )


def shapes_of(module: MaskAutoencoder) -> Mapping[str, Any]:
  """{'params': ...} as shapes."""
  x = jnp.zeros((1, module.factor, module.factor, module.in_channels))
  return jax.eval_shape(lambda: module.init(jax.random.key(0), x))


PART = part.Part(
  module=module_from,
  shapes=shapes_of,
  canonical=part.each(canonical),
  mark='encoder.15.weight',
  file='mask_autoencoder.safetensors',
)
