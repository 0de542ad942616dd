"""The weight of each pixel's loss, and of each time's."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int


def instance_weight(
  instance: Int[Array, 'b h w'], num_ids: int, p: float | int
) -> Float[Array, 'b h w']:
  """Small segments weigh more: w = (1 / (area + 1))^p, mean 1 an example.

  arXiv 2210.06366, section 3.2. The area is the number of pixels of the id in
  this example at this resolution. The paper writes 1 / area^p; area + 1 is
  the reference's code. Id 0 (void, padding) counts as one segment, and ids of
  num_ids or more weigh 0^p, as there. Areas are counted into bins: no
  one-hot of h w num_ids numbers is made.

  Args:
    instance: ids from 0 on.
    num_ids: counts id 0.
    p: 0 weighs all pixels alike, 1 all segments (about).

  Returns:
    float32; all zeros for an example that has no id below num_ids.

  Raises:
    ValueError: num_ids < 1 or p < 0.
  """
  if num_ids < 1 or p < 0:
    raise ValueError(
      f'num_ids={num_ids} must be at least 1 and the loss '
      f'weight p={p} at least 0.'
    )

  def one(ids):
    # The last bin collects the ids out of range.
    flat = jnp.minimum(ids.reshape(-1), num_ids)
    areas = jnp.zeros(num_ids + 1, jnp.int32).at[flat].add(1)
    weights = (1.0 / (areas.astype(jnp.float32) + 1.0)) ** p
    weights = weights.at[num_ids].set(0.0**p)
    total = jnp.sum(weights * areas)
    weights = weights * jnp.where(total > 0, flat.size / total, 0.0)
    return weights[flat].reshape(ids.shape)

  return jax.vmap(one)(instance)


def area_weight(
  instance: Int[Array, 'b h w'], num_ids: int
) -> Float[Array, 'b h w']:
  """1 / the number of pixels of a segment; 0 where the id is 0.

  LDMSeg's loss_mask 'counts': each segment weighs the same. Ids of
  num_ids or more weigh 0.
  """

  def one(ids):
    flat = jnp.minimum(ids.reshape(-1), num_ids)
    areas = jnp.zeros(num_ids + 1, jnp.int32).at[flat].add(1)
    weights = (1.0 / jnp.maximum(areas, 1)).at[0].set(0).at[-1].set(0)
    return weights[flat].reshape(ids.shape)

  return jax.vmap(one)(instance)


# The weight of a time, from the schedule: LDMSeg's modes (arXiv 2401.10227,
# section 3.3, and the release). Each is called with (schedule, t [b]).


def _snr(schedule, t):
  """alpha^2 / sigma^2, without cancellation."""
  return (schedule.alpha(t) / schedule.sigma(t)) ** 2


@dataclasses.dataclass(frozen=True)
class Uniform:
  """1."""

  def __call__(self, schedule: Any, t: Any) -> Any:
    """w(t) [b]."""
    return jnp.ones_like(t)


@dataclasses.dataclass(frozen=True)
class Linear:
  """t, that is (step + 1) / 1000."""

  def __call__(self, schedule: Any, t: Any) -> Any:
    """w(t) [b]."""
    return t


@dataclasses.dataclass(frozen=True)
class Ramp:
  """min(1, t / end): the paper's, over the last quarter of the way to data."""

  end: float | int = 0.25

  def __post_init__(self):
    if not 0 < self.end <= 1:
      raise ValueError(f'loss_weight: end={self.end} must lie in (0, 1].')

  def __call__(self, schedule: Any, t: Any) -> Any:
    """w(t) [b]."""
    return jnp.minimum(1, t / self.end)


@dataclasses.dataclass(frozen=True)
class MaxClampSNR:
  """min(SNR, limit) / SNR: the release's; arXiv 2303.09556 for the noise."""

  limit: float | int = 2.0

  def __post_init__(self):
    if not self.limit > 0:
      raise ValueError(f'loss_weight: limit={self.limit} must be above 0.')

  def __call__(self, schedule: Any, t: Any) -> Any:
    """w(t) [b]."""
    return jnp.minimum(1, self.limit / _snr(schedule, t))


@dataclasses.dataclass(frozen=True)
class InverseLogSNR:
  """max(-ln SNR, 1), over its value at t = 1."""

  def __call__(self, schedule: Any, t: Any) -> Any:
    """w(t) [b]."""
    last = max(-np.log(_snr(schedule, np.float64(1))), 1)
    return jnp.maximum(-jnp.log(_snr(schedule, t)), 1) / last


@dataclasses.dataclass(frozen=True)
class Fixed:
  """SNR, but 0.1 in the first quarter. Not bounded by 1: as in the release."""

  end: float | int = 0.25
  low: float | int = 0.1

  def __call__(self, schedule: Any, t: Any) -> Any:
    """w(t) [b]."""
    # Half a step more: t = end belongs to the quarter, rounded or not.
    return jnp.where(t < self.end + 5e-4, self.low, _snr(schedule, t))


TIME_WEIGHTS = {
  'none': Uniform,
  'linear': Linear,
  'ramp': Ramp,
  'max_clamp_snr': MaxClampSNR,
  'inverse_log_snr': InverseLogSNR,
  'fixed': Fixed,
}
