"""ResNet cut after its third group (C4): features at 1/4, 1/8 and 1/16.

Deep Residual Learning, https://arxiv.org/abs/1512.03385, in the variant of
the reference: the stride sits in the 3x3 convolution, ReLU comes after the
sum, and the last norm of a block starts at zero.
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

_EXPANSION = 4


def _conv(features, kernel, stride, *, dtype, name):
  # Padding both sides alike is TensorFlow's 'SAME' at stride 1, and what the
  # reference pads by hand at stride 2 (where 'SAME' pads one side only).
  return nn.Conv(
    features,
    (kernel, kernel),
    strides=stride,
    padding=kernel // 2,
    use_bias=False,
    kernel_init=nn.initializers.lecun_normal(),
    dtype=dtype,
    name=name,
  )


def _norm(train, *, dtype, name, is_last=False):
  """BatchNorm; its variance is the biased E[x^2] - E[x]^2 in float32."""
  init = nn.initializers.zeros if is_last else nn.initializers.ones
  return nn.BatchNorm(
    use_running_average=not train,
    momentum=0.9,
    epsilon=1e-5,
    scale_init=init,
    dtype=dtype,
    name=name,
  )


class Bottleneck(nn.Module):
  """1x1, 3x3 (with the stride), 1x1 to 4 x width; plus the shortcut; ReLU."""

  width: int
  stride: int = 1
  is_first: bool = False  # of its group: the shortcut is a convolution
  dtype: Any = jnp.float32
  train: bool = False

  @nn.compact
  def __call__(self, x: Float[Array, 'b h w c']) -> Float[Array, 'b h2 w2 d']:
    shortcut = x
    if self.is_first:
      shortcut = self._conv_norm(
        x, _EXPANSION * self.width, 1, self.stride, 'shortcut'
      )
    h = nn.relu(self._conv_norm(x, self.width, 1, 1, '0'))
    h = nn.relu(self._conv_norm(h, self.width, 3, self.stride, '1'))
    h = self._conv_norm(h, _EXPANSION * self.width, 1, 1, '2', is_last=True)
    return nn.relu(h + shortcut)

  def _conv_norm(self, x, features, kernel, stride, name, is_last=False):
    x = _conv(features, kernel, stride, dtype=self.dtype, name=f'conv_{name}')(
      x
    )
    return _norm(
      self.train, dtype=self.dtype, name=f'norm_{name}', is_last=is_last
    )(x)


class ResNetC4(nn.Module):
  """Image -> (features at 1/4, 1/8, 1/16), of 4, 8, 16 x 64 x multiplier.

  `blocks` are the bottlenecks of the three groups: (3, 4, 6) is ResNet-50,
  (3, 4, 23) ResNet-101. Running statistics live in 'batch_stats'; with
  `train` they must be mutable, and those of the batch are used.
  """

  blocks: tuple[int, ...] = (3, 4, 6)
  width_multiplier: float | int = 1.0
  remat: bool = False
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(
    self, image: Float[Array, 'b h w 3'], *, train: bool
  ) -> tuple[
    Float[Array, 'b h4 w4 c4'],
    Float[Array, 'b h8 w8 c8'],
    Float[Array, 'b h16 w16 c16'],
  ]:
    width = int(64 * self.width_multiplier)
    if len(self.blocks) != 3 or min(self.blocks) < 1 or width < 1:
      raise ValueError(
        f'blocks={self.blocks}, width_multiplier={self.width_multiplier}: a '
        'C4 ResNet has three groups of one block or more, and a multiplier of '
        '1/64 or more; (3, 4, 6) and 1.0 are ResNet-50.'
      )
    block = nn.remat(Bottleneck) if self.remat else Bottleneck
    x = _conv(width, 7, 2, dtype=self.dtype, name='stem_conv')(image)
    x = nn.relu(_norm(train, dtype=self.dtype, name='stem_norm')(x))
    # TensorFlow's 'SAME' pads the bottom and the right only.
    x = nn.max_pool(x, (3, 3), strides=(2, 2), padding='SAME')
    features = []
    for i, num_blocks in enumerate(self.blocks):
      for j in range(num_blocks):
        x = block(
          width=width * 2**i,
          stride=2 if i > 0 and j == 0 else 1,
          is_first=j == 0,
          dtype=self.dtype,
          train=train,
          name=f'group_{i}_block_{j}',
        )(x)
      features.append(x)
    return tuple(features)
