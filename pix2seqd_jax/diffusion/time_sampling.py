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
class Beta:
  """t ~ Beta(a, b), one for each example.

  Where times are to be dense is for who trains to say: a > b at x_1, where
  samplers begin; a and b below 1 at both ends, as for flows between pairs
  that a flow made (Lee et al. 2024, https://arxiv.org/abs/2405.20320).
  """

  a: float | int = 1.0
  b: float | int = 1.0

  def __post_init__(self):
    if not (self.a > 0 and self.b > 0):
      raise ValueError(f'times a={self.a}, b={self.b} must both be above 0.')

  def sample(self, rng: Key[Array, ''], num: int) -> Float[Array, '{num}']:
    """float32 [num]."""
    return jax.random.beta(rng, self.a, self.b, (num,), jnp.float32)


TIMES = {'uniform': Uniform, 'discrete': Discrete, 'beta': Beta}
