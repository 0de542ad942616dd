"""U-ViT: a transformer over time, condition and patches, with long skips.

Bao et al., "All are Worth Words: A ViT Backbone for Diffusion Models", arXiv
2209.12152. Parameters have the names of the authors' code.
"""

import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Num

from pix2seqd_jax.architectures import attention, layers
from pix2seqd_jax.architectures.clip_layers import layer_norm
from pix2seqd_jax.architectures.sd_unet import time_code

# Matrices and positions. The original truncates at 100 standard deviations.
_NORMAL = nn.initializers.normal(0.02)


def _dense(
  features: int, dtype: Any, name: str, use_bias: bool = True
) -> nn.Dense:
  return nn.Dense(
    features, use_bias=use_bias, kernel_init=_NORMAL, dtype=dtype, name=name
  )


def _conv(
  in_channels: int, features: int, size: int, stride: int, dtype: Any, name: str
) -> nn.Conv:
  """A convolution that begins as PyTorch's: all of it +-1 / sqrt(fan-in)."""
  limit = 1 / math.sqrt(in_channels * size * size)

  def uniform(key, shape, dtype=jnp.float32, **_):
    return jax.random.uniform(key, shape, dtype, -limit, limit)

  return nn.Conv(
    features,
    (size, size),
    stride,
    'VALID' if stride == size else 'SAME',
    kernel_init=uniform,
    bias_init=uniform,
    dtype=dtype,
    name=name,
  )


class Attention(nn.Module):
  """Of x to itself; one matrix makes queries, keys and values."""

  num_heads: int
  qkv_bias: bool = False
  attention: str = 'auto'
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: Float[Array, 'b n d']) -> Float[Array, 'b n d']:
    b, n, d = x.shape
    qkv = _dense(3 * d, self.dtype, 'qkv', self.qkv_bias)(x)
    qkv = qkv.reshape(b, n, 3, self.num_heads, d // self.num_heads)
    x = attention.attend(*jnp.moveaxis(qkv, 2, 0), self.attention)
    return _dense(d, self.dtype, 'proj')(x.reshape(b, n, d))


class MLP(nn.Module):
  """Dense, exact GELU, Dense."""

  features: int
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: Float[Array, 'b n d']) -> Float[Array, 'b n d']:
    hidden = _dense(self.features, self.dtype, 'fc1')(x)
    hidden = nn.gelu(hidden, approximate=False)
    return _dense(x.shape[-1], self.dtype, 'fc2')(hidden)


class Block(nn.Module):
  """x = W [x | skip]; x += attend(LN x); x += MLP(LN x).

  Returns (x, x) for a scan. Without a skip the first step is left out.
  """

  num_heads: int
  mlp_dim: int
  qkv_bias: bool = False
  attention: str = 'auto'
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(
    self, x: Float[Array, 'b n d'], skip: Float[Array, 'b n d'] | None = None
  ) -> tuple[Float[Array, 'b n d'], Float[Array, 'b n d']]:
    if skip is not None:
      both = jnp.concatenate([x, skip], axis=-1)
      x = _dense(x.shape[-1], self.dtype, 'skip_linear')(both)
    x += Attention(
      self.num_heads, self.qkv_bias, self.attention, self.dtype, name='attn'
    )(layer_norm(dtype=self.dtype, name='norm1')(x))
    x += MLP(self.mlp_dim, self.dtype, name='mlp')(
      layer_norm(dtype=self.dtype, name='norm2')(x)
    )
    return x, x


class PatchEmbed(nn.Module):
  """Squares of patch_size x patch_size pixels -> tokens, row by row."""

  patch_size: int
  width: int
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: Float[Array, 'b h w c']) -> Float[Array, 'b n d']:
    size = self.patch_size
    x = _conv(x.shape[-1], self.width, size, size, self.dtype, 'proj')(x)
    return x.reshape(x.shape[0], -1, self.width)


