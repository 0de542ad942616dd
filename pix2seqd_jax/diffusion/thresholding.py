"""Thresholding of estimates of x_0: static (clipping) and dynamic.

Dynamic thresholding: Saharia et al., "Photorealistic Text-to-Image Diffusion
Models with Deep Language Understanding", arXiv 2205.11487, section 2.3.
"""

import dataclasses
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float


@dataclasses.dataclass(frozen=True)
class Dynamic:
  """clip(x_0, -s, s) bound / s, where s = max(quantile of |x_0|, max_value).

  The quantile is that of each example's leaf by itself, with linear
  interpolation. With both 1, the form of Imagen, DPM-Solver++ and diffusers.

  Attributes:
    quantile: in (0, 1].
    max_value: s is at least this, so that smaller estimates are only scaled by
      bound / max_value (1, as a rule).
    bound: the data lie in [-bound, bound]; what s is mapped to.
  """

  quantile: float | int = 0.995
  max_value: float | int = 1.0
  bound: float | int = 1.0

  def __post_init__(self):
    if not 0 < self.quantile <= 1:
      raise ValueError(
        f'dynamic thresholding: quantile={self.quantile!r} must lie in (0, 1]; '
        'the paper uses 0.995.'
      )
    if not (self.max_value > 0 and self.bound > 0):
      raise ValueError(
        f'dynamic thresholding: max_value={self.max_value!r} and bound='
        f'{self.bound!r} must be above 0.'
      )


# (low, high): static; None: neither.
Threshold = tuple[float | int, float | int] | Dynamic | None


def check(setting: Any) -> None:
  """Raises ValueError for what is no Threshold."""
  if setting is None or isinstance(setting, Dynamic):
    return
  if not (len(setting) == 2 and setting[0] < setting[1]):
    raise ValueError(
      f'clip_x0={setting!r} must be None, (low, high) with low < high, or '
      'thresholding.Dynamic().'
    )


def threshold(
  setting: Any, x_0: Float[Array, 'b *rest']
) -> Float[Array, 'b *rest']:
  """One leaf's estimate, kept within what the setting allows."""
  if setting is None:
    return x_0
  if not isinstance(setting, Dynamic):
    return jnp.clip(x_0, *setting)
  sizes = jnp.abs(x_0.reshape(x_0.shape[0], -1))
  s = jnp.quantile(sizes, setting.quantile, axis=1)
  s = jnp.maximum(s, setting.max_value)
  s = s.reshape((-1,) + (1,) * (x_0.ndim - 1))
  return jnp.clip(x_0, -s, s) * (setting.bound / s)
