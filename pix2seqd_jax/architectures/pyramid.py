"""From the encoder's pyramid of features to one map at the mask's size.

https://arxiv.org/abs/2210.06366, section 3.1: the encoded tokens replace the
coarsest features; each level is enlarged and merged into the next finer one.
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from pix2seqd_jax.architectures import layers


class UpsampleBlock(nn.Module):
  """SiLU(GN(conv3x3(fine + enlarge(SiLU(GN(conv1x1(coarse)))))))."""

  features: int
  factor: int
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(
    self,
    coarse: Float[Array, 'b h w c'],
    fine: Float[Array, 'b H W d'] | None = None,
  ) -> Float[Array, 'b H W d']:
    x = self._conv_norm(coarse, 1, 0)
    x = layers.upsample(x, self.factor)
    if fine is not None:
      x = fine + x
    return self._conv_norm(x, 3, 1)

  def _conv_norm(self, x, kernel, index):
    x = nn.Conv(
      self.features,
      (kernel, kernel),
      kernel_init=layers.GLOROT,
      dtype=self.dtype,
      name=f'conv_{index}',
    )(x)
    norm = layers.group_norm(
      self.features, dtype=self.dtype, name=f'norm_{index}'
    )
    return nn.silu(norm(x))


class TopDownMerge(nn.Module):
  """(features at 1/4 and 1/8, tokens at 1/16) -> a map of the mask's size.

  Levels finer than the mask are left out. Where the mask is finer than the
  finest level, a last block without a fine input enlarges to it, and only
  then is the result of width `out_dim`; else it has that level's width, as in
  the reference. A block is named by its level: 0 the last, then 1/4, 1/8.
  """

  out_dim: int = 256
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(
    self,
    hidden: tuple[Float[Array, 'b h4 w4 c4'], Float[Array, 'b h8 w8 c8']],
    tokens: Float[Array, 'b n d'],
    *,
    mask_size: tuple[int, int],
  ) -> Float[Array, 'b hm wm c']:
    b, h, w, _ = hidden[-1].shape
    x = tokens.reshape(b, h // 2, w // 2, tokens.shape[-1])
    for level in reversed(range(len(hidden))):
      fine = hidden[level]
      if fine.shape[1] > mask_size[0] or fine.shape[2] > mask_size[1]:
        continue
      x = UpsampleBlock(
        features=fine.shape[-1],
        factor=fine.shape[1] // x.shape[1],
        dtype=self.dtype,
        name=f'block_{level + 1}',
      )(x, fine)
    h, w = x.shape[1:3]
    if (h, w) == tuple(mask_size):
      return x
    factor = mask_size[0] // h
    if factor < 1 or (factor * h, factor * w) != tuple(mask_size):
      raise ValueError(
        f'mask_size={tuple(mask_size)} must be 1/16, 1/8 or 1/4 of the image '
        f'or a whole multiple of its quarter, here of {(h, w)}.'
      )
    return UpsampleBlock(
      features=self.out_dim, factor=factor, dtype=self.dtype, name='block_0'
    )(x)
