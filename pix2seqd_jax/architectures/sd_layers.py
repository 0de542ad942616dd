"""What Stable Diffusion's UNet and autoencoder share (arXiv 2112.10752).

Parameter paths are diffusers' names. All 3x3 convolutions go through
`convolve`.
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from pix2seqd_jax.architectures import layers
from pix2seqd_jax.architectures.convolutions import convolve


class Conv3x3(nn.Module):
  """`convolve` and a bias."""

  features: int
  strides: int = 1
  padding: tuple[int, int] = (1, 1)
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: Float[Array, 'b h w c']) -> Float[Array, 'b H W d']:
    shape = (3, 3, x.shape[-1], self.features)
    init = nn.initializers.lecun_normal()
    kernel = self.param('kernel', init, shape, jnp.float32)
    bias = self.param('bias', nn.initializers.zeros, shape[-1:], jnp.float32)
    x, kernel, bias = (
      jnp.asarray(value, self.dtype) for value in (x, kernel, bias)
    )
    return convolve(x, kernel, self.strides, self.padding) + bias


class ResnetBlock(nn.Module):
  """x + conv(silu(norm(conv(silu(norm(x))) + embedding of time)))."""

  features: int
  groups: int = 32
  epsilon: float | int = 1e-5
  dropout: float | int = 0.0
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(
    self,
    x: Float[Array, 'b h w c'],
    temb: Float[Array, 'b e'] | None = None,
    train: bool = False,
  ) -> Float[Array, 'b h w d']:
    """Without `temb` there is no projection of it, as in the autoencoder."""

    def norm(name):
      return layers.GroupNorm(
        self.groups, self.epsilon, dtype=self.dtype, name=name
      )

    def conv(name):
      return Conv3x3(self.features, dtype=self.dtype, name=name)

    def dense(name):
      return nn.Dense(self.features, dtype=self.dtype, name=name)

    hidden = conv('conv1')(nn.silu(norm('norm1')(x)))
    if temb is not None:
      hidden += dense('time_emb_proj')(nn.silu(temb))[:, None, None]
    hidden = nn.silu(norm('norm2')(hidden))
    hidden = nn.Dropout(self.dropout, deterministic=not train)(hidden)
    hidden = conv('conv2')(hidden)
    if x.shape[-1] != self.features:
      x = dense('conv_shortcut')(x)  # a convolution of 1x1 in diffusers
    return x + hidden


class Downsample(nn.Module):
  """Halves both axes by a convolution.

  `padding` is (1, 1) in the UNet; in the autoencoder (0, 1), right and below.
  """

  features: int
  padding: tuple[int, int] = (1, 1)
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: Float[Array, 'b h w c']) -> Float[Array, 'b H W d']:
    conv = Conv3x3(
      self.features, 2, self.padding, dtype=self.dtype, name='conv'
    )
    return conv(x)


class Upsample(nn.Module):
  """Doubles both axes, each value repeated, and convolves."""

  features: int
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: Float[Array, 'b h w c']) -> Float[Array, 'b H W d']:
    conv = Conv3x3(self.features, dtype=self.dtype, name='conv')
    return conv(layers.upsample(x, 2))