def unpatchify(
  x: Float[Array, 'b n d'], grid: tuple[int, int], patch_size: int
) -> Float[Array, 'b h w c']:
  """Tokens of a grid, row by row, -> pixels; d is (row, column, channel)."""
  b, (rows, columns), p = x.shape[0], grid, patch_size
  x = x.reshape(b, rows, columns, p, p, -1)
  return jnp.swapaxes(x, 2, 3).reshape(b, rows * p, columns * p, -1)


class UViT(nn.Module):
  """(x_t, time, condition) -> what it is trained to predict, as large as x_t.

  The tokens are time, context, patches (with text); label, time, patches (with
  classes); or time, patches. Half of the blocks lead to the middle one, and
  each has a skip to its mirror image behind it. Defaults: the authors' small
  model of MS-COCO, for latents of Stable Diffusion's autoencoder; `depth=16`
  is the deep one.

  Attributes:
    image_size: of x, in pixels (here of the latent): one number, or (height,
      width).
    patch_size: a side of a patch.
    in_channels: of x.
    out_channels: of the result; None: as many.
    width: of a token.
    depth: blocks, without the middle one; even.
    num_heads: of each attention.
    mlp_ratio: the inner width of an MLP over `width`.
    context_tokens, context_dim: of the text's encoding (CLIP ViT-L/14); 0
      tokens: there is none.
    num_classes: labels 0 .. num_classes - 1, one of which may stand for none
      (ImageNet: 1001); 0: no labels.
    qkv_bias: queries, keys and values have a bias.
    mlp_time_embed: the code of the time passes an MLP of two layers.
    conv: a 3x3 convolution ends the network.
    skip: the long skips are there.
    attention: see attention.attend.
    remat: the backward pass computes a block's inside again.
    scan: one loop over the blocks, which compiles fast; False: unrolled, the
      same parameters and numbers.
    dtype: of the computation; parameters are float32.
  """

  image_size: int | tuple[int, int] = 32
  patch_size: int = 2
  in_channels: int = 4
  out_channels: int | None = None
  width: int = 512
  depth: int = 12
  num_heads: int = 8
  mlp_ratio: float | int = 4
  context_tokens: int = 77
  context_dim: int = 768
  num_classes: int = 0
  qkv_bias: bool = False
  mlp_time_embed: bool = False
  conv: bool = True
  skip: bool = True
  attention: str = 'auto'
  remat: bool = False
  scan: bool = True
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(
    self,
    x: Float[Array, 'b h w c'],
    time: Num[Array, '_'],
    condition: Num[Array, '...'] | None = None,
  ) -> Float[Array, 'b h w o']:
    """Runs the network.

    Args:
      x: image_size and in_channels.
      time: the original's step, 1 to 1,000; fractions too.
      condition: the context [b, context_tokens, context_dim], the labels [b],
        or None, as the network was made for.

    Returns:
      [b, height, width, out_channels], of the type `dtype`.

    Raises:
      ValueError: sizes that do not fit one another, or inputs that do not fit
        them.
    """
    _check_sizes(self)
    _check_inputs(self, x, time, condition)
    extras = self._extras(time, condition)
    embed = PatchEmbed(
      self.patch_size, self.width, self.dtype, name='patch_embed'
    )
    tokens = jnp.concatenate([*extras, embed(x)], axis=1)
    shape = (1, *tokens.shape[1:])
    places = self.param('pos_embed', _NORMAL, shape, jnp.float32)
    tokens = self._blocks(tokens + places.astype(self.dtype))
    tokens = layer_norm(dtype=self.dtype, name='norm')(tokens)
    p, channels = self.patch_size, self.out_channels or self.in_channels
    tokens = _dense(p * p * channels, self.dtype, 'decoder_pred')(tokens)
    rows, columns = _grid(self)
    x = unpatchify(tokens[:, -rows * columns :], (rows, columns), p)
    if self.conv:
      x = _conv(channels, channels, 3, 1, self.dtype, 'final_layer')(x)
    return x

  def _extras(self, time, condition) -> list[Float[Array, 'b _ d']]:
    """The tokens before the patches."""
    # As in the original: float32, and the deep angles rounded to it.
    code = time_code(time.astype(jnp.float32), self.width)
    if self.mlp_time_embed:
      dtype = layers.wide(self.dtype)
      code = nn.silu(_dense(4 * self.width, dtype, 'time_embed_0')(code))
      code = _dense(self.width, dtype, 'time_embed_2')(code)
    token = code.astype(self.dtype)[:, None]
    if self.num_classes:
      embed = nn.Embed(
        self.num_classes,
        self.width,
        embedding_init=nn.initializers.normal(1.0),
        dtype=self.dtype,
        name='label_emb',
      )
      return [embed(condition)[:, None], token]
    if self.context_tokens:
      embed = _dense(self.width, self.dtype, 'context_embed')
      return [token, embed(condition)]
    return [token]

  def _blocks(self, x: Float[Array, 'b n d']) -> Float[Array, 'b n d']:
    block: Callable = Block
    if self.remat:
      # In a loop nothing can be merged with the forward pass; unrolled it can.
      block = nn.remat(block, prevent_cse=not self.scan)
    sizes = (
      self.num_heads,
      round(self.width * self.mlp_ratio),
      self.qkv_bias,
      self.attention,
      self.dtype,
    )
    half = self.depth // 2
    stack = nn.scan(
      block,
      variable_axes={'params': 0},
      split_rngs={'params': True},
      length=half,
      unroll=1 if self.scan else half,
    )
    x, skips = stack(*sizes, name='in_blocks')(x, None)
    x, _ = block(*sizes, name='mid_block')(x)
    # The last skip belongs to the first block behind the middle.
    skips = skips[::-1] if self.skip else None
    return stack(*sizes, name='out_blocks')(x, skips)[0]


