"""Stable Diffusion's autoencoder: images <-> latents (arXiv 2112.10752).

A latent that a diffusion model sees is s z, z drawn from the posterior of the
image. The scale s belongs to the model and its data, not to the network:
0.18215 for Stable Diffusion, LDMSeg and SemFlow, 0.23010 for PDM and U-ViT on
COCO. So moments are never scaled, s is an argument wherever a latent leaves
(`Posterior.mode`, `Posterior.sample`) or comes back (`SDVAE.decode`), it is 1
unless given, and it is kept in the metadata of the autoencoder in use.

Latents of large images: see `sd_tiles`.
"""

import math
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from pix2seqd_jax.architectures import attention, layers, sd_layers

_EPSILON = 1e-6
PARTS = ('encoder', 'decoder')
Scale = float | int | Float[Array, '']


class Posterior(NamedTuple):
  """Latents of images: independent normals, before any scale.

  Attributes:
    mean: [b, h, w, c].
    logvar: logarithm of the variance, in [-30, 20].
  """

  mean: Float[Array, 'b h w c']
  logvar: Float[Array, 'b h w c']

  @classmethod
  def from_moments(cls, moments: Float[Array, 'b h w m']) -> 'Posterior':
    """Mean and log-variance side by side, as they are stored for a data set."""
    mean, logvar = jnp.split(moments, 2, axis=-1)
    return cls(mean, jnp.clip(logvar, -30, 20))

  @property
  def std(self) -> Float[Array, 'b h w c']:
    """Standard deviations."""
    return jnp.exp(0.5 * self.logvar)

  def mode(self, scale: Scale = 1.0) -> Float[Array, 'b h w c']:
    """scale x mean."""
    return _positive(scale) * self.mean

  def sample(
    self,
    rng: Array | None = None,
    *,
    noise: Float[Array, 'b h w c'] | None = None,
    scale: Scale = 1.0,
  ) -> Float[Array, 'b h w c']:
    """scale x (mean + std x noise), of either a key or normal noise."""
    if (rng is None) == (noise is None):
      raise ValueError('sample takes either rng or noise, and not both.')
    if noise is None:
      noise = jax.random.normal(rng, self.mean.shape, self.mean.dtype)
    return _positive(scale) * (self.mean + self.std * noise)

  def kl(self) -> Float[Array, 'b']:
    """KL(posterior || N(0, 1)) of each example, in nats, summed."""
    terms = self.mean**2 + jnp.exp(self.logvar) - 1 - self.logvar
    return 0.5 * terms.sum(axis=(1, 2, 3))


