"""Ids of segments as channels in [-1, 1]: LDMSeg's input (arXiv 2401.10227).

Section 3.2: the mask of an image, ids in any order, becomes bits, colours or
codes of positions. Void, and what a partial mask does not tell, is 0 in all
channels, which no id is.
"""

import dataclasses
import functools

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Integer

from pix2seqd_jax.encoding import bits

KINDS = ('bits', 'rgb', 'one_hot', 'positional')
# Of 'positional': pairs of a sine and a cosine.
_PERIODS = 4

Ids = Integer[np.ndarray, '*s'] | Integer[Array, '*s']
Channels = Float[np.ndarray, '*s n'] | Float[Array, '*s n']


@dataclasses.dataclass(frozen=True)
class MaskChannels:
  """An injection of the ids 1 .. num_ids - 1 into the cube; 0 goes to 0.

  Attributes:
    num_ids: void included; 128 in the paper.
    kind: 'bits' (the release's), 'rgb' (a colour for each id), 'one_hot' (+1
      in one channel and -1 in all others), 'positional' (sines and cosines of
      the id, with periods from 4 to 4 num_ids in equal ratios).
  """

  num_ids: int = 128
  kind: str = 'bits'

  def __post_init__(self):
    if self.kind not in KINDS:
      raise ValueError(
        f'mask_encoding={self.kind!r} is unknown; use one of '
        f'{", ".join(KINDS)}.'
      )
    if not 2 <= self.num_ids <= 1 << bits.MAX_BITS:
      raise ValueError(
        f'num_ids={self.num_ids} must be 2 to {1 << bits.MAX_BITS}.'
      )

  @property
  def num_channels(self) -> int:
    """Of an encoded mask."""
    return self.codebook().shape[1]

  def codebook(self) -> np.ndarray:
    """What each id becomes, float32 [num_ids, n]; row 0 is 0."""
    return _codebook(self).copy()

  def encode(self, ids: Ids) -> Channels:
    """Ids -> [..., n]. What is no id of 0 .. num_ids - 1 becomes 0, as void."""
    table = _codebook(self)
    if isinstance(ids, np.ndarray):
      known = (ids >= 0) & (ids < self.num_ids)
      return table[np.where(known, ids, 0)]
    known = (ids >= 0) & (ids < self.num_ids)
    return jnp.asarray(table)[jnp.where(known, ids, 0)]


@functools.cache
def _codebook(channels: MaskChannels) -> np.ndarray:
  ids = np.arange(channels.num_ids)
  if channels.kind == 'bits':
    code = bits.Code((channels.num_ids - 1).bit_length())
    table = code.encode(ids, 1)
  elif channels.kind == 'rgb':
    table = 2 * _colors(channels.num_ids) - 1
  elif channels.kind == 'one_hot':
    table = 2 * np.eye(channels.num_ids) - 1
  else:
    periods = np.geomspace(4, 4 * channels.num_ids, _PERIODS)
    angles = 2 * np.pi * ids[:, None] / periods
    table = np.concatenate([np.sin(angles), np.cos(angles)], -1)
  table = table.astype(np.float32)
  table[0] = 0
  return table


def _colors(count) -> np.ndarray:
  """Colours in [0, 1], far apart: a grid of the cube.

  The digits of an id in base s, the least that gives every id a colour of its
  own, are its red, green and blue. Void is grey, so s is even.
  """
  side = 2
  while side**3 < count:
    side += 2
  digits = np.arange(count)[:, None] // side ** np.arange(3) % side
  return digits / (side - 1)
