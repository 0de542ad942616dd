"""The transformer in Stable Diffusion's UNet (arXiv 2112.10752, appendix E)."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from pix2seqd_jax.architectures import attention, layers

_MLP_RATIO = 4


class Attention(nn.Module):
  """Of x to itself or to a context; no biases but the last."""

  num_heads: int
  attention: str = 'auto'
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(
    self,
    x: Float[Array, 'b n d'],
    context: Float[Array, 'b l e'] | None = None,
  ) -> Float[Array, 'b n d']:
    d = x.shape[-1]
    context = x if context is None else context

    def project(source, name):
      dense = nn.Dense(d, use_bias=False, dtype=self.dtype, name=name)
      return dense(source).reshape(*source.shape[:2], self.num_heads, -1)

    q = project(x, 'to_q')
    k, v = project(context, 'to_k'), project(context, 'to_v')
    x = attention.attend(q, k, v, self.attention)
    x = x.reshape(*x.shape[:2], d)
    return nn.Dense(d, dtype=self.dtype, name='to_out_0')(x)


class GEGLU(nn.Module):
  """value * gelu(gate), both linear in x (arXiv 2002.05202); the exact gelu."""

  features: int
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: Float[Array, 'b n d']) -> Float[Array, 'b n m']:
    x = nn.Dense(2 * self.features, dtype=self.dtype, name='proj')(x)
    value, gate = jnp.split(x, 2, axis=-1)
    return value * nn.gelu(gate, approximate=False)


class FeedForward(nn.Module):
  """Dense(GEGLU(x)), four times as wide between."""

  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: Float[Array, 'b n d']) -> Float[Array, 'b n d']:
    d = x.shape[-1]
    x = GEGLU(_MLP_RATIO * d, dtype=self.dtype, name='net_0')(x)
    return nn.Dense(d, dtype=self.dtype, name='net_2')(x)


class TransformerBlock(nn.Module):
  """Attention to x itself, to the context if there is one, and an MLP."""

  num_heads: int
  attention: str = 'auto'
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(
    self,
    x: Float[Array, 'b n d'],
    context: Float[Array, 'b l e'] | None = None,
  ) -> Float[Array, 'b n d']:
    def norm(name):
      return nn.LayerNorm(
        epsilon=1e-5, use_fast_variance=False, dtype=self.dtype, name=name
      )

    def attend(name):
      return Attention(
        self.num_heads, self.attention, dtype=self.dtype, name=name
      )

    x += attend('attn1')(norm('norm1')(x))
    if context is not None:
      x += attend('attn2')(norm('norm2')(x), context)
    return x + FeedForward(dtype=self.dtype, name='ff')(norm('norm3')(x))


class SpatialTransformer(nn.Module):
  """x + a transformer block over the places of norm(x); epsilon is 1e-6."""

  num_heads: int
  groups: int = 32
  attention: str = 'auto'
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(
    self,
    x: Float[Array, 'b h w c'],
    context: Float[Array, 'b l e'] | None = None,
  ) -> Float[Array, 'b h w c']:
    b, h, w, c = x.shape
    tokens = layers.GroupNorm(self.groups, 1e-6, self.dtype, name='norm')(x)
    tokens = tokens.reshape(b, h * w, c)
    tokens = nn.Dense(c, dtype=self.dtype, name='proj_in')(tokens)
    tokens = TransformerBlock(
      self.num_heads, self.attention, self.dtype, name='transformer_blocks_0'
    )(tokens, context)
    tokens = nn.Dense(c, dtype=self.dtype, name='proj_out')(tokens)
    return x + tokens.reshape(b, h, w, c)