class SDVAE(nn.Module):
  """AutoencoderKL of Stable Diffusion 1.x and 2.x, 83,653,863 parameters.

  A network of one half (`parts`) has no parameters of the other: LDMSeg keeps
  `parts=('encoder',)`. `quant_conv` belongs to the encoder, `post_quant_conv`
  to the decoder. A whole network also works with the parameters of the half
  that is used.

  Attributes:
    in_channels: of images.
    out_channels: of decoded images.
    latent_channels: of latents.
    block_out_channels: width at each level; each but the last halves the
      sides.
    layers_per_block: residual blocks at each level of the encoder; the
      decoder has one more.
    groups: of all GroupNorms; divides all widths.
    parts: 'encoder', 'decoder' or both.
    attention: see `attention.attend`.
    remat: recompute residual blocks and attention in the backward pass.
    dtype: of the computation; parameters are float32, moments and decoded
      images at least.
  """

  in_channels: int = 3
  out_channels: int = 3
  latent_channels: int = 4
  block_out_channels: tuple[int, ...] = (128, 256, 512, 512)
  layers_per_block: int = 2
  groups: int = 32
  parts: tuple[str, ...] = PARTS
  attention: str = 'auto'
  remat: bool = False
  dtype: Any = jnp.float32

  @property
  def factor(self) -> int:
    """Pixels of an image along one side of a latent."""
    return 2 ** (len(self.block_out_channels) - 1)

  def setup(self):
    self._check()
    # Tiny, and at the border of float32 and dtype: not worth rounding.
    dense = {'dtype': layers.wide(self.dtype)}
    common = {
      'layers_per_block': self.layers_per_block,
      'groups': self.groups,
      'attention': self.attention,
      'remat': self.remat,
      'dtype': self.dtype,
    }
    widths = tuple(self.block_out_channels)
    if 'encoder' in self.parts:
      moments = 2 * self.latent_channels
      self.encoder = Encoder(moments, widths, **common)
      self.quant_conv = nn.Dense(moments, **dense)
    if 'decoder' in self.parts:
      self.post_quant_conv = nn.Dense(self.latent_channels, **dense)
      self.decoder = Decoder(self.out_channels, widths[::-1], **common)

  def __call__(self, x: Float[Array, 'b h w c']) -> Float[Array, 'b H W d']:
    """All that there is, for `init`: decodes the mode of the image.

    Without a decoder it is the mode; without an encoder `x` are latents.
    """
    if 'encoder' in self.parts:
      x = self.encode(x).mode()
    return self.decode(x) if 'decoder' in self.parts else x

  def encode(self, x: Float[Array, 'b h w c']) -> Posterior:
    """The posterior of images in [-1, 1], sides divisible by `factor`."""
    self._has('encoder')
    _channels('an image', x, self.in_channels)
    h, w = x.shape[1:3]
    if h % self.factor or w % self.factor:
      raise ValueError(
        f'an image of {h}x{w} pixels cannot be encoded: both sides must be '
        f'divisible by {self.factor}; pad or resize it.'
      )
    moments = self.encoder(x.astype(self.dtype))
    return Posterior.from_moments(self.quant_conv(moments))

  def decode(
    self, z: Float[Array, 'b h w c'], scale: Scale = 1.0
  ) -> Float[Array, 'b H W d']:
    """Images of z / scale, about [-1, 1] and not clipped."""
    self._has('decoder')
    _channels('a latent', z, self.latent_channels)
    z = self.post_quant_conv(z / _positive(scale))
    return self.decoder(z.astype(self.dtype)).astype(layers.wide(self.dtype))

  def _has(self, part):
    if part not in self.parts:
      raise ValueError(
        f'SDVAE.parts={self.parts} has no {part}; add {part!r} to parts.'
      )

  def _check(self):
    attention.check(self.attention)
    if not self.parts or set(self.parts) - set(PARTS):
      raise ValueError(
        f'SDVAE.parts={self.parts!r} must hold one or both of {PARTS}.'
      )
    wrong = [w for w in self.block_out_channels if w % self.groups]
    if wrong or not self.block_out_channels:
      raise ValueError(
        f'SDVAE.block_out_channels={self.block_out_channels} must be '
        f'divisible by groups={self.groups}; set groups as in their config '
        '(norm_num_groups).'
      )


class Encoder(nn.Module):
  """Images -> moments, before the last linear layer."""

  out_channels: int
  widths: tuple[int, ...]
  layers_per_block: int
  groups: int
  attention: str
  remat: bool
  dtype: Any

  @nn.compact
  def __call__(self, x: Float[Array, 'b H W c']) -> Float[Array, 'b h w d']:
    x = _conv(self, self.widths[0], 'conv_in')(x)
    for i, width in enumerate(self.widths):
      is_last = i == len(self.widths) - 1
      x = _Level(
        width,
        self.layers_per_block,
        self.groups,
        resize=None if is_last else 'down',
        remat=self.remat,
        dtype=self.dtype,
        name=f'down_blocks_{i}',
      )(x)
    x = _middle(self, self.widths[-1])(x)
    x = nn.silu(_norm(self, 'conv_norm_out')(x))
    return _conv(self, self.out_channels, 'conv_out')(x)