def _pair(size: int | tuple[int, int]) -> tuple[int, int]:
  return (size, size) if isinstance(size, int) else tuple(size)


def _grid(module: UViT) -> tuple[int, int]:
  height, width = _pair(module.image_size)
  return height // module.patch_size, width // module.patch_size


def _check_sizes(m: UViT) -> None:
  if m.depth < 2 or m.depth % 2:
    raise ValueError(
      f'depth={m.depth} must be an even number, 2 or more: as many blocks lead '
      'to the middle one as away from it, and it is not counted (12 is the '
      'small MS-COCO model, 16 the deep one).'
    )
  if m.width % m.num_heads:
    raise ValueError(
      f'width={m.width} must be a multiple of num_heads={m.num_heads}; a head '
      "of the authors' models has 64 features, of their largest 72."
    )
  if any(side < 1 or side % m.patch_size for side in _pair(m.image_size)):
    raise ValueError(
      f'image_size={m.image_size} must be a multiple of '
      f'patch_size={m.patch_size} in height and width.'
    )
  if m.context_tokens and m.num_classes:
    raise ValueError(
      f'num_classes={m.num_classes} and context_tokens={m.context_tokens}: a '
      'network has labels or a context; set the other to 0.'
    )


def _check_inputs(m: UViT, x, time, condition) -> None:
  expected = (x.shape[0], *_pair(m.image_size), m.in_channels)
  if x.shape != expected:
    raise ValueError(
      f'x {x.shape} must be {expected}: image_size={m.image_size} and '
      f'in_channels={m.in_channels}. Positions are learned, so another size '
      'needs another network.'
    )
  if time.shape != x.shape[:1]:
    raise ValueError(f'time {time.shape} must be {x.shape[:1]}, as x.')
  shape = None if condition is None else condition.shape
  if m.num_classes:
    what, needed = f'num_classes={m.num_classes}', x.shape[:1]
  elif m.context_tokens:
    sizes = (m.context_tokens, m.context_dim)
    what, needed = f'context_tokens={m.context_tokens}', (x.shape[0], *sizes)
  else:
    what, needed = 'neither labels nor a context', None
  if shape != needed:
    raise ValueError(
      f'condition {shape} must be {needed}, for a network of {what}; pad a '
      'text to its full length, and stand for "none" by the encoding of the '
      'empty text or the label of no class.'
    )
  if m.num_classes and not jnp.issubdtype(condition.dtype, jnp.integer):
    raise ValueError(
      f'labels must be integers, not {condition.dtype}; cast them.'
    )
