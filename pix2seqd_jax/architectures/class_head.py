"""A class for each pixel of a mask: residual blocks, then DeepLab's head.

For LDMSeg (arXiv 2401.10227), whose masks have no classes. Its classifier was
not released; the paper says a simple segmentation head [DeepLab], its author
four residual blocks and DeepLab's standard head on the features of the mask
decoder. All else is ours: the features of the image beside them, GroupNorm
in place of BatchNorm (a batch of two images trains as well), no dropout.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from pix2seqd_jax.architectures import layers, sd_layers

_EPSILON = 1e-5


class ClassHead(nn.Module):
  """Features of a mask and of its image -> logits of classes.

  Attributes:
    num_classes: without void; there is one more logit, void, at 0.
    width: of all layers.
    num_blocks: residual blocks; 0: DeepLab's head alone.
    dilations: of the 3x3 convolutions side by side. The paper's (6, 12, 18)
      are for maps of a 16th of the image's side.
    stride: the layers work at a stride-th of the sides, as DeepLab's do, and
      their logits are enlarged bilinearly. Divides the sides.
    groups: of all GroupNorms; divides `width`.
    dtype: of the computation; parameters and logits are float32 at least.
  """

  num_classes: int
  width: int = 256
  num_blocks: int = 4
  dilations: tuple[int, ...] = (6, 12, 18)
  stride: int = 1
  groups: int = 32
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(
    self, mask: Float[Array, 'b h w c'], image: Float[Array, 'b m n d']
  ) -> Float[Array, 'b h w {self.num_classes}+1']:
    """Logits at the size of the mask's features.

    Args:
      mask: the features of the mask.
      image: the features of its image, of any size; they are brought to
        the mask's bilinearly.

    Raises:
      ValueError: sizes that do not fit.
    """
    self._check(mask.shape)
    h, w = mask.shape[1:3]
    image = resize(image.astype(self.dtype), (h, w))
    x = jnp.concatenate([mask.astype(self.dtype), image], -1)
    # Patches keep what pooling would blur: the outlines of small things.
    patch = (self.stride, self.stride)
    x = nn.Conv(self.width, patch, patch, dtype=self.dtype, name='conv_in')(x)
    for i in range(self.num_blocks):
      x = sd_layers.ResnetBlock(
        self.width,
        self.groups,
        _EPSILON,
        dtype=self.dtype,
        name=f'resnets_{i}',
      )(x)
    x = DeepLab(
      self.num_classes + 1,
      self.width,
      tuple(self.dilations),
      self.groups,
      dtype=self.dtype,
      name='deeplab',
    )(x)
    return resize(x, (h, w))

  def _check(self, shape):
    if self.groups < 1 or self.width % self.groups:
      raise ValueError(
        f'ClassHead.width={self.width} must be a multiple of '
        f'groups={self.groups}; change either.'
      )
    for key, least in (('num_blocks', 0), ('stride', 1)):
      if getattr(self, key) < least:
        raise ValueError(
          f'ClassHead.{key}={getattr(self, key)} must be {least} or more.'
        )
    if any(side % self.stride for side in shape[1:3]):
      raise ValueError(
        f'ClassHead.stride={self.stride} must divide the sides of the '
        f"mask's features, {shape[1]}x{shape[2]}."
      )
    if any(rate < 1 for rate in self.dilations):
      raise ValueError(
        f'ClassHead.dilations={self.dilations} must all be 1 or more.'
      )


class DeepLab(nn.Module):
  """Atrous pyramid with the mean of the map, a 3x3 layer, the classifier.

  Chen et al. 2017, https://arxiv.org/abs/1706.05587, section 3.3.
  """

  out_channels: int
  width: int
  dilations: tuple[int, ...]
  groups: int
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: Float[Array, 'b h w c']) -> Float[Array, 'b h w d']:
    def layer(x, name, side=1, dilation=1):
      x = nn.Conv(
        self.width,
        (side, side),
        padding=dilation * (side // 2),
        kernel_dilation=dilation,
        use_bias=False,  # the norm's
        dtype=self.dtype,
        name=f'{name}_conv',
      )(x)
      x = layers.GroupNorm(
        self.groups, _EPSILON, dtype=self.dtype, name=f'{name}_norm'
      )(x)
      return nn.relu(x)

    branches = [layer(x, 'point')]
    for i, dilation in enumerate(self.dilations):
      branches.append(layer(x, f'atrous_{i}', 3, dilation))
    # A norm within one place would take most of it away: here there is none.
    mean = x.mean(axis=(1, 2), keepdims=True)
    mean = nn.relu(nn.Dense(self.width, dtype=self.dtype, name='pooled')(mean))
    branches.append(jnp.broadcast_to(mean, branches[0].shape))
    x = layer(jnp.concatenate(branches, -1), 'project')
    x = layer(x, 'last', 3)
    dtype = layers.wide(self.dtype)
    return nn.Dense(
      self.out_channels,
      kernel_init=layers.NEARLY_ZERO,
      dtype=dtype,
      name='classifier',
    )(x.astype(dtype))


def resize(
  x: Float[Array, 'b h w c'], size: tuple[int, int]
) -> Float[Array, 'b H W c']:
  """Bilinear, pixel centres at (i + 1/2) / size, without antialiasing."""
  if x.shape[1:3] == tuple(size):
    return x
  shape = (x.shape[0], *size, x.shape[-1])
  return jax.image.resize(x, shape, 'bilinear', antialias=False)
