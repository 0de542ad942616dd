"""The Inception v3 whose features FID compares, as ported to PyTorch.

Rethinking the Inception Architecture, https://arxiv.org/abs/1512.00567, in the
variant of the 2015 TensorFlow graph that FID (https://arxiv.org/abs/1706.08500)
was defined with. It differs from torchvision's in three places: images are
mapped to [-1, 1]; average pooling leaves the border's padding out; the last
block pools by the maximum. Parameter paths are the port's names.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from pix2seqd_jax.architectures import layers

SIZE = 299


class Blocks(NamedTuple):
  """What the four blocks return for a batch of images.

  Attributes:
    block_0: after the first pooling, 64 channels.
    block_1: after the second, 192.
    block_2: after the 17 x 17 blocks, 768.
    pool3: the mean of the 8 x 8 blocks over places, 2048; FID's features.
  """

  block_0: Float[Array, 'b 73 73 64']
  block_1: Float[Array, 'b 35 35 192']
  block_2: Float[Array, 'b 17 17 768']
  pool3: Float[Array, 'b 2048']


class InceptionFID(nn.Module):
  """Images -> 2048 features; running statistics only, it is never trained.

  Running means and variances live in 'batch_stats'. A logit layer of 1008
  classes, which the port's file also holds, is left out.
  """

  dtype: Any = jnp.float32

  def __call__(self, image: Float[Array, 'b h w c']) -> Float[Array, 'b 2048']:
    """The features after the third pooling.

    Args:
      image: values in [0, 1], of any size; enlarged or reduced to 299 x 299.

    Returns:
      One vector an image.

    Raises:
      ValueError: images without three channels.
    """
    return self.blocks(image).pool3

  @nn.compact
  def blocks(self, image: Float[Array, 'b h w c']) -> Blocks:
    """As `__call__`, with the maps between."""
    if image.shape[-1] != 3:
      raise ValueError(
        f'image has {image.shape[-1]} channels; the FID Inception takes '
        '[b, h, w, 3] in [0, 1]: repeat a grey channel three times, drop alpha.'
      )
    dtype = self.dtype
    x = 2 * resize(jnp.asarray(image, layers.wide(dtype))) - 1
    x = _Conv(32, (3, 3), 2, (0, 0), dtype, name='Conv2d_1a_3x3')(x)
    x = _Conv(32, (3, 3), 1, (0, 0), dtype, name='Conv2d_2a_3x3')(x)
    x = _Conv(64, (3, 3), 1, (1, 1), dtype, name='Conv2d_2b_3x3')(x)
    x = block_0 = nn.max_pool(x, (3, 3), (2, 2))
    x = _Conv(80, (1, 1), 1, (0, 0), dtype, name='Conv2d_3b_1x1')(x)
    x = _Conv(192, (3, 3), 1, (0, 0), dtype, name='Conv2d_4a_3x3')(x)
    x = block_1 = nn.max_pool(x, (3, 3), (2, 2))
    for name, pool in (('5b', 32), ('5c', 64), ('5d', 64)):
      x = _InceptionA(pool, dtype, name=f'Mixed_{name}')(x)
    x = _InceptionB(dtype, name='Mixed_6a')(x)
    for name, width in (('6b', 128), ('6c', 160), ('6d', 160), ('6e', 192)):
      x = _InceptionC(width, dtype, name=f'Mixed_{name}')(x)
    block_2 = x
    x = _InceptionD(dtype, name='Mixed_7a')(x)
    x = _InceptionE(_mean_pool, dtype, name='Mixed_7b')(x)
    x = _InceptionE(_max_pool, dtype, name='Mixed_7c')(x)
    pool3 = x.astype(layers.wide(dtype)).mean(axis=(1, 2))
    return Blocks(block_0, block_1, block_2, pool3)


def resize(image: Float[Array, 'b h w c']) -> Float[Array, 'b 299 299 c']:
  """Bilinear to 299 x 299: two neighbours an axis, also where it reduces.

  Places are those of pixel centres; nothing is averaged beforehand, unlike
  Pillow, TensorFlow's antialiasing and jax.image.resize: FID moves by it.
  """
  for axis in (1, 2):
    table = jnp.asarray(_bilinear(image.shape[axis]), image.dtype)
    image = jnp.tensordot(
      image, table, (axis, 1), precision=lax.Precision.HIGHEST
    )
    image = jnp.moveaxis(image, -1, axis)
  return image


def _bilinear(size: int) -> np.ndarray:
  """The matrix [299, size] that interpolates an axis."""
  place = np.maximum((np.arange(SIZE) + 0.5) * size / SIZE - 0.5, 0)
  distance = np.abs(place[:, None] - np.arange(size))
  table = np.maximum(1 - distance, 0)
  # Beyond the last centre its value is repeated: rows that lost a neighbour.
  return table / table.sum(1, keepdims=True)


def _mean_pool(x):
  """3 x 3, the border's means taken over the places inside."""
  return nn.avg_pool(x, (3, 3), (1, 1), padding='SAME', count_include_pad=False)


