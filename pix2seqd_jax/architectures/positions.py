"""Sine-cosine codes of places and times; nothing here is learned.

A code of width d is [sin | cos] in halves (not interleaved), with angles
p / 10000^(2j/d), j = 0 .. d/2 - 1 (arXiv 1706.03762, section 3.5).
"""

import math
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from pix2seqd_jax.architectures import layers

_PERIOD = 10000.0


def _rates(dim: int) -> np.ndarray:
  """1 / 10000^(2j/dim) for j < dim/2, in float64."""
  if dim < 2 or dim % 2:
    raise ValueError(
      f'a sine-cosine code needs an even width, not dim={dim}; half of it is '
      'sines and half cosines. Choose an even dim (a multiple of 4 in 2-D).'
    )
  return _PERIOD ** -(np.arange(0, dim, 2) / dim)


def sin_cos(positions: Float[Array, 'n'], dim: int) -> Float[Array, 'n {dim}']:
  """Codes of positions (any reals): [sin | cos], float32 at least."""
  positions = positions.astype(layers.wide(positions.dtype))
  angles = positions[:, None] * _rates(dim).astype(positions.dtype)
  return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)


def table_1d(num: int, dim: int) -> np.ndarray:
  """Codes of places spread evenly over [0, 2 pi]: float64 [num, dim]."""
  places = np.arange(num) / max(num - 1, 1) * 2 * math.pi
  angles = places[:, None] * _rates(dim)
  return np.concatenate([np.sin(angles), np.cos(angles)], axis=-1)


def table_2d(height: int, width: int, dim: int) -> np.ndarray:
  """Codes of a grid, row by row: float64 [height * width, dim].

  The first half of the channels encodes y, the second x, each running over
  [0, 2 pi] whatever the size of the grid, so that a network goes from one
  resolution to another. As in the reference, a grid of one row or one column
  has the 1-D code of its places, over all channels.

  Args:
    height: rows.
    width: columns.
    dim: the width of the code, a multiple of 4.

  Returns:
    The table.
  """
  if min(height, width) == 1:
    return table_1d(height * width, dim)
  y = table_1d(height, dim // 2)[:, None]
  x = table_1d(width, dim // 2)[None, :]
  shape = (height, width, dim // 2)
  table = np.concatenate(
    [np.broadcast_to(y, shape), np.broadcast_to(x, shape)], axis=-1
  )
  return table.reshape(height * width, dim)


class TimeEmbedding(nn.Module):
  """SiLU(Dense(SiLU(Dense(code(scaling * time))))), of width 4 x dim.

  Computed in float32 at least: in bfloat16 the steps of a long sampling run
  would share their codes.
  """

  dim: int
  scaling: float
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, time: Float[Array, 'b']) -> Float[Array, 'b d']:
    dtype = layers.wide(self.dtype)
    x = sin_cos(time.astype(dtype) * self.scaling, self.dim)
    for name in ('dense_0', 'dense_1'):
      x = nn.Dense(
        4 * self.dim, kernel_init=layers.GLOROT, dtype=dtype, name=name
      )(x)
      x = nn.silu(x)
    return x
