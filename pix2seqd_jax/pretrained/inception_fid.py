"""Weights of the FID Inception: the port of TensorFlow's 2015 graph.

The file is pt_inception-2015-12-05 (pytorch-fid's; torch-fidelity's has the
same names), or the state dict of pytorch-fid's module, whose layers have
numbers.
"""

import re
from collections.abc import Mapping
from typing import Any

import jax

from pix2seqd_jax.architectures.inception_fid import SIZE, InceptionFID
from pix2seqd_jax.pretrained import part

# The layers with weights of the four numbered blocks.
_BLOCKS = (
  ('Conv2d_1a_3x3', 'Conv2d_2a_3x3', 'Conv2d_2b_3x3'),
  ('Conv2d_3b_1x1', 'Conv2d_4a_3x3'),
  tuple(f'Mixed_{n}' for n in ('5b', '5c', '5d', '6a', '6b', '6c', '6d', '6e')),
  tuple(f'Mixed_{n}' for n in ('7a', '7b', '7c')),
)
_NUMBERED = re.compile(r'blocks\.(\d+)\.(\d+)\.(.+)')
# Counters, and the layers of 1008 classes that no feature passes through.
_UNUSED = re.compile(r'.*\.num_batches_tracked|fc\..+|AuxLogits\..+')


def module(
  shapes: Mapping[str, tuple[int, ...]], config: Mapping[str, Any] | None
) -> InceptionFID:
  """There is one network only."""
  del shapes, config
  return InceptionFID()


def shapes(module: InceptionFID) -> Mapping[str, Any]:
  """The module's variables, as shapes."""
  image = jax.ShapeDtypeStruct((1, SIZE, SIZE, 3), 'float32')
  return jax.eval_shape(module.init, jax.random.key(0), image)


def canonical(name: str) -> str | None:
  """The name in pt_inception-2015-12-05."""
  match = _NUMBERED.fullmatch(name)
  if match:
    block, layer = int(match[1]), int(match[2])
    if block < len(_BLOCKS) and layer < len(_BLOCKS[block]):
      name = f'{_BLOCKS[block][layer]}.{match[3]}'
  return None if _UNUSED.fullmatch(name) else name


PART = part.Part(
  module=module,
  shapes=shapes,
  canonical=part.each(canonical),
  mark='Mixed_7c.branch3x3dbl_3b.conv.weight',
  literal=(r'branch\w+_\d+',),
  file='pt_inception.safetensors',
)
