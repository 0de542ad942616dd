"""Weights of LPIPS with VGG-16: torchvision's features, LPIPS' linear layers.

Two files make it up: torchvision's vgg16 (`features.0.weight`) and LPIPS'
own `vgg.pth` (`lin0.model.1.weight`). A folder that holds both is read as one;
the state dict of the package's module has all of it, under other names.
"""

import re
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from pix2seqd_jax.architectures.lpips_vgg import LPIPS
from pix2seqd_jax.pretrained import part

# The package's module cuts VGG in slices whose layers keep their numbers.
_SLICE = re.compile(r'net\.slice\d\.(\d+)\.(weight|bias)')
# It also lists its linear layers once more.
_LINEAR = re.compile(r'lin(\d)\.model\.1\.weight')
_UNUSED = re.compile(
  r'scaling_layer\.(shift|scale)|lins\.\d\.model\.1\.weight|classifier\..+'
)


def module(
  shapes: Mapping[str, tuple[int, ...]], config: Mapping[str, Any] | None
) -> LPIPS:
  """There is one network only."""
  del shapes, config
  return LPIPS()


def shapes(module: LPIPS) -> Mapping[str, Any]:
  """The module's variables, as shapes."""
  x = jnp.zeros((1, 16, 16, 3))
  return jax.eval_shape(lambda: module.init(jax.random.key(0), x, x))


def canonical(name: str) -> str | None:
  """torchvision's name, or `lin0.weight`."""
  if _UNUSED.fullmatch(name):
    return None
  match = _SLICE.fullmatch(name)
  if match:
    return f'features.{match[1]}.{match[2]}'
  match = _LINEAR.fullmatch(name)
  return f'lin{match[1]}.weight' if match else name


PART = part.Part(
  module=module,
  shapes=shapes,
  canonical=part.each(canonical),
  mark='lin0.weight',
  convs=lambda module: r'lin\d\.weight',
  file='lpips_vgg.safetensors',
)
