"""U-ViT: a transformer over time, condition and patches, with long skips.

"All are Worth Words: A ViT Backbone for Diffusion Models",
https://arxiv.org/abs/2209.12152. Conditioned on a text's states, on a class,
or on nothing. Parameter paths are the original's names; its two stacks of
blocks are arrays with a leading axis.
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from pix2seqd_jax.architectures import attention, layers
from pix2seqd_jax.architectures.sd_unet import time_code

_EPSILON = 1e-5
_NORMAL = nn.initializers.normal(0.02)


def _dense(features, name, dtype, use_bias=True):
  return nn.Dense(
    features, use_bias=use_bias, kernel_init=_NORMAL, dtype=dtype, name=name
  )


def _norm(name, dtype):
  return nn.LayerNorm(
    epsilon=_EPSILON, use_fast_variance=False, dtype=dtype, name=name
  )


class Attention(nn.Module):
  """Of x to itself; queries, keys and values are one linear layer."""

  num_heads: int
  qkv_bias: bool = False
  attention: str = 'auto'
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: Float[Array, 'b n d']) -> Float[Array, 'b n d']:
    b, n, d = x.shape
    qkv = _dense(3 * d, 'qkv', self.dtype, self.qkv_bias)(x)
    qkv = qkv.reshape(b, n, 3, self.num_heads, -1)
    q, k, v = (qkv[:, :, i] for i in range(3))
    x = attention.attend(q, k, v, self.attention)
    return _dense(d, 'proj', self.dtype)(x.reshape(b, n, d))


class Mlp(nn.Module):
  """Dense(GELU(Dense(x))), the exact GELU."""

  features: int
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: Float[Array, 'b n d']) -> Float[Array, 'b n d']:
    d = x.shape[-1]
    x = nn.gelu(_dense(self.features, 'fc1', self.dtype)(x), approximate=False)
    return _dense(d, 'fc2', self.dtype)(x)


class Block(nn.Module):
  """x + attention, x + MLP, both of norm(x); first x joins a skip if given.

  Returns x twice, so that nn.scan carries it on and keeps it.
  """

  num_heads: int
  mlp_ratio: float | int = 4
  qkv_bias: bool = False
  attention: str = 'auto'
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(
    self,
    x: Float[Array, 'b n d'],
    skip: Float[Array, 'b n d'] | None = None,
  ) -> tuple[Float[Array, 'b n d'], Float[Array, 'b n d']]:
    d = x.shape[-1]
    if skip is not None:
      x = jnp.concatenate([x, skip], axis=-1)
      x = _dense(d, 'skip_linear', self.dtype)(x)
    attend = Attention(
      self.num_heads, self.qkv_bias, self.attention, self.dtype, name='attn'
    )
    x += attend(_norm('norm1', self.dtype)(x))
    mlp = Mlp(int(d * self.mlp_ratio), self.dtype, name='mlp')
    x += mlp(_norm('norm2', self.dtype)(x))
    return x, x


class PatchEmbed(nn.Module):
  """Patches -> tokens, row by row."""

  patch_size: int
  features: int
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: Float[Array, 'b h w c']) -> Float[Array, 'b n d']:
    size = (self.patch_size, self.patch_size)
    init = layers.uniform_by_fan_in(size[0] * size[1] * x.shape[-1])
    x = nn.Conv(
      self.features,
      size,
      strides=size,
      padding='VALID',
      kernel_init=init,
      bias_init=init,
      dtype=self.dtype,
      name='proj',
    )(x)
    return x.reshape(x.shape[0], -1, self.features)


class UViT(nn.Module):
  """(x, time[, context or label]) -> a map of `out_channels` values a place.

  The defaults are the text-conditioned U-ViT-S of MS-COCO, 44,692,644
  parameters; with depth=16 it is U-ViT-S (deep), 58,345,636.

  Attributes:
    image_size: (h, w) of x, an eighth of the picture's.
    patch_size: of a token; divides both.
    in_channels: of x.
    out_channels: of the result; None: as many.
    dim: width of a token.
    depth: blocks before and after the middle one together; even.
    num_heads: of each block.
    mlp_ratio: width of its MLP over `dim`.
    qkv_bias: whether queries, keys and values have biases.
    context_dim: width of a text's states; None: there is no text.
    num_context: tokens of a text.
    num_classes: of labels, the null one included; None: there are none.
    mlp_time_embed: passes the code of time through two layers.
    conv: a convolution of 3x3 at the end.
    attention: see attention.attend.
    remat: the backward pass computes each block's inside again.
    scan: compiles one block a stack and repeats it; else each is compiled. The
      parameters are the same.
    dtype: of the computation; parameters are float32, the head and its result
      at least.
  """

  image_size: tuple[int, int] = (32, 32)
  patch_size: int = 2
  in_channels: int = 4
  out_channels: int | None = None
  dim: int = 512
  depth: int = 12
  num_heads: int = 8
  mlp_ratio: float | int = 4
  qkv_bias: bool = False
  context_dim: int | None = 768
  num_context: int = 77
  num_classes: int | None = None
  mlp_time_embed: bool = False
  conv: bool = True
  attention: str = 'auto'
  remat: bool = False
  scan: bool = True
  dtype: Any = jnp.float32

  @property
  def num_extras(self) -> int:
    """Tokens before those of the picture."""
    num_context = self.num_context if self.context_dim else 0
    return 1 + num_context + (self.num_classes is not None)

  @property
  def grid(self) -> tuple[int, int]:
    """Patches along the sides."""
    h, w = self.image_size
    return h // self.patch_size, w // self.patch_size

  @nn.compact
  def __call__(
    self,
    x: Float[Array, 'b h w c'],
    time: Float[Array, '*b'] | Int[Array, '*b'] | float | int,
    context: Float[Array, 'b l e'] | None = None,
    label: Int[Array, 'b'] | None = None,
  ) -> Float[Array, 'b h w d']:
    """Estimates what was trained for: the noise, in the original.

    Args:
      x: noisy latents.
      time: 0 to 1,000, whole or not; one for all or one for each example.
      context: states of the text, where context_dim is set.
      label: class numbers, where num_classes is set.

    Raises:
      ValueError: sizes that do not fit each other.
    """
    self._check(x, context, label)
    tokens = PatchEmbed(
      self.patch_size, self.dim, self.dtype, name='patch_embed'
    )(x)
    extras = self._extras(x.shape[0], time, context, label)
    tokens = jnp.concatenate([*extras, tokens], axis=1)
    shape = (1, tokens.shape[1], self.dim)
    positions = self.param('pos_embed', _NORMAL, shape, jnp.float32)
    tokens += positions.astype(self.dtype)

    tokens, kept = self._stack('in_blocks')(tokens, None)
    tokens, _ = self._block('mid_block')(tokens)
    tokens, _ = self._stack('out_blocks')(tokens, kept[::-1])
    return self._head(tokens[:, self.num_extras :])

  def _extras(self, b, time, context, label):
    """Tokens of label, time and text, in this order."""
    extras = []
    if label is not None:
      table = nn.Embed(
        self.num_classes,
        self.dim,
        embedding_init=_NORMAL,
        dtype=self.dtype,
        name='label_emb',
      )
      extras.append(table(label)[:, None])
    wide = layers.wide(self.dtype)
    time = jnp.broadcast_to(jnp.asarray(time), (b,))
    code = time_code(time, self.dim)
    if self.mlp_time_embed:
      code = nn.silu(_dense(4 * self.dim, 'time_embed_0', wide)(code))
      code = _dense(self.dim, 'time_embed_2', wide)(code)
    extras.append(code[:, None].astype(self.dtype))
    if context is not None:
      dense = _dense(self.dim, 'context_embed', self.dtype)
      extras.append(dense(context.astype(self.dtype)))
    return extras

  def _block(self, name):
    return self._remat()(*self._fields(), name=name)

  def _stack(self, name):
    length = self.depth // 2
    scanned = nn.scan(
      self._remat(),
      variable_axes={'params': 0},
      split_rngs={'params': True},
      length=length,
      unroll=1 if self.scan else length,
    )
    return scanned(*self._fields(), name=name)

  def _remat(self):
    # A scan needs no guard against common subexpressions.
    return nn.remat(Block, prevent_cse=False) if self.remat else Block

  def _fields(self):
    return (
      self.num_heads,
      self.mlp_ratio,
      self.qkv_bias,
      self.attention,
      self.dtype,
    )

  def _head(self, tokens):
    """Tokens of the picture -> the picture."""
    wide, p = layers.wide(self.dtype), self.patch_size
    out = self.out_channels or self.in_channels
    tokens = _norm('norm', wide)(tokens)
    x = _dense(p * p * out, 'decoder_pred', wide)(tokens)
    b, (h, w) = x.shape[0], self.grid
    x = x.reshape(b, h, w, p, p, out)
    x = jnp.moveaxis(x, 3, 2).reshape(b, h * p, w * p, out)
    if not self.conv:
      return x
    init = layers.uniform_by_fan_in(9 * out)
    return nn.Conv(
      out,
      (3, 3),
      padding=((1, 1), (1, 1)),
      kernel_init=init,
      bias_init=init,
      dtype=wide,
      name='final_layer',
    )(x)

  def _check(self, x, context, label):
    attention.check(self.attention)
    if self.depth < 2 or self.depth % 2:
      raise ValueError(
        f'depth={self.depth} must be even and at least 2: blocks before and '
        'after the middle one are paired.'
      )
    if self.dim % self.num_heads:
      raise ValueError(
        f'num_heads={self.num_heads} must divide dim={self.dim}.'
      )
    if any(side % self.patch_size for side in self.image_size):
      raise ValueError(
        f'patch_size={self.patch_size} must divide image_size='
        f'{self.image_size}.'
      )
    if x.shape[1:] != (*self.image_size, self.in_channels):
      raise ValueError(
        f'x is {x.shape[1:]}, but image_size={self.image_size} and '
        f'in_channels={self.in_channels}; positions are learned for one size.'
      )
    wanted = (self.num_context, self.context_dim)
    found = None if context is None else context.shape[1:]
    if found != (wanted if self.context_dim else None):
      raise ValueError(
        f'num_context, context_dim={wanted}, but the context is {found}; give '
        'a context of that shape, or none where context_dim is None.'
      )
    if (label is None) != (self.num_classes is None):
      raise ValueError(
        f'num_classes={self.num_classes}, but the label is '
        f'{"missing" if label is None else "given"}; give labels if and only '
        'if num_classes is set.'
      )