def _max_pool(x):
  return nn.max_pool(x, (3, 3), (1, 1), padding='SAME')


class _InceptionA(nn.Module):
  """35 x 35, the channels of its pooled branch by choice."""

  pool_features: int
  dtype: Any

  @nn.compact
  def __call__(self, x):
    conv = _branches(self.dtype)
    double = conv(conv(x, '3x3dbl_1', 64), '3x3dbl_2', 96, (3, 3))
    outs = (
      conv(x, '1x1', 64),
      conv(conv(x, '5x5_1', 48), '5x5_2', 64, (5, 5)),
      conv(double, '3x3dbl_3', 96, (3, 3)),
      conv(_mean_pool(x), '_pool', self.pool_features),
    )
    return jnp.concatenate(outs, axis=-1)


class _InceptionB(nn.Module):
  """35 x 35 to 17 x 17."""

  dtype: Any

  @nn.compact
  def __call__(self, x):
    conv = _branches(self.dtype)
    double = conv(conv(x, '3x3dbl_1', 64), '3x3dbl_2', 96, (3, 3))
    outs = (
      conv(x, '3x3', 384, (3, 3), halve=True),
      conv(double, '3x3dbl_3', 96, (3, 3), halve=True),
      nn.max_pool(x, (3, 3), (2, 2)),
    )
    return jnp.concatenate(outs, axis=-1)


class _InceptionC(nn.Module):
  """17 x 17; its 7 x 7 convolutions are products of 1 x 7 and 7 x 1."""

  width: int
  dtype: Any

  @nn.compact
  def __call__(self, x):
    conv = _branches(self.dtype)
    width, row, column = self.width, (1, 7), (7, 1)
    single = conv(conv(x, '7x7_1', width), '7x7_2', width, row)
    double = conv(conv(x, '7x7dbl_1', width), '7x7dbl_2', width, column)
    double = conv(double, '7x7dbl_3', width, row)
    double = conv(double, '7x7dbl_4', width, column)
    outs = (
      conv(x, '1x1', 192),
      conv(single, '7x7_3', 192, column),
      conv(double, '7x7dbl_5', 192, row),
      conv(_mean_pool(x), '_pool', 192),
    )
    return jnp.concatenate(outs, axis=-1)


class _InceptionD(nn.Module):
  """17 x 17 to 8 x 8."""

  dtype: Any

  @nn.compact
  def __call__(self, x):
    conv = _branches(self.dtype)
    seven = conv(conv(x, '7x7x3_1', 192), '7x7x3_2', 192, (1, 7))
    seven = conv(seven, '7x7x3_3', 192, (7, 1))
    outs = (
      conv(conv(x, '3x3_1', 192), '3x3_2', 320, (3, 3), halve=True),
      conv(seven, '7x7x3_4', 192, (3, 3), halve=True),
      nn.max_pool(x, (3, 3), (2, 2)),
    )
    return jnp.concatenate(outs, axis=-1)


class _InceptionE(nn.Module):
  """8 x 8."""

  pool: Callable[[Array], Array]
  dtype: Any

  @nn.compact
  def __call__(self, x):
    conv = _branches(self.dtype)
    single = conv(x, '3x3_1', 384)
    double = conv(conv(x, '3x3dbl_1', 448), '3x3dbl_2', 384, (3, 3))
    outs = (
      conv(x, '1x1', 320),
      conv(single, '3x3_2a', 384, (1, 3)),
      conv(single, '3x3_2b', 384, (3, 1)),
      conv(double, '3x3dbl_3a', 384, (1, 3)),
      conv(double, '3x3dbl_3b', 384, (3, 1)),
      conv(self.pool(x), '_pool', 192),
    )
    return jnp.concatenate(outs, axis=-1)


def _branches(dtype) -> Callable[..., Array]:
  """A function that adds one convolution to the block that calls it.

  The size stays, or halves without padding.
  """

  def conv(x, name, features, kernel=(1, 1), *, halve=False):
    padding = (0, 0) if halve else (kernel[0] // 2, kernel[1] // 2)
    stride = 2 if halve else 1
    module = _Conv(
      features, kernel, stride, padding, dtype, name=f'branch{name}'
    )
    return module(x)

  return conv


class _Conv(nn.Module):
  """Convolution without bias, BatchNorm by running statistics, ReLU."""

  features: int
  kernel: tuple[int, int]
  stride: int
  padding: tuple[int, int]
  dtype: Any

  @nn.compact
  def __call__(self, x):
    x = nn.Conv(
      self.features,
      self.kernel,
      strides=self.stride,
      padding=[(p, p) for p in self.padding],
      use_bias=False,
      dtype=self.dtype,
      name='conv',
    )(x)
    x = nn.BatchNorm(
      use_running_average=True, epsilon=1e-3, dtype=self.dtype, name='bn'
    )(x)
    return nn.relu(x)
