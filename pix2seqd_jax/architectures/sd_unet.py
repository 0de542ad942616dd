"""The UNet of Stable Diffusion (arXiv 2112.10752, section 3.3).

Parameter paths are diffusers' names (UNet2DConditionModel): dots are levels, a
number joins the word before it. Where it has convolutions of 1x1, a Dense
layer stands here.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from pix2seqd_jax.architectures import attention, layers, sd_layers
from pix2seqd_jax.architectures.sd_transformer import SpatialTransformer

_PERIOD = 10000.0


def time_code(
  time: Float[Array, 'b'] | Int[Array, 'b'],
  dim: int,
  flip_sin_to_cos: bool = True,
  freq_shift: float | int = 0,
) -> Float[Array, 'b {dim}']:
  """[cos | sin] of time / 10000^(j / (dim/2 - freq_shift)), j < dim/2.

  In the type of `time`, float32 at least. The rates are rounded as in the
  original, whose exponents are float32: with the true ones the angles at 1,000
  would differ by 1e-4.

  Args:
    time: 0 to 1,000, fractions too.
    dim: the width.
    flip_sin_to_cos: the cosines are first; else the sines.
    freq_shift: 1 makes the last period exactly 10,000 x 2 pi.

  Returns:
    The codes; an odd width ends with 0.
  """
  half = dim // 2
  exponents = np.float32(-math.log(_PERIOD)) * np.arange(half, dtype=np.float32)
  rates = np.exp(exponents / np.float32(half - freq_shift))
  time = time.astype(layers.wide(time.dtype))
  angles = time[:, None] * rates.astype(time.dtype)
  parts = [jnp.sin(angles), jnp.cos(angles)]
  code = jnp.concatenate(parts[::-1] if flip_sin_to_cos else parts, axis=-1)
  return jnp.pad(code, ((0, 0), (0, dim % 2)))


class TimeEmbedding(nn.Module):
  """Dense(SiLU(Dense(code)))."""

  features: int
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, code: Float[Array, 'b c']) -> Float[Array, 'b d']:
    x = nn.Dense(self.features, dtype=self.dtype, name='linear_1')(code)
    x = nn.silu(x)
    return nn.Dense(self.features, dtype=self.dtype, name='linear_2')(x)


class DownBlock(nn.Module):
  """Resnets, a transformer after each, and the halving; keeps every result."""

  num_layers: int
  resnet: Callable[..., nn.Module]
  transformer: Callable[..., nn.Module] | None
  downsample: Callable[..., nn.Module] | None

  @nn.compact
  def __call__(
    self,
    x: Float[Array, 'b h w c'],
    temb: Float[Array, 'b t'],
    context: Float[Array, 'b l e'] | None,
    train: bool,
  ) -> tuple[Float[Array, 'b H W d'], list[Float[Array, 'b _ _ d']]]:
    kept = []
    for i in range(self.num_layers):
      x = self.resnet(name=f'resnets_{i}')(x, temb, train)
      if self.transformer is not None:
        x = self.transformer(name=f'attentions_{i}')(x, context)
      kept.append(x)
    if self.downsample is not None:
      x = self.downsample(name='downsamplers_0')(x)
      kept.append(x)
    return x, kept


class MiddleBlock(nn.Module):
  """Resnet, transformer, resnet."""

  resnet: Callable[..., nn.Module]
  transformer: Callable[..., nn.Module]

  @nn.compact
  def __call__(
    self,
    x: Float[Array, 'b h w c'],
    temb: Float[Array, 'b t'],
    context: Float[Array, 'b l e'] | None,
    train: bool,
  ) -> Float[Array, 'b h w c']:
    x = self.resnet(name='resnets_0')(x, temb, train)
    x = self.transformer(name='attentions_0')(x, context)
    return self.resnet(name='resnets_1')(x, temb, train)


class UpBlock(nn.Module):
  """Resnets on x and what was kept, a transformer after each, the doubling."""

  resnet: Callable[..., nn.Module]
  transformer: Callable[..., nn.Module] | None
  upsample: Callable[..., nn.Module] | None

  @nn.compact
  def __call__(
    self,
    x: Float[Array, 'b h w c'],
    kept: Sequence[Float[Array, 'b h w _']],
    temb: Float[Array, 'b t'],
    context: Float[Array, 'b l e'] | None,
    train: bool,
  ) -> Float[Array, 'b H W d']:
    """`kept` in the order of its use."""
    for i, lateral in enumerate(kept):
      x = jnp.concatenate([x, lateral], axis=-1)
      x = self.resnet(name=f'resnets_{i}')(x, temb, train)
      if self.transformer is not None:
        x = self.transformer(name=f'attentions_{i}')(x, context)
    if self.upsample is not None:
      x = self.upsample(name='upsamplers_0')(x)
    return x


class SDUNet(nn.Module):
  """(x, time[, context]) -> a map of `out_channels` values a place.

  The defaults are Stable Diffusion 1.x. `channels` are the widths of the
  levels, each half as fine as the one before; `has_attention` says which of
  them have transformers (the middle always has one). A level has `num_layers`
  resnets on the way down and one more on the way up. `num_heads` is a number
  for all levels or one for each (Stable Diffusion 2: 5, 10, 20, 20).

  With `context_dim` None there is no attention to a context. Time is what the
  original calls timestep, 0 to 1,000, whole or not. The sides must be
  multiples of 2^(levels - 1). Dropout is in the resnets only. `linear` says
  that the original has linear layers around its transformers (Stable
  Diffusion 2) and not convolutions of 1x1; only a conversion back asks.

  The time's embedding and the head are computed in float32 at least.
  """

  in_channels: int = 4
  out_channels: int = 4
  channels: tuple[int, ...] = (320, 640, 1280, 1280)
  has_attention: tuple[bool, ...] = (True, True, True, False)
  num_layers: int = 2
  num_heads: int | tuple[int, ...] = 8
  context_dim: int | None = 768
  linear: bool = False
  groups: int = 32
  epsilon: float | int = 1e-5
  flip_sin_to_cos: bool = True
  freq_shift: float | int = 0
  dropout: float | int = 0.0
  attention: str = 'auto'
  remat: bool = False
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(
    self,
    x: Float[Array, 'b h w c'],
    time: Float[Array, '*b'] | Int[Array, '*b'] | float | int,
    context: Float[Array, '_ l e'] | None = None,
    train: bool = False,
  ) -> Float[Array, 'b h w {self.out_channels}']:
    """`time` is one for all or one for each example.

    Raises:
      ValueError: sizes that do not fit each other.
    """
    self._check(x.shape, context)
    wide = layers.wide(self.dtype)
    time = _one_each(jnp.asarray(time), len(x))
    width = self.channels[0]
    code = time_code(time, width, self.flip_sin_to_cos, self.freq_shift)
    temb = TimeEmbedding(4 * width, dtype=wide, name='time_embedding')(code)
    if context is not None:
      context = context.astype(self.dtype)
    x = self._conv(width, 'conv_in', self.dtype)(x)
    kept = [x]
    last = len(self.channels) - 1
    for i in range(last + 1):
      x, results = DownBlock(
        self.num_layers,
        self._resnet(i),
        self._transformer(i),
        self._resize(sd_layers.Downsample, i) if i < last else None,
        name=f'down_blocks_{i}',
      )(x, temb, context, train)
      kept += results
    x = MiddleBlock(
      self._resnet(last), self._transformer(last, True), name='mid_block'
    )(x, temb, context, train)
    for i in reversed(range(last + 1)):
      laterals = [kept.pop() for _ in range(self.num_layers + 1)]
      x = UpBlock(
        self._resnet(i),
        self._transformer(i),
        self._resize(sd_layers.Upsample, i) if i > 0 else None,
        name=f'up_blocks_{last - i}',
      )(x, laterals, temb, context, train)
    x = layers.GroupNorm(
      self.groups, self.epsilon, dtype=wide, name='conv_norm_out'
    )(x)
    return self._conv(self.out_channels, 'conv_out', wide)(nn.silu(x))

  def _conv(self, features, name, dtype):
    return sd_layers.Conv3x3(features, dtype=dtype, name=name)

  def _resnet(self, level):
    block = sd_layers.ResnetBlock
    if self.remat:
      block = nn.remat(block, static_argnums=(3,))
    return functools.partial(
      block,
      features=self.channels[level],
      groups=self.groups,
      epsilon=self.epsilon,
      dropout=self.dropout,
      dtype=self.dtype,
    )

  def _transformer(self, level, is_middle=False):
    if not (self.has_attention[level] or is_middle):
      return None
    return functools.partial(
      nn.remat(SpatialTransformer) if self.remat else SpatialTransformer,
      num_heads=self._num_heads()[level],
      groups=self.groups,
      attention=self.attention,
      dtype=self.dtype,
    )

  def _resize(self, layer, level):
    return functools.partial(
      layer, features=self.channels[level], dtype=self.dtype
    )

  def _num_heads(self):
    if isinstance(self.num_heads, int):
      return (self.num_heads,) * len(self.channels)
    return self.num_heads

  def _check(self, shape, context):
    attention.check(self.attention)
    _check_levels(self.channels, self.has_attention, self._num_heads())
    for width in self.channels:
      if width % self.groups:
        raise ValueError(
          f'channels={self.channels} must all be multiples of '
          f'groups={self.groups}; change either.'
        )
    factor = 2 ** (len(self.channels) - 1)
    if shape[1] % factor or shape[2] % factor:
      raise ValueError(
        f'the map is {shape[1]}x{shape[2]}: {len(self.channels)} levels halve '
        f'it {len(self.channels) - 1} times; choose sides that are multiples '
        f'of {factor} (of {8 * factor} for an image whose latent is an eighth '
        'of its size).'
      )
    if shape[3] != self.in_channels:
      raise ValueError(
        f'x has {shape[3]} channels, but in_channels={self.in_channels}; set '
        'in_channels to the number of all that is concatenated.'
      )
    width = None if context is None else context.shape[-1]
    if width != self.context_dim:
      raise ValueError(
        f'context_dim={self.context_dim}, but the context '
        f'{"is missing" if width is None else f"has {width} features"}; give '
        'a context of that width, or none where context_dim is None.'
      )
    if context is not None and len(context) != shape[0]:
      raise ValueError(
        f'the context is of {len(context)} examples and x of {shape[0]}; '
        'repeat a context that is the same for all.'
      )


def _one_each(time, num_examples):
  if time.shape not in ((), (1,), (num_examples,)):
    raise ValueError(
      f'time has shape {time.shape}, but there are {num_examples} examples; '
      'give one for all or one for each.'
    )
  return jnp.broadcast_to(time, (num_examples,))


def _check_levels(channels, has_attention, num_heads):
  """Raises ValueError where the fields do not speak of the same levels."""
  if not channels:
    raise ValueError('channels=() must name the width of one level at least.')
  for name, value in (
    ('has_attention', has_attention),
    ('num_heads', num_heads),
  ):
    if len(value) != len(channels):
      raise ValueError(
        f'{name}={value} needs one entry for each of channels={channels}.'
      )
  for i, (width, heads) in enumerate(zip(channels, num_heads, strict=True)):
    is_used = has_attention[i] or i == len(channels) - 1
    if is_used and width % heads:
      raise ValueError(
        f'num_heads={heads} must divide channels={width} of level {i}.'
      )
