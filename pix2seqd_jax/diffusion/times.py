"""Which times a training step sees."""

import dataclasses

import jax
from jaxtyping import Array, Float, Key


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


TIMES = {'uniform': Uniform}
