"""Which times a training step sees."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from pix2seqd_jax.diffusion.schedules import NUM_TABULATED


@dataclasses.dataclass(frozen=True)
class Uniform:
  """t ~ U(low, high), one for each example (Pix2Seq-D, section 3.2)."""

  low: float | int = 0.0
  high: float | int = 1.0

  def __post_init__(self):
    if not 0 <= self.low < self.high <= 1:
      raise ValueError(
        f'times low={self.low}, high={self.high} must have '
        '0 <= low < high <= 1.'
      )

  def sample(self, rng: Key[Array, ''], num: int) -> Float[Array, '{num}']:
    """float32 [num]."""
    return jax.random.uniform(rng, (num,), minval=self.low, maxval=self.high)


@dataclasses.dataclass(frozen=True)
class Discrete(Uniform):
  """One of the N steps of a table, t = (step + 1) / N in (low, high]."""

  def __post_init__(self):
    super().__post_init__()
    first, last = self._steps()
    if first > last:
      raise ValueError(
        f'times low={self.low}, high={self.high}: none of the {NUM_TABULATED} '
        'steps lies between them; make the interval longer.'
      )

  def _steps(self) -> tuple[int, int]:
    """Both included, counted from 1."""
    return int(self.low * NUM_TABULATED) + 1, int(self.high * NUM_TABULATED)

  def sample(self, rng: Key[Array, ''], num: int) -> Float[Array, '{num}']:
    """float32 [num]."""
    first, last = self._steps()
    step = jax.random.randint(rng, (num,), first, last + 1)
    # Looked up: compiled, a division is a product with a rounded inverse.
    table = np.arange(NUM_TABULATED + 1) / NUM_TABULATED
    return jnp.asarray(table, jnp.float32)[step]


@dataclasses.dataclass(frozen=True)
class UShaped:
  """Density proportional to cosh(steepness (t - 1/2)), one for each example.

  For flows between pairs that belong together, which are hard to tell only
  near either end (Lee et al. 2024, https://arxiv.org/abs/2405.20320, with
  steepness 4).
  """

  steepness: float | int = 4.0

  def __post_init__(self):
    if not 0 < self.steepness <= 100:
      raise ValueError(
        f'times steepness={self.steepness} must be above 0, where times would '
        'be uniform, and at most 100.'
      )

  def sample(self, rng: Key[Array, ''], num: int) -> Float[Array, '{num}']:
    """float32 [num]."""
    u = jax.random.uniform(rng, (num,), minval=-1.0)
    t = jnp.arcsinh(u * np.sinh(self.steepness / 2)) / self.steepness + 0.5
    return jnp.clip(t, 0.0, 1.0)


TIMES = {'uniform': Uniform, 'discrete': Discrete, 'u_shaped': UShaped}
