"""Samplers: from x at `now` to x at `next`, by tables made in float64.

See stepping.py for what a sampler is. Every row here has `now`, the Moment at
which the network is called.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from pix2seqd_jax.diffusion import noise
from pix2seqd_jax.diffusion.dormand_prince import RK45
from pix2seqd_jax.diffusion.dpm_solver import Multistep, Singlestep
from pix2seqd_jax.diffusion.heun import Heun
from pix2seqd_jax.diffusion.process import Moment, Process
from pix2seqd_jax.diffusion.sampler import Carry
from pix2seqd_jax.types import Timesteps


class Rows(NamedTuple):
  """x_next = c_x x + c_0 x_0 + c_1 x_1 + std noise; all [n]."""

  now: Moment
  c_x: Any
  c_0: Any
  c_1: Any
  std: Any


class _OneCall:
  """One call of the network a step, then a linear combination."""

  def init(self, x: Any) -> None:
    """No history."""
    return None

  def step(
    self, predict: Callable, carry: Carry, row: Rows, keys: Any
  ) -> Carry:
    """Predicts the endpoints at `now` and combines them."""
    ends = predict(carry.x, row.now, carry.x_0)

    def combine(x, x_0, x_1):
      return row.c_x * x + row.c_0 * x_0 + row.c_1 * x_1

    x = jax.tree.map(combine, carry.x, ends.x_0, ends.x_1)
    return Carry(self.perturb(x, row, keys), ends.x_0, carry.memory)

  def perturb(self, x: Any, row: Rows, keys: Any) -> Any:
    """Adds the noise of a stochastic sampler."""
    return x


@dataclasses.dataclass(frozen=True)
class DDIM(_OneCall):
  """x_s = alpha(s) x_0 + sigma(s) x_1 (arXiv 2010.02502, equation 12).

  Where s is not the next time of the network (td), the sample is cleaner than
  the network is told: arXiv 2210.06366, algorithm 2.

  Attributes:
    eta: 0, the deterministic sampler; else a fraction of the step's noise is
      fresh: std = eta times that of DDPM 'small', which eta = 1 equals, and
      sqrt(sigma(s)^2 - std^2) is left for x_1. Only for a standard normal
      source.
  """

  eta: float | int = 0.0

  def __post_init__(self):
    if not 0 <= self.eta <= 1:
      raise ValueError(f'ddim eta={self.eta!r} must lie in [0, 1].')

  def tables(self, process: Process, timesteps: Timesteps) -> Rows:
    """The rows: equation (1) at `next`.

    Raises:
      ValueError: as DDPM, with eta > 0.
    """
    now, after = process.moment(timesteps.now), process.moment(timesteps.next)
    zero = np.zeros_like(timesteps.now)
    if not self.eta:
      return Rows(now, zero, after.alpha, after.sigma, zero)
    std = self.eta * DDPM('small').tables(process, timesteps).std
    return Rows(now, zero, after.alpha, np.sqrt(after.sigma**2 - std**2), std)

  @property
  def is_stochastic(self) -> bool:
    """Whether noise is drawn."""
    return self.eta > 0

  def perturb(self, x: Any, row: Rows, keys: Any) -> Any:
    """Adds the fresh share."""
    return _add_noise(x, row, keys) if self.eta else x


@dataclasses.dataclass(frozen=True)
class Euler(_OneCall):
  """x_s = x + (s - t) dx/dt, dx/dt = alpha'(t) x_0 + sigma'(t) x_1.

  On the straight schedule the same as DDIM. It may run in either direction.
  """

  def tables(self, process: Process, timesteps: Timesteps) -> Rows:
    """The rows.

    Raises:
      ValueError: a step would move alpha or sigma by more than their whole
        range, as where the schedule's slope is infinite.
    """
    now = process.moment(timesteps.now)
    span = timesteps.next - timesteps.now
    c_0, c_1 = span * now.alpha_dot, span * now.sigma_dot
    reach = np.maximum(np.abs(c_0), np.abs(c_1))
    bad = ~(reach <= 1 + 1e-6)
    if bad.any():
      i = int(np.argmax(bad))
      raise ValueError(
        f'sampler euler cannot step from t={timesteps.now[i]:g} to '
        f'{timesteps.next[i]:g} on {process.schedule}: the slope there, '
        f'{reach[i] / abs(span[i]):.3g}, would carry alpha or sigma out of '
        "[0, 1]; take more steps, schedule 'straight', or sampler 'ddim'."
      )
    one, zero = np.ones_like(span), np.zeros_like(span)
    return Rows(now, one, c_0, c_1, zero)


@dataclasses.dataclass(frozen=True)
class DDPM(_OneCall):
  """Draws x_s from q(x_s | x_t, x_0) at the estimate of x_0.

  With a = alpha(t) / alpha(s) and var = sigma(t)^2 - a^2 sigma(s)^2 (1 - a^2
  on variance-preserving schedules), the mean is alpha(s) x_0
  + a sigma(s)^2 / sigma(t) x_1, and the variance var ('large') or
  var sigma(s)^2 / sigma(t)^2 ('small'): arXiv 2006.11239, equations 6 and 7.

  The reference writes the mean as (x - var / sigma x_1) / a, which is equal
  and loses three digits of float32 in the first step, where a = 5e-4. As in
  the reference noise follows every step, so with 'large' the final *state* is
  noisy; what is returned by default is the last estimate of x_0.
  Only for a standard normal source.
  """

  variance: str = 'large'

  is_stochastic = True

  def __post_init__(self):
    if self.variance not in ('large', 'small'):
      raise ValueError(
        f"ddpm variance={self.variance!r} must be 'large' or 'small'."
      )

  def tables(self, process: Process, timesteps: Timesteps) -> Rows:
    """The rows.

    Raises:
      ValueError: a step that does not lead towards the data, or starts from
        it.
    """
    now, after = process.moment(timesteps.now), process.moment(timesteps.next)
    bad = (
      (timesteps.next > timesteps.now) | (after.alpha <= 0) | (now.sigma <= 0)
    )
    if bad.any():
      i = int(np.argmax(bad))
      raise ValueError(
        f'sampler ddpm steps from a larger to a smaller t but was asked to '
        f"go from t={timesteps.now[i]:g} to {timesteps.next[i]:g}; use 'ddim' "
        'or '
        "'euler'."
      )
    ratio = now.alpha / after.alpha
    variance = np.maximum(now.sigma**2 - (ratio * after.sigma) ** 2, 0)
    if self.variance == 'small':
      variance = variance * (after.sigma / now.sigma) ** 2
    c_1 = ratio * after.sigma**2 / now.sigma
    zero = np.zeros_like(ratio)
    return Rows(now, zero, after.alpha, c_1, np.sqrt(variance))

  def perturb(self, x: Any, row: Rows, keys: Any) -> Any:
    """Adds the noise of the posterior."""
    return _add_noise(x, row, keys)


def _add_noise(x, row, keys):
  """x + std noise, the noise of an example from its own key."""
  draws = noise.noise_like(keys, x)
  return jax.tree.map(lambda a, e: a + row.std * e, x, draws)


SAMPLERS = {
  'ddim': DDIM,
  'ddpm': DDPM,
  'euler': Euler,
  'heun': Heun,
  'rk45': RK45,
  'dpm_singlestep': Singlestep,
  'dpm_multistep': Multistep,
}
