"""Schedules: alpha(t) and sigma(t) of x_t = alpha x_0 + sigma x_1.

t = 0 is data, t = 1 is the source. NumPy (and Python numbers) in, float64 out:
the tables of samplers. JAX in, JAX out in float32 or in t's own wider type:
training, under jit. `*_dot` are derivatives with respect to t.

All but `Straight` keep alpha^2 + sigma^2 = 1 and are given by
gamma = alpha^2. See Chen, "On the Importance of Noise Scheduling for Diffusion
Models", arXiv 2301.10972, for the families with (start, end, tau).
"""

import dataclasses
import functools
import math

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Real

Values = Float[np.ndarray, '*b'] | Float[Array, '*b'] | np.floating
Time = Real[np.ndarray, '*b'] | Real[Array, '*b'] | np.number | float | int

# The reference clips gamma here, so that alpha can be divided by.
MIN_GAMMA = 1e-9
# Stable Diffusion and DDPM have this many discrete steps.
NUM_TABULATED = 1000
# alpha(1) of the tables with `zero_snr`: as good as 0, and its log is finite.
_LEAST_ALPHA = 1e-8
# The plain cosine's angle grows at this rate. (A Python float: a NumPy one
# would turn float32 under jit into float64 where that is on.)
_COSINE_RATE = math.pi / 2 / 1.00025


def _prepare(t):
  """(namespace, t in at least float32; float64 for NumPy)."""
  if isinstance(t, (np.ndarray, np.generic, float, int)):
    return np, np.asarray(t, np.float64)
  return jnp, t.astype(jnp.promote_types(t.dtype, jnp.float32))


class _Gamma:
  """What follows from gamma: alpha = sqrt(gamma), sigma = sqrt(1 - gamma)."""

  def gamma(self, t: Time) -> Values:
    """alpha(t)^2."""
    xp, t = _prepare(t)
    return self._gamma(xp, t)

  def alpha(self, t: Time) -> Values:
    """The fraction of x_0 in x_t."""
    xp, t = _prepare(t)
    return xp.sqrt(self._gamma(xp, t))

  def sigma(self, t: Time) -> Values:
    """The fraction of x_1 in x_t."""
    xp, t = _prepare(t)
    return xp.sqrt(1 - self._gamma(xp, t))

  def alpha_dot(self, t: Time) -> Values:
    """d alpha / dt; that of the formula where gamma is clipped."""
    xp, t = _prepare(t)
    return self._gamma_dot(xp, t) / (2 * xp.sqrt(self._gamma(xp, t)))

  def sigma_dot(self, t: Time) -> Values:
    """d sigma / dt; infinite at t = 0 for the schedules given by gamma."""
    xp, t = _prepare(t)
    return -self._gamma_dot(xp, t) / (2 * xp.sqrt(1 - self._gamma(xp, t)))


@dataclasses.dataclass(frozen=True)
class Cosine(_Gamma):
  """gamma = cos^2(((t + .0002) / 1.00025) pi / 2): Pix2Seq-D's.

  Never clipped: gamma(1) = 6.2e-9. Written from both ends, so that float32
  keeps alpha near t = 1 and sigma near t = 0 to full precision (the
  reference's float32 is off by 2e-3 of alpha at t = 1).
  """

  def _gamma(self, xp, t):
    return self.alpha(t) ** 2

  def alpha(self, t: Time) -> Values:
    """cos of the angle."""
    xp, t = _prepare(t)
    # sin(left + rest), rest for the missing 5e-5 of t, by the addition theorem:
    # XLA would fold (1 - t) + 5e-5 into 1.00005 - t and round it.
    left, rest = _COSINE_RATE * (1 - t), _COSINE_RATE * 5e-5
    return xp.sin(left) * math.cos(rest) + xp.cos(left) * math.sin(rest)

  def sigma(self, t: Time) -> Values:
    """sin of the angle."""
    xp, t = _prepare(t)
    return xp.sin(_COSINE_RATE * (t + 2e-4))

  def alpha_dot(self, t: Time) -> Values:
    """d alpha / dt."""
    return -_COSINE_RATE * self.sigma(t)

  def sigma_dot(self, t: Time) -> Values:
    """d sigma / dt."""
    return _COSINE_RATE * self.alpha(t)


