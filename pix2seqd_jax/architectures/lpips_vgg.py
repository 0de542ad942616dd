"""LPIPS: how different two images look, by features of VGG-16.

"The Unreasonable Effectiveness of Deep Features as a Perceptual Metric",
https://arxiv.org/abs/1801.03924, version 0.1 of the authors' package, net
'vgg', with their linear layers. Parameter paths are torchvision's names of
VGG-16 (`features/28`) and the package's of the linear layers (`lin0`).
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from pix2seqd_jax.architectures import layers

# The widths of VGG-16, a maximum over 2 x 2 between; features are taken before
# each, and behind the last.
_STAGES = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))
# ImageNet's means and deviations, moved from [0, 1] to [-1, 1].
_SHIFT = np.array([-0.030, -0.088, -0.188])
_SCALE = np.array([0.458, 0.448, 0.450])
_EPSILON = 1e-10
_LEAST = 16  # four halvings leave a pixel


class LPIPS(nn.Module):
  """(image, image) -> distance, 0 for equal ones; about 0 to 1."""

  dtype: Any = jnp.float32

  @nn.compact
  def __call__(
    self, x: Float[Array, 'b h w 3'], y: Float[Array, 'b h w 3']
  ) -> Float[Array, 'b']:
    """Compares pair by pair.

    Args:
      x: images, values in [-1, 1].
      y: the same.

    Returns:
      The mean over places of the weighted squared distance of features of
      unit length, summed over five depths (equation 1).

    Raises:
      ValueError: images with a side below 16 pixels.
    """
    if min(x.shape[1:3]) < _LEAST:
      raise ValueError(
        f'images of {x.shape[1]}x{x.shape[2]} are too small for LPIPS; both '
        f'sides must be at least {_LEAST}: enlarge them.'
      )
    both = jnp.concatenate([x, y])
    maps = VGG(self.dtype, name='features')(both)
    total = 0
    for i, found in enumerate(maps):
      found = _unit(found.astype(layers.wide(self.dtype)))
      ours, theirs = jnp.split(found, 2)
      weigh = nn.Dense(
        1,
        use_bias=False,
        kernel_init=_positive,
        dtype=layers.wide(self.dtype),
        name=f'lin{i}',
      )
      total += weigh(jnp.square(ours - theirs)).mean((1, 2, 3))
    return total


class VGG(nn.Module):
  """Images in [-1, 1] -> the last ReLU's maps at each of five resolutions.

  They have 64, 128, 256, 512 and 512 channels; the side halves between them.
  """

  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: Float[Array, 'b h w 3']) -> list[Array]:
    found, index = [], 0  # torchvision counts ReLUs and poolings, too
    shift, scale = (jnp.asarray(v, x.dtype) for v in (_SHIFT, _SCALE))
    x = ((x - shift) / scale).astype(self.dtype)
    for stage, (width, depth) in enumerate(_STAGES):
      if stage:
        x = nn.max_pool(x, (2, 2), (2, 2))
        index += 1
      for _ in range(depth):
        conv = nn.Conv(
          width,
          (3, 3),
          padding=((1, 1), (1, 1)),
          dtype=self.dtype,
          name=f'{index}',
        )
        x = nn.relu(conv(x))
        index += 2
      found.append(x)
    return found


def _unit(x):
  """Vectors of unit length; the package adds epsilon to the length."""
  # The square root has no gradient at 0, where features may all be off.
  squares = jnp.sum(jnp.square(x), -1, keepdims=True)
  length = jnp.where(
    squares > 0, jnp.sqrt(jnp.where(squares > 0, squares, 1)), 0
  )
  return x / (length + _EPSILON)


def _positive(key, shape, dtype=jnp.float32):
  """Trained weights are not negative; drawn ones neither."""
  return jax.random.uniform(key, shape, dtype) / shape[0]
