"""LDMSeg's released checkpoint of both stages, and its start from another's.

One file holds three networks (methods sheet, section 6): the UNet, with its
first convolution twice; Stable Diffusion's encoder of images, in half
precision and in diffusers' names of 2023; the autoencoder of masks.
"""

import re
from collections.abc import Callable, Collection, Mapping
from typing import Any

import jax
import numpy as np

from pix2seqd_jax.pretrained import mask_autoencoder, part, sd_unet, sd_vae

# Their first convolution is a module under two names.
_FIRST, _COPY = 'conv_in.', 'new_conv.'
_OLD_NAMES = {
  'to_q': 'query',
  'to_k': 'key',
  'to_v': 'value',
  'to_out.0': 'proj_attn',
}
_NEW_NAME = re.compile(r'(?<=\.attentions\.0\.)(to_[qkv]|to_out\.0)(?=\.)')
# What a start from Stable Diffusion leaves behind: the layers that look at a
# text, and the half of its autoencoder that makes images.
_TEXT = re.compile(r'.*\.transformer_blocks\.\d+\.(attn2|norm2)\..*')
_IMAGES = ('decoder.', 'post_quant_conv.')

Canonical = Callable[[Collection[str]], Mapping[str, str | None]]


def inside(prefix: str, canonical: Canonical) -> Canonical:
  """A Part's `canonical` for names that may begin with `prefix`."""

  def made(names):
    bare = {
      name: part.unwrapped(name.removeprefix(f'{prefix}.')) for name in names
    }
    known = canonical(tuple(bare.values()))
    return {name: known[short] for name, short in bare.items()}

  return made


def without(pattern: Callable[[str], Any], canonical: Canonical) -> Canonical:
  """A Part's `canonical` that passes over the names of a pattern."""

  def made(names):
    known = canonical(names)
    return {
      name: None if found is None or pattern(found) else found
      for name, found in known.items()
    }

  return made


def first_twice(name: str) -> tuple[str, ...]:
  """Their names of one array of the UNet."""
  if not name.startswith(_FIRST):
    return (name,)
  return name, _COPY + name.removeprefix(_FIRST)


def of_2023(name: str) -> tuple[str, ...]:
  """Their name of one array of the autoencoder, diffusers 0.16."""
  return (_NEW_NAME.sub(lambda match: _OLD_NAMES[match[1]], name),)


def halved(variables: Mapping[str, Any]) -> Mapping[str, Any]:
  """Variables in float16 where all of them are such numbers, else as given."""
  with np.errstate(over='ignore'):
    half = jax.tree.map(lambda x: np.asarray(x).astype(np.float16), variables)
  pairs = zip(jax.tree.leaves(variables), jax.tree.leaves(half), strict=True)
  return half if all(np.array_equal(a, b) for a, b in pairs) else variables


PARTS = {
  'unet': sd_unet.PART._replace(
    canonical=inside('unet', sd_unet.PART.canonical), spellings=first_twice
  ),
  'vae_image': sd_vae.PART._replace(
    canonical=inside('vae_image', sd_vae.PART.canonical), spellings=of_2023
  ),
  'vae_semseg': mask_autoencoder.PART._replace(
    canonical=inside('vae_semseg', mask_autoencoder.PART.canonical)
  ),
}
# Where they are in the parameters of our LDMSeg.
PLACES = {
  'unet': 'net/unet',
  'vae_image': 'frozen/image',
  'vae_semseg': 'frozen/mask',
}

# Stable Diffusion as stage 2 starts from it. conv_in keeps its 4 channels: the
# rule 'grow' of config.init_from puts zeros for the other 8.
START = {
  'unet': sd_unet.PART._replace(
    # Their config tells of a text, and goes before the shapes.
    module=lambda shapes, config: sd_unet.module_from(
      shapes, config and {**config, 'cross_attention_dim': None}
    ),
    canonical=without(_TEXT.fullmatch, sd_unet.PART.canonical),
  ),
  'vae': sd_vae.PART._replace(
    canonical=without(
      lambda name: name.startswith(_IMAGES), sd_vae.PART.canonical
    )
  ),
}
START_PLACES = {'unet': 'net/unet', 'vae': 'frozen/image'}