@dataclasses.dataclass(frozen=True)
class CosineTau(_Gamma):
  """gamma = (cos^{2 tau}(u pi/2) - y_end) / (y_start - y_end).

  u runs from start to end as t runs from 0 to 1; y are the values of the
  power there. Clipped to [1e-9, 1].
  """

  start: float | int = 0.0
  end: float | int = 1.0
  tau: float | int = 1.0

  def __post_init__(self):
    if not 0 <= self.start < self.end <= 1 or self.tau <= 0:
      raise ValueError(
        f'cosine schedule start={self.start}, end={self.end}, '
        f'tau={self.tau} must have 0 <= start < end <= 1 and tau > 0.'
      )

  def _power(self, xp, u, exponent):
    # cos(pi/2) is -4e-8 in float32, and its power would be NaN.
    return xp.maximum(xp.cos(u * (np.pi / 2)), 0) ** exponent

  def _gamma(self, xp, t):
    top, bottom = self._ends()
    u = self.start + t * (self.end - self.start)
    value = (self._power(xp, u, 2 * self.tau) - bottom) / (top - bottom)
    return xp.clip(value, MIN_GAMMA, 1)

  def _gamma_dot(self, xp, t):
    top, bottom = self._ends()
    rate = (self.end - self.start) * np.pi / 2
    u = self.start + t * (self.end - self.start)
    slope = self._power(xp, u, 2 * self.tau - 1) * xp.sin(u * (np.pi / 2))
    return -2 * self.tau * rate * slope / (top - bottom)

  def _ends(self):
    return tuple(
      float(self._power(np, u, 2 * self.tau)) for u in (self.start, self.end)
    )


@dataclasses.dataclass(frozen=True)
class Sigmoid(_Gamma):
  """gamma = (s(end/tau) - s(u/tau)) / (s(end/tau) - s(start/tau)).

  s is the logistic function and u runs from start to end. Clipped to
  [1e-9, 1].
  """

  start: float | int = -3.0
  end: float | int = 3.0
  tau: float | int = 1.0

  def __post_init__(self):
    if not self.start < self.end or self.tau <= 0:
      raise ValueError(
        f'sigmoid schedule start={self.start}, end={self.end}, '
        f'tau={self.tau} must have start < end and tau > 0.'
      )

  def _logistic(self, xp, t):
    u = (self.start + t * (self.end - self.start)) / self.tau
    return 1 / (1 + xp.exp(-u))

  def _range(self):
    return tuple(float(self._logistic(np, np.float64(t))) for t in (1, 0))

  def _gamma(self, xp, t):
    last, first = self._range()
    value = (last - self._logistic(xp, t)) / (last - first)
    return xp.clip(value, MIN_GAMMA, 1)

  def _gamma_dot(self, xp, t):
    last, first = self._range()
    value = self._logistic(xp, t)
    rate = (self.end - self.start) / self.tau
    return -rate * value * (1 - value) / (last - first)


@dataclasses.dataclass(frozen=True)
class LinearGamma(_Gamma):
  """gamma = 1 - t, clipped to [1e-9, 1]."""

  def _gamma(self, xp, t):
    return xp.clip(1 - t, MIN_GAMMA, 1)

  def _gamma_dot(self, xp, t):
    return xp.zeros_like(t) - 1


@dataclasses.dataclass(frozen=True)
class Log(_Gamma):
  """gamma = (ln end - ln u) / (ln end - ln start), clipped to [0, 1].

  u runs from start to end, both positive; `reverse` swaps them. gamma(1) is
  exactly 0.
  """

  start: float | int = 1.0
  end: float | int = 100.0
  reverse: bool = False

  def __post_init__(self):
    if not 0 < self.start < self.end:
      raise ValueError(
        f'log schedule start={self.start}, end={self.end} must have '
        '0 < start < end.'
      )

  def _ends(self):
    ends = (self.start, self.end)
    return ends[::-1] if self.reverse else ends

  def _gamma(self, xp, t):
    start, end = self._ends()
    u = start + t * (end - start)
    value = (math.log(end) - xp.log(u)) / (math.log(end) - math.log(start))
    return xp.clip(value, 0, 1)

  def _gamma_dot(self, xp, t):
    start, end = self._ends()
    u = start + t * (end - start)
    return -(end - start) / u / (math.log(end) - math.log(start))


