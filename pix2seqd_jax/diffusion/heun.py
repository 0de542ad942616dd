"""Heun's method: two calls of the network a step, second order."""

import dataclasses
import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from pix2seqd_jax.diffusion.process import Moment, Process
from pix2seqd_jax.diffusion.sampler import Carry
from pix2seqd_jax.types import Timesteps


class Rows(NamedTuple):
  """A step from `now` to `next`; all [n]."""

  now: Moment
  next: Moment
  half_alpha: Any  # half of what alpha gains
  half_sigma: Any


class _First:
  """x_s = alpha(s) x_0 + sigma(s) x_1: DDIM, and Heun's first guess."""

  calls = 1

  def step(
    self, predict: Callable, carry: Carry, row: Rows, keys: Any
  ) -> Carry:
    """One call."""
    ends = predict(carry.x, row.now, carry.x_0)
    return Carry(_mix(row.next, ends), ends.x_0, carry.memory)


class _Second:
  """The first guess, and half of the change of both endpoints there."""

  calls = 2

  def step(
    self, predict: Callable, carry: Carry, row: Rows, keys: Any
  ) -> Carry:
    """Two calls."""
    first = predict(carry.x, row.now, carry.x_0)
    guess = _mix(row.next, first)
    second = predict(guess, row.next, first.x_0)

    def correct(x, a, b, c, d):
      return x + row.half_alpha * (c - a) + row.half_sigma * (d - b)

    x = jax.tree.map(correct, guess, *first, *second)
    return Carry(x, second.x_0, carry.memory)


@dataclasses.dataclass(frozen=True)
class Heun:
  """The trapezoidal rule for dx = x_0 d(alpha) + x_1 d(sigma).

  That is Heun's method on dx/dt = alpha' x_0 + sigma' x_1, but for slopes in
  the place of differences, so that it holds where they are infinite, and is
  exact, as DDIM is, where the estimates do not change. On sigma / alpha as the
  clock it is the sampler of Karras et al., arXiv 2206.00364, algorithm 1;
  and as there, a step that lands on an end of the path (t = 0, where x_1 is
  divided by sigma, or t = 1) is of first order and one call: 2 T - 1 in all.
  It may run in either direction. With td the second call is made at the time
  where the step lands.
  """

  def init(self, x: Any) -> None:
    """No history."""
    return None

  def plan(
    self, process: Process, timesteps: Timesteps
  ) -> tuple[tuple[Any, Rows], ...]:
    """Runs of steps of second and of first order."""
    now, after = process.moment(timesteps.now), process.moment(timesteps.next)
    rows = Rows(
      now,
      after,
      (after.alpha - now.alpha) / 2,
      (after.sigma - now.sigma) / 2,
    )
    second = _is_inside(timesteps.next)
    starts = [0, *(np.flatnonzero(np.diff(second)) + 1), len(second)]
    return tuple(
      (
        _Second() if second[i] else _First(),
        jax.tree.map(lambda column, i=i, j=j: column[i:j], rows),
      )
      for i, j in itertools.pairwise(starts)
    )

  def times(self, process: Process, timesteps: Timesteps) -> np.ndarray:
    """Both of each step, but for where it lands on an end."""
    return np.concatenate(
      [timesteps.now, timesteps.next[_is_inside(timesteps.next)]]
    )

  def evaluations(self, timesteps: Timesteps) -> int:
    """2 a step, 1 where it lands on an end."""
    return len(timesteps.now) + int(_is_inside(timesteps.next).sum())


def _is_inside(t) -> np.ndarray:
  return (np.asarray(t) > 0) & (np.asarray(t) < 1)


def _mix(moment, ends):
  def leaf(x_0, x_1):
    return moment.alpha * x_0 + moment.sigma * x_1

  return jax.tree.map(leaf, *ends)
