"""LDMSeg's shallow autoencoder of panoptic masks (arXiv 2401.10227, sec. 3.2).

Encoded ids -> latents of an eighth of the side -> logits of ids, of half the
side. Parameter paths are the released checkpoint's names: `encoder.13.weight`
is `encoder/13/scale`.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from pix2seqd_jax.architectures import layers, sd_layers
from pix2seqd_jax.architectures.sd_vae import Posterior


class MaskAutoencoder(nn.Module):
  """2,023,208 parameters as released.

  A latent is never scaled here: the scale (0.18215 in the release, 0.2 in its
  defaults, 4.2 of the latents' own size in the paper) is an argument of
  `Posterior.mode`, `Posterior.sample` and `decode`, as for `SDVAE`.

  Attributes:
    in_channels: of encoded masks: 7 bits.
    out_channels: logits of a pixel, one for each id, void (0) included.
    widths: of the encoder's levels; each but the first halves the sides.
    hidden: width of the encoder's last layers and the decoder's first.
    latent_channels: of latents; the encoder makes twice as many.
    num_upscalers: doublings in the decoder; the rest is interpolated.
    upscale_channels: width of the doublings.
    groups: of the two GroupNorms.
    dtype: of the computation; parameters, moments and logits are float32 at
      least.
  """

  in_channels: int = 7
  out_channels: int = 128
  widths: tuple[int, ...] = (32, 64, 128, 256)
  hidden: int = 256
  latent_channels: int = 4
  num_upscalers: int = 2
  upscale_channels: int = 256
  groups: int = 32
  dtype: Any = jnp.float32

  @property
  def factor(self) -> int:
    """Pixels of a mask along one side of a latent."""
    return 2 ** (len(self.widths) - 1)

  def setup(self):
    if self.num_upscalers >= len(self.widths):
      raise ValueError(
        f'num_upscalers={self.num_upscalers} enlarge beyond the mask, whose '
        f'sides widths={self.widths} halve {len(self.widths) - 1} times.'
      )
    for name in ('hidden', 'upscale_channels'):
      if getattr(self, name) % self.groups:
        raise ValueError(
          f'{name}={getattr(self, name)} must be a multiple of '
          f'groups={self.groups}; change either.'
        )
    self.encoder = Encoder(
      2 * self.latent_channels,
      tuple(self.widths),
      self.hidden,
      self.groups,
      dtype=self.dtype,
    )
    self.decoder = Decoder(
      self.out_channels,
      self.hidden,
      self.num_upscalers,
      self.upscale_channels,
      self.groups,
      dtype=self.dtype,
    )

  def __call__(
    self, x: Float[Array, 'b h w c']
  ) -> Float[Array, 'b h w {self.out_channels}']:
    """All that there is, for `init`: decodes the mode, interpolated."""
    return self.decode(self.encode(x).mode(), interpolate=True)

  def encode(self, x: Float[Array, 'b h w c']) -> Posterior:
    """The posterior of encoded masks in [-1, 1], unknown pixels 0.

    Raises:
      ValueError: sides that `factor` does not divide, or other channels.
    """
    if x.shape[-1] != self.in_channels:
      raise ValueError(
        f'an encoded mask must have in_channels={self.in_channels}, the last '
        f'axis; this one has shape {x.shape}.'
      )
    if x.shape[1] % self.factor or x.shape[2] % self.factor:
      raise ValueError(
        f'a mask of {x.shape[1]}x{x.shape[2]} pixels cannot be encoded: both '
        f'sides must be divisible by {self.factor}; pad or resize it.'
      )
    return Posterior.from_moments(self.encoder(x.astype(self.dtype)))

  def decode(
    self,
    z: Float[Array, 'b h w c'],
    scale: float | int = 1.0,
    interpolate: bool = False,
  ) -> Float[Array, 'b H W {self.out_channels}']:
    """Logits of z / scale.

    Args:
      z: latents.
      scale: with which they were taken from the posterior.
      interpolate: bilinearly to `factor` times the sides of the latent; else
        the sides are 2^num_upscalers times as long.

    Raises:
      ValueError: other channels.
    """
    b, h, w, channels = z.shape
    if channels != self.latent_channels:
      raise ValueError(
        f'a latent must have latent_channels={self.latent_channels}, the last '
        f'axis; this one has shape {z.shape}.'
      )
    logits = self.decoder((z / scale).astype(self.dtype))
    if interpolate:
      shape = (b, self.factor * h, self.factor * w, self.out_channels)
      logits = jax.image.resize(logits, shape, 'bilinear', antialias=False)
    return logits


# The indices of the children count SiLUs, and an empty place, as the release's
# nn.Sequential does.


class Encoder(nn.Module):
  """Encoded masks -> moments."""

  out_channels: int
  widths: tuple[int, ...]
  hidden: int
  groups: int
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: Float[Array, 'b H W c']) -> Float[Array, 'b h w d']:
    x = nn.silu(Conv3x3(self.widths[0], dtype=self.dtype, name='0')(x))
    index = 2
    for before, width in zip(self.widths, self.widths[1:]):
      x = Conv3x3(before, dtype=self.dtype, name=f'{index}')(x)
      x = Conv3x3(width, 2, dtype=self.dtype, name=f'{index + 1}')(x)
      x = nn.silu(x)
      index += 3
    x = Conv3x3(self.hidden, dtype=self.dtype, name=f'{index}')(x)
    x = layers.GroupNorm(
      self.groups, 1e-6, dtype=self.dtype, name=f'{index + 2}'
    )(x)
    return Conv3x3(
      self.out_channels, dtype=layers.wide(self.dtype), name=f'{index + 4}'
    )(nn.silu(x))


class Decoder(nn.Module):
  """Latents -> logits."""

  out_channels: int
  hidden: int
  num_upscalers: int
  upscale_channels: int
  groups: int
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, z: Float[Array, 'b h w c']) -> Float[Array, 'b H W d']:
    x = Conv3x3(self.hidden, dtype=self.dtype, name='0')(z)
    index = 2
    for _ in range(self.num_upscalers):
      x = Doubling(self.upscale_channels, dtype=self.dtype, name=f'{index}')(x)
      x = nn.LayerNorm(
        epsilon=1e-6,
        use_fast_variance=False,
        dtype=self.dtype,
        name=f'{index + 1}',
      )(x)
      x = nn.silu(x)
      index += 3
    x = layers.GroupNorm(self.groups, 1e-5, dtype=self.dtype, name=f'{index}')(
      x
    )
    x = Conv3x3(self.out_channels, dtype=self.dtype, name=f'{index + 2}')(
      nn.silu(x)
    )
    return x.astype(layers.wide(self.dtype))


class Conv3x3(nn.Module):
  """As sd_layers.Conv3x3, begun as PyTorch begins convolutions."""

  features: int
  strides: int = 1
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: Float[Array, 'b h w c']) -> Float[Array, 'b H W d']:
    shape = (3, 3, x.shape[-1], self.features)
    init = layers.uniform_by_fan_in(9 * x.shape[-1])
    kernel = self.param('kernel', init, shape, jnp.float32)
    bias = self.param('bias', init, shape[-1:], jnp.float32)
    x, kernel, bias = (
      jnp.asarray(value, self.dtype) for value in (x, kernel, bias)
    )
    return sd_layers.convolve(x, kernel, self.strides) + bias


class Doubling(nn.Module):
  """A transposed convolution of 2x2 and stride 2: no two outputs overlap.

  The kernel is [2, 2, out, in], PyTorch's [in, out, 2, 2] turned round.
  """

  features: int
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: Float[Array, 'b h w c']) -> Float[Array, 'b H W d']:
    b, h, w, c = x.shape
    init = layers.uniform_by_fan_in(
      4 * self.features
    )  # PyTorch's fan-in of the transposed
    shape = (2, 2, self.features, c)
    kernel = self.param('kernel', init, shape, jnp.float32)
    bias = self.param('bias', init, (self.features,), jnp.float32)
    x, kernel, bias = (
      jnp.asarray(value, self.dtype) for value in (x, kernel, bias)
    )
    x = jnp.einsum('bhwc,ijdc->bhiwjd', x, kernel) + bias
    return x.reshape(b, 2 * h, 2 * w, self.features)
