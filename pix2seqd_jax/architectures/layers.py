"""Small pieces that all networks share: widths, norms, resizing, dropping."""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

# The last layer of a residual branch and the head start almost at zero, so
# that a fresh block is its shortcut and both softmaxes are uniform.
NEARLY_ZERO = nn.initializers.variance_scaling(1e-10, 'fan_avg', 'uniform')
GLOROT = nn.initializers.glorot_uniform()


def uniform_by_fan_in(fan_in: int) -> nn.initializers.Initializer:
  """Between -1 and 1 over the root of fan-in: PyTorch's default."""
  bound = fan_in**-0.5

  def init(key, shape, dtype=jnp.float32):
    return jax.random.uniform(key, shape, dtype, -bound, bound)

  return init


def wide(dtype: Any) -> Any:
  """The type that norms and softmaxes are computed in: float32 at least."""
  return jnp.promote_types(dtype, jnp.float32)


def num_groups(channels: int, width: int | None = None) -> int:
  """Groups of a GroupNorm: min(width // 4, 32), or fewer if they must divide.

  The reference takes min(width // 4, 32) and fails where that does not divide
  the channels; here the next smaller divisor serves, so that any width works.

  Args:
    channels: of the normalised array.
    width: of the layer that sets the number; `channels` by default.

  Returns:
    The largest divisor of `channels` that is at most min(width // 4, 32).
  """
  most = max(1, min((width or channels) // 4, 32))
  return max(n for n in range(1, most + 1) if channels % n == 0)


@functools.lru_cache(maxsize=64)
def _averaging(channels: int, groups: int, dtype: np.dtype) -> np.ndarray:
  """[c, c]: the mean over each group. One array for all layers of a size: a
  traced program holds on to each one, up to 26 MB in a large UNet."""
  group = np.arange(channels) // (channels // groups)
  made = ((group[:, None] == group) * groups / channels).astype(dtype)
  made.setflags(write=False)
  return made


class GroupNorm(nn.Module):
  """GroupNorm (arXiv 1803.08494); statistics in float32 at least.

  The variance is the mean of squared distances, as in the reference; E[x^2] -
  E[x]^2 would cancel badly. Equal to flax's, but the mean over a group is one
  over places and then a small matrix over channels: on CPU a whole UNet is a
  quarter faster than with groups as an axis, too short to be vectorised.
  """

  num_groups: int
  epsilon: float | int = 1e-5
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: Float[Array, 'b h w c']) -> Float[Array, 'b h w c']:
    channels = x.shape[-1]
    shape = (channels,)
    scale = self.param('scale', nn.initializers.ones, shape, jnp.float32)
    bias = self.param('bias', nn.initializers.zeros, shape, jnp.float32)
    dtype = wide(self.dtype)
    x, scale, bias = (value.astype(dtype) for value in (x, scale, bias))
    averaging = _averaging(channels, self.num_groups, np.dtype(dtype))

    def mean(values):
      """Over places and channels of the group: [b, 1, 1, c]."""
      values = values.mean(axis=(1, 2), keepdims=True)
      return jnp.matmul(values, averaging, precision=lax.Precision.HIGHEST)

    x -= mean(x)
    scale *= lax.rsqrt(mean(x * x) + self.epsilon)
    return (x * scale + bias).astype(self.dtype)


def group_norm(
  channels: int, *, dtype: Any, name: str, width: int | None = None
) -> GroupNorm:
  """GroupNorm of as many groups as `num_groups` says, epsilon 1e-5."""
  groups = num_groups(channels, width)
  return GroupNorm(num_groups=groups, dtype=dtype, name=name)


def layer_norm(*, dtype: Any, name: str) -> nn.LayerNorm:
  """LayerNorm with epsilon 1e-6 and statistics in float32 at least."""
  return nn.LayerNorm(
    epsilon=1e-6, use_fast_variance=False, dtype=dtype, name=name
  )


def upsample(
  x: Float[Array, 'b h w c'], factor: int
) -> Float[Array, 'b H W c']:
  """Nearest-neighbour enlargement by a whole factor."""
  b, h, w, c = x.shape
  x = jnp.broadcast_to(x[:, :, None, :, None, :], (b, h, factor, w, factor, c))
  return x.reshape(b, h * factor, w * factor, c)


class DropPath(nn.Module):
  """Drops the residual branch of whole examples; the others grow by 1/keep.

  Stochastic depth (arXiv 1603.09382), constant over the layers. Uses the rng
  'dropout'.
  """

  rate: float | int
  deterministic: bool

  @nn.compact
  def __call__(self, x: Float[Array, 'b ...']) -> Float[Array, 'b ...']:
    return nn.Dropout(
      self.rate,
      broadcast_dims=tuple(range(1, x.ndim)),
      deterministic=self.deterministic,
    )(x)
