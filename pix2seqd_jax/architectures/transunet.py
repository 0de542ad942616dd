"""TransUNet: the denoiser of Pix2Seq-D, a UNet around a transformer.

https://arxiv.org/abs/2210.06366, section 3.1 and appendix; after
https://arxiv.org/abs/2102.04306.
"""

import math
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from pix2seqd_jax.architectures import attention, layers, positions
from pix2seqd_jax.architectures.transformer import TransformerLayer


def _conv(features, kernel, *, dtype, name, stride=1, init=layers.GLOROT):
  return nn.Conv(
    features,
    (kernel, kernel),
    strides=stride,
    kernel_init=init,
    dtype=dtype,
    name=name,
  )


class ResBlock(nn.Module):
  """(x + conv(SiLU(GN(conv(SiLU(GN x))) * (1 + s) + shift))) / sqrt(2).

  s and shift are a linear map of the time's embedding; the shortcut is a 1x1
  convolution where the width changes.
  """

  features: int
  dropout: float | int = 0.0
  dtype: Any = jnp.float32
  deterministic: bool = True

  @nn.compact
  def __call__(
    self, x: Float[Array, 'b h w c'], embedding: Float[Array, 'b e']
  ) -> Float[Array, 'b h w {self.features}']:
    dtype = self.dtype
    shortcut = x
    if x.shape[-1] != self.features:
      shortcut = _conv(self.features, 1, dtype=dtype, name='shortcut')(x)
    h = layers.group_norm(x.shape[-1], dtype=dtype, name='norm_0')(x)
    h = _conv(self.features, 3, dtype=dtype, name='conv_0')(nn.silu(h))
    modulation = nn.Dense(
      2 * self.features, kernel_init=layers.GLOROT, dtype=dtype, name='time'
    )(embedding)
    scale, shift = jnp.split(modulation[:, None, None, :], 2, axis=-1)
    h = layers.group_norm(self.features, dtype=dtype, name='norm_1')(h)
    h = nn.silu(h * (1 + scale) + shift)
    h = nn.Dropout(self.dropout, deterministic=self.deterministic)(h)
    h = _conv(
      self.features, 3, dtype=dtype, name='conv_1', init=layers.NEARLY_ZERO
    )(h)
    return (h + shortcut) * math.sqrt(0.5)


class MiddleTransformer(nn.Module):
  """Map -> tokens, and the time as the last of them -> layers -> map.

  The result has width `dim`, not that of the input, and there is no shortcut
  around the whole. The time's token attends like the others and is dropped at
  the end.
  """

  dim: int
  num_layers: int
  head_dim: int
  mlp_dim: int
  cross_attention: bool
  drop_path: float | int = 0.0
  attention: str = 'auto'
  remat: bool = False
  dtype: Any = jnp.float32
  deterministic: bool = True

  @nn.compact
  def __call__(
    self,
    x: Float[Array, 'b h w c'],
    embedding: Float[Array, 'b e'],
    tokens: Float[Array, 'b n d'] | None = None,
  ) -> Float[Array, 'b h w {self.dim}']:
    b, h, w, c = x.shape
    # Both norms take their groups from `dim`, also the one on c channels.
    x = layers.group_norm(c, width=self.dim, dtype=self.dtype, name='norm_in')(
      x
    )
    x = _conv(self.dim, 1, dtype=self.dtype, name='conv_in')(x)
    x = x.reshape(b, h * w, self.dim)
    x += jnp.asarray(positions.table_2d(h, w, self.dim), x.dtype)
    time = nn.Dense(
      self.dim, kernel_init=layers.GLOROT, dtype=self.dtype, name='time'
    )(embedding)
    x = jnp.concatenate([x, time[:, None]], axis=1)
    layer = nn.remat(TransformerLayer) if self.remat else TransformerLayer
    for i in range(self.num_layers):
      x = layer(
        num_heads=self.dim // self.head_dim,
        head_dim=self.head_dim,
        mlp_dim=self.mlp_dim,
        is_decoder=self.cross_attention,
        drop_path=self.drop_path,
        attention=self.attention,
        dtype=self.dtype,
        deterministic=self.deterministic,
        name=f'layer_{i}',
      )(x, tokens)
    x = x[:, :-1].reshape(b, h, w, self.dim)
    x = layers.group_norm(self.dim, dtype=self.dtype, name='norm_out')(x)
    return _conv(self.dim, 1, dtype=self.dtype, name='conv_out')(x)


