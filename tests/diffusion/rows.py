"""Runs a sampler's tables in float64, without jit: hundreds of runs a second.

The same rows and the same `step` as in sampling.sample, whose loop is compared
with this one in test_dpm_solver.py.
"""

import dataclasses

import jax
import numpy as np

from pix2seqd_jax.diffusion import logsnr
from pix2seqd_jax.diffusion import sampler as sampler_lib
from pix2seqd_jax.diffusion.process import TARGETS, Endpoints
from pix2seqd_jax.types import Timesteps


@dataclasses.dataclass(frozen=True)
class Continuous:
  """A variance-preserving schedule given by log alpha; no slopes."""

  name: str

  def _log_alpha(self, t):
    if self.name == 'linear':  # beta from .1 to 20: score SDE, DPM-Solver
      return -0.25 * t**2 * 19.9 - 0.05 * t
    angle = lambda u: (u + 0.008) / 1.008 * np.pi / 2
    return np.log(np.cos(angle(t)) / np.cos(angle(0.0)))

  def alpha(self, t):
    return np.exp(self._log_alpha(np.asarray(t, np.float64)))

  def sigma(self, t):
    return np.sqrt(-np.expm1(2 * self._log_alpha(np.asarray(t, np.float64))))

  def alpha_dot(self, t):
    return np.full(np.shape(t), np.nan)

  sigma_dot = alpha_dot


def as_timesteps(times):
  times = np.asarray(times, np.float64)
  return Timesteps(times[:-1], times[1:])


def spaced(kind, process, num, start=1.0, end=1e-3):
  """num + 1 times: 'time_uniform', 'time_quadratic' (or 't2'), 'logSNR'."""
  if kind == 'time_uniform':
    return np.linspace(start, end, num + 1)
  if kind in ('time_quadratic', 't2'):
    return np.linspace(start**0.5, end**0.5, num + 1) ** 2
  ends = logsnr.half_logsnr(process, [start, end])
  inner = logsnr.time_of(process, np.linspace(*ends, num + 1)[1:-1])
  return np.array([start, *inner, end])


def endpoints(process, x, value, moment):
  """Process.endpoints for NumPy: its shape hints are for JAX arrays."""
  c0, c1 = TARGETS[process.target](moment)
  determinant = moment.alpha * c1 - moment.sigma * c0

  def solve(a, b):
    return lambda x, v: (a * x + b * v) / determinant

  if process.target == 'x0':  # even where sigma = 0
    return Endpoints(value, None)
  x_0 = jax.tree.map(solve(c1, -moment.sigma), x, value)
  return Endpoints(x_0, jax.tree.map(solve(-c0, moment.alpha), x, value))


def run(sampler, process, timesteps, x, denoise):
  """-> (the last Carry, the times of the calls); denoise(x, t) -> value."""
  calls = []

  def predict(x, moment, previous):
    calls.append(float(moment.t))
    return endpoints(process, x, denoise(x, moment.t), moment)

  memory = jax.tree.map(np.asarray, sampler.init(x))
  carry = sampler_lib.Carry(x, jax.tree.map(np.zeros_like, x), memory)
  for part, rows in sampler_lib.plan(sampler, process, timesteps):
    for i in range(sampler_lib.num_rows(rows)):
      row = jax.tree.map(lambda c, i=i: np.asarray(c, np.float64)[i], rows)
      carry = part.step(predict, carry, row, None)
  return carry, np.array(calls)