class Decoder(nn.Module):
  """Latents, after the first linear layer, -> images."""

  out_channels: int
  widths: tuple[int, ...]  # from the smallest map to the largest
  layers_per_block: int  # the encoder's
  groups: int
  attention: str
  remat: bool
  dtype: Any

  @nn.compact
  def __call__(self, z: Float[Array, 'b h w c']) -> Float[Array, 'b H W d']:
    x = _conv(self, self.widths[0], 'conv_in')(z)
    x = _middle(self, self.widths[0])(x)
    for i, width in enumerate(self.widths):
      is_last = i == len(self.widths) - 1
      x = _Level(
        width,
        self.layers_per_block + 1,
        self.groups,
        resize=None if is_last else 'up',
        remat=self.remat,
        dtype=self.dtype,
        name=f'up_blocks_{i}',
      )(x)
    x = nn.silu(_norm(self, 'conv_norm_out')(x))
    return _conv(self, self.out_channels, 'conv_out')(x)


class _Level(nn.Module):
  """Residual blocks of one width, then a change of size if there is one."""

  width: int
  num_blocks: int
  groups: int
  resize: str | None
  remat: bool
  dtype: Any

  @nn.compact
  def __call__(self, x):
    for i in range(self.num_blocks):
      x = _resnet(self, self.width, f'resnets_{i}')(x)
    if self.resize == 'down':
      # Only right and below: theirs pads apart, and then not in the layer.
      return sd_layers.Downsample(
        self.width, (0, 1), dtype=self.dtype, name='downsamplers_0'
      )(x)
    if self.resize == 'up':
      return sd_layers.Upsample(
        self.width, dtype=self.dtype, name='upsamplers_0'
      )(x)
    return x


class _Middle(nn.Module):
  """A residual block, attention, a residual block."""

  width: int
  groups: int
  attention: str
  remat: bool
  dtype: Any

  @nn.compact
  def __call__(self, x):
    attend = nn.remat(_Attention) if self.remat else _Attention
    x = _resnet(self, self.width, 'resnets_0')(x)
    x = attend(
      self.groups, self.attention, dtype=self.dtype, name='attentions_0'
    )(x)
    return _resnet(self, self.width, 'resnets_1')(x)


class _Attention(nn.Module):
  """x + attention of one head over all places, normalised before."""

  groups: int
  attention: str
  dtype: Any

  @nn.compact
  def __call__(self, x):
    b, h, w, c = x.shape

    def dense(name):
      return nn.Dense(c, dtype=self.dtype, name=name)

    tokens = _norm(self, 'group_norm')(x).reshape(b, h * w, c)
    q, k, v = (
      dense(name)(tokens)[:, :, None] for name in ('to_q', 'to_k', 'to_v')
    )  # [b, h w, 1, c]
    out = attention.attend(q, k, v, self.attention)
    return x + dense('to_out_0')(out[:, :, 0]).reshape(x.shape)


def _conv(module, features, name):
  return sd_layers.Conv3x3(features, dtype=module.dtype, name=name)


def _norm(module, name):
  return layers.GroupNorm(
    module.groups, _EPSILON, dtype=module.dtype, name=name
  )


def _middle(module, width):
  return _Middle(
    width,
    module.groups,
    module.attention,
    module.remat,
    dtype=module.dtype,
    name='mid_block',
  )


def _resnet(module, width, name):
  block = sd_layers.ResnetBlock
  block = nn.remat(block) if module.remat else block
  return block(width, module.groups, _EPSILON, dtype=module.dtype, name=name)


def _channels(what, x, channels):
  if x.ndim != 4 or x.shape[-1] != channels:
    raise ValueError(
      f'{what} must be [batch, height, width, {channels}]; this one has shape '
      f'{x.shape}.'
    )


def _positive(scale):
  """The scale, refused if it is a number (not a value under jit) and wrong."""
  if isinstance(scale, (float, int, np.generic)):
    if not 0 < scale < math.inf:
      raise ValueError(f'scale={scale} must be positive and finite.')
  return scale