class TransUNet(nn.Module):
  """(x, time[, tokens]) -> a map of `out_channels` values a pixel.

  The UNet has a level for each of `multipliers`, of width dim * multiplier,
  each half as fine as the one before, and the transformer in the middle.
  `num_res_blocks` counts the residual blocks of a level on the way down; the
  way up has one more. With `cross_attention` the transformer attends to
  `tokens`. `time` is whatever the network is conditioned on (gamma, for
  Pix2Seq-D), multiplied by `time_scaling`. The defaults are the released
  config, 512 values a pixel: two groups of 256 logits, classes then ids.

  The norm, the time's embedding and the head are computed in float32 at
  least: a logit of 20 has a spacing of 1/8 in bfloat16.
  """

  out_channels: int = 512
  dim: int = 128
  multipliers: tuple[int, ...] = (1, 1, 2, 2)
  num_res_blocks: int | tuple[int, ...] = 1
  transformer_dim: int = 512
  transformer_blocks: int = 6
  head_dim: int = 64
  mlp_ratio: int = 4
  cross_attention: bool = True
  time_scaling: float | int = 1000.0
  dropout: float | int = 0.0
  drop_path: float | int = 0.0
  attention: str = 'auto'
  remat: bool = False
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(
    self,
    x: Float[Array, 'b h w c'],
    time: Float[Array, 'b'],
    tokens: Float[Array, 'b n d'] | None = None,
    *,
    train: bool = False,
  ) -> Float[Array, 'b h w {self.out_channels}']:
    self._check(x.shape, tokens)
    embedding = positions.TimeEmbedding(
      dim=self.dim, scaling=self.time_scaling, dtype=self.dtype, name='time'
    )(time)
    x = _conv(self.dim, 1, dtype=self.dtype, name='conv_in')(x)
    x = layers.group_norm(self.dim, dtype=self.dtype, name='norm_in')(x)
    laterals = [x]
    for i in range(len(self.multipliers)):
      x = self._down(i, x, embedding, laterals, train)
    x = MiddleTransformer(
      dim=self.transformer_dim,
      num_layers=self.transformer_blocks,
      head_dim=self.head_dim,
      mlp_dim=self.mlp_ratio * self.transformer_dim,
      cross_attention=self.cross_attention,
      drop_path=self.drop_path,
      attention=self.attention,
      remat=self.remat,
      dtype=self.dtype,
      deterministic=not train,
      name='transformer',
    )(x, embedding, tokens)
    for i in reversed(range(len(self.multipliers))):
      x = self._up(i, x, embedding, laterals, train)
    dtype = layers.wide(self.dtype)
    x = layers.group_norm(x.shape[-1], dtype=dtype, name='norm_out')(x)
    return _conv(
      self.out_channels,
      1,
      dtype=dtype,
      name='conv_out',
      init=layers.NEARLY_ZERO,
    )(nn.silu(x))

  def _down(self, i, x, embedding, laterals, train):
    """Level i on the way down; every result is kept for the way up."""
    for j in range(self._num_res_blocks()[i]):
      x = self._res_block(i, f'down_{i}_block_{j}', train)(x, embedding)
      laterals.append(x)
    if i < len(self.multipliers) - 1:
      # 'SAME' at stride 2 pads the bottom and the right only, as TensorFlow.
      name = f'down_{i}_conv'
      x = _conv(x.shape[-1], 3, stride=2, dtype=self.dtype, name=name)(x)
      laterals.append(x)
    return x

  def _up(self, i, x, embedding, laterals, train):
    """Level i on the way up; each block takes back one kept result."""
    for j in range(self._num_res_blocks()[i] + 1):
      x = jnp.concatenate([x, laterals.pop()], axis=-1)
      x = self._res_block(i, f'up_{i}_block_{j}', train)(x, embedding)
    if i > 0:
      x = layers.upsample(x, 2)
      x = _conv(x.shape[-1], 3, dtype=self.dtype, name=f'up_{i}_conv')(x)
    return x

  def _res_block(self, i, name, train):
    block = nn.remat(ResBlock) if self.remat else ResBlock
    return block(
      features=self.dim * self.multipliers[i],
      dropout=self.dropout,
      dtype=self.dtype,
      deterministic=not train,
      name=name,
    )

  def _num_res_blocks(self):
    if isinstance(self.num_res_blocks, int):
      return (self.num_res_blocks,) * len(self.multipliers)
    return self.num_res_blocks

  def _check(self, shape, tokens):
    attention.check(self.attention)
    if len(self._num_res_blocks()) != len(self.multipliers):
      raise ValueError(
        f'num_res_blocks={self.num_res_blocks} needs one entry for each of '
        f'multipliers={self.multipliers}, or a single number.'
      )
    factor = 2 ** (len(self.multipliers) - 1)
    if shape[1] % factor or shape[2] % factor:
      raise ValueError(
        f'mask_size={shape[1:3]}: {len(self.multipliers)} levels halve the '
        f'mask {len(self.multipliers) - 1} times; choose sides that are '
        f'multiples of {factor}, or fewer multipliers.'
      )
    if self.transformer_dim % self.head_dim or self.transformer_dim % 4:
      raise ValueError(
        f'transformer_dim={self.transformer_dim} must be a multiple of 4 and '
        f'of head_dim={self.head_dim}.'
      )
    if self.cross_attention != (tokens is not None):
      raise ValueError(
        f'cross_attention={self.cross_attention}, but tokens are '
        f'{"missing" if tokens is None else "given"}; set cross_attention to '
        'whether the network attends to tokens.'
      )
