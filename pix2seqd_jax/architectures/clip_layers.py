"""The transformer of both of CLIP's towers (arXiv 2103.00020, section 2.4).

Parameters have the names of transformers' CLIPModel.
"""

import functools
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from pix2seqd_jax.architectures import attention


def quick_gelu(x: Float[Array, '...']) -> Float[Array, '...']:
  """x sigmoid(1.702 x): OpenAI's models; those of OpenCLIP have the exact."""
  return x * nn.sigmoid(1.702 * x)


ACTIVATIONS = {
  'quick_gelu': quick_gelu,
  'gelu': functools.partial(nn.gelu, approximate=False),
}


def check(width: int, num_heads: int, activation: str) -> None:
  """Raises ValueError for sizes or an activation that cannot be."""
  if width % num_heads:
    raise ValueError(
      f"width={width} must be a multiple of num_heads={num_heads}; in OpenAI's "
      'models a head has 64 features.'
    )
  if activation not in ACTIVATIONS:
    raise ValueError(
      f'activation={activation!r} is unknown; choose one of '
      f'{", ".join(ACTIVATIONS)}.'
    )


def layer_norm(*, dtype: Any, name: str) -> nn.LayerNorm:
  """LayerNorm with epsilon 1e-5 and statistics in float32 at least."""
  return nn.LayerNorm(
    epsilon=1e-5, use_fast_variance=False, dtype=dtype, name=name
  )


class Attention(nn.Module):
  """Of x to itself, every projection with a bias."""

  num_heads: int
  is_causal: bool = False
  attention: str = 'auto'
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(
    self,
    x: Float[Array, 'b n d'],
    mask: Bool[Array, 'b n'] | None = None,
  ) -> Float[Array, 'b n d']:
    d = x.shape[-1]

    def project(name):
      projected = nn.Dense(d, dtype=self.dtype, name=name)(x)
      return projected.reshape(*x.shape[:2], self.num_heads, -1)

    q, k, v = project('q_proj'), project('k_proj'), project('v_proj')
    x = attention.attend(q, k, v, self.attention, self.is_causal, mask)
    x = x.reshape(*x.shape[:2], d)
    return nn.Dense(d, dtype=self.dtype, name='out_proj')(x)


class MLP(nn.Module):
  """Dense, activation, Dense."""

  features: int
  activation: str = 'quick_gelu'
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: Float[Array, 'b n d']) -> Float[Array, 'b n d']:
    hidden = nn.Dense(self.features, dtype=self.dtype, name='fc1')(x)
    hidden = ACTIVATIONS[self.activation](hidden)
    return nn.Dense(x.shape[-1], dtype=self.dtype, name='fc2')(hidden)


class Layer(nn.Module):
  """x += attend(LN x); x += MLP(LN x). Returns (x, x) for a scan."""

  num_heads: int
  mlp_dim: int
  activation: str = 'quick_gelu'
  is_causal: bool = False
  attention: str = 'auto'
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(
    self,
    x: Float[Array, 'b n d'],
    mask: Bool[Array, 'b n'] | None = None,
  ) -> tuple[Float[Array, 'b n d'], Float[Array, 'b n d']]:
    x += Attention(
      self.num_heads,
      self.is_causal,
      self.attention,
      self.dtype,
      name='self_attn',
    )(layer_norm(dtype=self.dtype, name='layer_norm1')(x), mask)
    x += MLP(self.mlp_dim, self.activation, self.dtype, name='mlp')(
      layer_norm(dtype=self.dtype, name='layer_norm2')(x)
    )
    return x, x


class Encoder(nn.Module):
  """Layers that are alike, stacked: each parameter has them as first axis.

  Attributes:
    num_layers: how many.
    num_heads, mlp_dim, activation, is_causal, attention: of each.
    remat: the backward pass computes a layer's inside again.
    scan: one loop over the layers, which compiles fast; False: unrolled, the
      same parameters and numbers.
    dtype: of the computation; parameters are float32.
  """

  num_layers: int
  num_heads: int
  mlp_dim: int
  activation: str = 'quick_gelu'
  is_causal: bool = False
  attention: str = 'auto'
  remat: bool = False
  scan: bool = True
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(
    self,
    x: Float[Array, 'b n d'],
    mask: Bool[Array, 'b n'] | None = None,
  ) -> tuple[Float[Array, 'b n d'], Float[Array, 'layers b n d']]:
    """-> (the last layer's output, that of every layer)."""
    layer = Layer
    if self.remat:
      # In a loop nothing can be merged with the forward pass; unrolled it can.
      layer = nn.remat(layer, prevent_cse=not self.scan)
    layers = nn.scan(
      layer,
      variable_axes={'params': 0},
      split_rngs={'params': True},
      in_axes=nn.broadcast,
      length=self.num_layers,
      unroll=1 if self.scan else self.num_layers,
    )
    return layers(
      self.num_heads,
      self.mlp_dim,
      self.activation,
      self.is_causal,
      self.attention,
      self.dtype,
      name='layers',
    )(x, mask)