class _Tabulated(_Gamma):
  """gamma as running products of 1 - beta, at t = (i + 1) / N for step i.

  So the integer timestep i of DDPM and diffusers is t = (i + 1) / N to the
  last digit, t = 0 is data itself (gamma = 1, which the tables lack), and
  between them ln gamma is linear.
  """

  def time_of(self, step: Time) -> Values:
    """The t of a discrete timestep 0 .. N - 1."""
    _, step = _prepare(step)
    return (step + 1) / NUM_TABULATED

  def step_of(self, t: Time) -> Values:
    """The discrete timestep of t, not rounded; -1 at t = 0."""
    _, t = _prepare(t)
    return t * NUM_TABULATED - 1

  def _log_gamma(self, xp, t):
    table = _log_table(self)
    place = xp.clip(t, 0, 1) * NUM_TABULATED
    low = xp.clip(xp.floor(place), 0, NUM_TABULATED - 1).astype(np.int32)
    slopes = xp.asarray(np.diff(table), t.dtype)[low]
    values = xp.asarray(table[:-1], t.dtype)[low]
    return values + (place - low) * slopes, slopes * NUM_TABULATED

  def _gamma(self, xp, t):
    return xp.exp(self._log_gamma(xp, t)[0])

  def _gamma_dot(self, xp, t):
    value, slope = self._log_gamma(xp, t)
    return xp.exp(value) * slope

  def sigma(self, t: Time) -> Values:
    """sqrt(1 - gamma), without cancellation near t = 0."""
    xp, t = _prepare(t)
    return xp.sqrt(-xp.expm1(self._log_gamma(xp, t)[0]))


@dataclasses.dataclass(frozen=True)
class DDPM(_Tabulated):
  """beta linear from 1e-4 to .02 in 1,000 steps (arXiv 2006.11239).

  `zero_snr` rescales alpha so that nothing of x_0 is left at t = 1 (arXiv
  2305.08891, algorithm 1); predict 'v' then.
  """

  start: float | int = 1e-4
  end: float | int = 0.02
  zero_snr: bool = False

  def __post_init__(self):
    _check_betas(self)

  def betas(self) -> np.ndarray:
    """float64 [1000]."""
    return np.linspace(self.start, self.end, NUM_TABULATED)


@dataclasses.dataclass(frozen=True)
class StableDiffusion(_Tabulated):
  """sqrt(beta) linear from sqrt(.00085) to sqrt(.012) in 1,000 steps.

  Latent diffusion's table (arXiv 2112.10752), diffusers' 'scaled_linear'.
  `zero_snr` as in DDPM.
  """

  start: float | int = 0.00085
  end: float | int = 0.012
  zero_snr: bool = False

  def __post_init__(self):
    _check_betas(self)

  def betas(self) -> np.ndarray:
    """float64 [1000]."""
    roots = np.linspace(self.start**0.5, self.end**0.5, NUM_TABULATED)
    return roots**2


def _check_betas(schedule) -> None:
  if not 0 < schedule.start <= schedule.end < 1:
    raise ValueError(
      f'betas start={schedule.start}, end={schedule.end} must have '
      '0 < start <= end < 1.'
    )


@functools.cache
def _log_table(schedule: _Tabulated) -> np.ndarray:
  """ln gamma at t = 0, 1/N, ..., 1: float64 [N + 1]."""
  table = np.cumsum(np.log1p(-schedule.betas()))
  if schedule.zero_snr:
    alpha = np.exp(table / 2)
    alpha = (alpha - alpha[-1]) * alpha[0] / (alpha[0] - alpha[-1])
    table = 2 * np.log(np.maximum(alpha, _LEAST_ALPHA))
  return np.concatenate([[0.0], table])


@dataclasses.dataclass(frozen=True)
class Straight:
  """alpha = 1 - t, sigma = t: rectified flow, where DDIM is Euler."""

  def gamma(self, t: Time) -> Values:
    """alpha(t)^2."""
    return self.alpha(t) ** 2

  def alpha(self, t: Time) -> Values:
    """The fraction of x_0 in x_t."""
    return 1 - _prepare(t)[1]

  def sigma(self, t: Time) -> Values:
    """The fraction of x_1 in x_t."""
    return _prepare(t)[1]

  def alpha_dot(self, t: Time) -> Values:
    """-1."""
    xp, t = _prepare(t)
    return xp.zeros_like(t) - 1

  def sigma_dot(self, t: Time) -> Values:
    """1."""
    xp, t = _prepare(t)
    return xp.zeros_like(t) + 1


SCHEDULES = {
  'cosine': Cosine,
  'cosine_tau': CosineTau,
  'sigmoid': Sigmoid,
  'linear_gamma': LinearGamma,
  'log': Log,
  'ddpm': DDPM,
  'stable_diffusion': StableDiffusion,
  'straight': Straight,
}
