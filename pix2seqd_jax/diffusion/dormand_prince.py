"""RK45: the adaptive method of Dormand and Prince, of fifth order.

"A family of embedded Runge-Kutta formulae", J. Comp. Appl. Math. 6 (1980); as
the sampler of a probability-flow ODE, Song et al., arXiv 2011.13456, D.4.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from pix2seqd_jax.diffusion.process import Endpoints, Moment, Process
from pix2seqd_jax.diffusion.sampler import Carry
from pix2seqd_jax.types import Timesteps

# Stage i is at t + NODES[i] h and starts from x + h sum_j STAGES[i, j] k_j. The
# last is the answer itself, and the first stage of what follows.
NODES = np.array([0, 1 / 5, 3 / 10, 4 / 5, 8 / 9, 1, 1])
STAGES = np.array(
  [
    [0] * 7,
    [1 / 5] + [0] * 6,
    [3 / 40, 9 / 40] + [0] * 5,
    [44 / 45, -56 / 15, 32 / 9] + [0] * 4,
    [19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729, 0, 0, 0],
    [9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656, 0, 0],
    [35 / 384, 0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84, 0],
  ]
)
# The embedded answer of fourth order, from which the error is estimated.
FOURTH = np.array(
  [5179 / 57600, 0, 7571 / 16695, 393 / 640, -92097 / 339200, 187 / 2100]
  + [1 / 40]
)
ERROR = STAGES[6] - FOURTH
NEW_CALLS = 6  # of an attempt: the first stage is known

FIRST_SPAN = 0.1
SAFETY, LEAST_FACTOR, MOST_FACTOR = 0.9, 0.2, 5.0
MAX_SLOPE = 1e3  # of alpha and sigma; beyond, no step would be small enough


class Effort(NamedTuple):
  """What it took, for each example: the memory of an RK45 run.

  Attributes:
    calls: int32 [b], calls of the network that this example needed.
    rejected: int32 [b], attempts of it whose error was too large.
    unfinished: int32 [b], intervals of it that max_steps cut short.
    span: [b], |h| that it would try next.
    batch_calls: int32, calls that were made, for the whole batch.
  """

  calls: Any
  rejected: Any
  unfinished: Any
  span: Any
  batch_calls: Any


class Rows(NamedTuple):
  """The ends of an interval."""

  now: Moment
  next: Moment


class _Point(NamedTuple):
  """How far each example has come."""

  t: Any
  x: Any
  ends: Endpoints
  slope: Any
  effort: Effort
  attempts: Any


@dataclasses.dataclass(frozen=True)
class RK45:
  """dx/dt = alpha' x_0 + sigma' x_1 with steps as large as the error allows.

  Each interval of timesteps is crossed in steps that each example chooses for
  itself, so that a sample does not depend on its batch; the batch goes on
  until its slowest example has arrived. The timesteps only say where to land:
  one step (`sample.steps=1`) is the cheapest. Intervals must join for the
  solution to be one curve (td = 0).

  An attempt costs 6 calls, and each interval one more. What max_steps cuts
  short is finished by one DDIM step from the last accepted point, and counted
  in `Effort.unfinished`: nothing can be raised under jit. See `with_memory`
  in sampling.sample. No gradient flows backwards through it.

  Attributes:
    rtol, atol: the root of the mean square over an example's elements of
      error / (atol + rtol |x|) is at most 1 in every step. float32 carries no
      tolerance below about 1e-6.
    max_steps: attempts in an interval, rejected ones too.
  """

  rtol: float | int = 1e-3
  atol: float | int = 1e-4
  max_steps: int = 100

  def __post_init__(self):
    if not (0 < self.rtol < 1 and 0 < self.atol < 1):
      raise ValueError(
        f'rk45 rtol={self.rtol!r} and atol={self.atol!r} must lie in (0, 1).'
      )
    if not (isinstance(self.max_steps, int) and self.max_steps >= 1):
      raise ValueError(
        f'rk45 max_steps={self.max_steps!r} must be an integer of at least 1.'
      )

  def init(self, x: Any) -> Effort:
    """Nothing done yet."""
    leaf = jax.tree.leaves(x)[0]
    none = jnp.zeros(leaf.shape[:1], jnp.int32)
    span = jnp.full(leaf.shape[:1], FIRST_SPAN, leaf.dtype)
    return Effort(none, none, none, span, jnp.zeros((), jnp.int32))

  def plan(
    self, process: Process, timesteps: Timesteps
  ) -> tuple[tuple[Any, Rows], ...]:
    """One part.

    Raises:
      ValueError: the slope of the schedule is (nearly) infinite somewhere.
    """
    rows = Rows(process.moment(timesteps.now), process.moment(timesteps.next))
    for m in rows:
      slopes = np.maximum(np.abs(m.alpha_dot), np.abs(m.sigma_dot))
      bad = ~(slopes <= MAX_SLOPE)
      if bad.any():
        i = int(np.argmax(bad))
        ends = 'end=0.001' if m.t[i] < 0.5 else 'start=0.999'
        raise ValueError(
          f'sampler rk45 follows the slope of {process.schedule}, which is '
          f'{slopes[i]:.3g} at t={m.t[i]:g}; set sample.timestep_spacing_args '
          f'{ends}, or '
          "sampler 'heun'."
        )
    return ((_Interval(self, process), rows),)

  def times(self, process: Process, timesteps: Timesteps) -> np.ndarray:
    """The ends of the intervals; all in between may be asked for."""
    return np.concatenate([timesteps.now, timesteps.next])

  def evaluations(self, timesteps: Timesteps) -> int:
    """The most that there can be."""
    return len(timesteps.now) * (1 + NEW_CALLS * self.max_steps)


class _Interval:
  """Crosses one interval of the timesteps."""

  def __init__(self, settings: RK45, process: Process):
    self._settings, self._process = settings, process

  def step(
    self, predict: Callable, carry: Carry, row: Rows, keys: Any
  ) -> Carry:
    """Attempts until all have arrived, or max_steps."""
    ends = predict(carry.x, row.now, carry.x_0)
    effort = carry.memory
    start = _Point(
      jnp.broadcast_to(row.now.t, keys.shape),
      carry.x,
      ends,
      self._process.velocity(ends, row.now),
      effort._replace(
        calls=effort.calls + 1, batch_calls=effort.batch_calls + 1
      ),
      jnp.zeros((), jnp.int32),
    )
    stop = row.next.t

    def under_way(point):
      return (point.attempts < self._settings.max_steps) & jnp.any(
        point.t != stop
      )

    end = jax.lax.while_loop(
      under_way, lambda point: self._attempt(predict, point, stop), start
    )
    late = end.t != stop

    def finish(x, x_0, x_1):
      jump = row.next.alpha * x_0 + row.next.sigma * x_1
      return jnp.where(_wide(late, x), jump, x)

    x = jax.tree.map(finish, end.x, *end.ends)
    effort = end.effort._replace(unfinished=end.effort.unfinished + late)
    return Carry(x, end.ends.x_0, effort)

  def _attempt(self, predict, point: _Point, stop) -> _Point:
    """One step of each example that has not arrived; accepted or not."""
    left = stop - point.t
    effort, active = point.effort, left != 0
    lands = jnp.abs(left) <= effort.span
    h = jnp.where(lands, left, jnp.sign(left) * effort.span)
    t = jnp.where(lands, stop, point.t + h)
    x, ends, slopes = self._stages(predict, point, h, t)
    norm = self._error(point.x, x, h, slopes)
    good = active & (norm <= 1)

    def keep(new, old):
      return jnp.where(_wide(good, new), new, old)

    factor = jnp.clip(
      SAFETY * jnp.maximum(norm, 1e-10) ** -0.2, LEAST_FACTOR, MOST_FACTOR
    )
    span = jnp.abs(h) * factor
    # Landing early says nothing against the longer step that was meant.
    span = jnp.where(good, jnp.maximum(span, effort.span * lands), span)
    effort = Effort(
      effort.calls + NEW_CALLS * active,
      effort.rejected + (active & ~good),
      effort.unfinished,
      jnp.where(active, span, effort.span),
      effort.batch_calls + NEW_CALLS,
    )
    last = jax.tree.map(lambda k: k[-1], slopes)
    return _Point(
      keep(t, point.t),
      *jax.tree.map(keep, (x, ends, last), (point.x, point.ends, point.slope)),
      effort,
      point.attempts + 1,
    )

  def _stages(self, predict, point: _Point, h, t):
    """-> (x at t, its endpoints, all slopes [7, b, ...]); the network is
    traced once for the six."""
    dtype = h.dtype
    slopes = jax.tree.map(
      lambda k: jnp.zeros((7, *k.shape), k.dtype).at[0].set(k), point.slope
    )

    def stage(state, row):
      slopes, _, _ = state
      number, node, weights = row
      x = jax.tree.map(
        lambda x, k: x + _wide(h, x) * jnp.tensordot(weights, k, 1),
        point.x,
        slopes,
      )
      # The ends to the last digit.
      moment = self._process.moment(jnp.where(node == 1, t, point.t + node * h))
      ends = predict(x, moment, point.ends.x_0)
      slope = self._process.velocity(ends, moment)
      slopes = jax.tree.map(lambda k, v: k.at[number].set(v), slopes, slope)
      return (slopes, x, ends), None

    rows = (
      jnp.arange(1, 7),
      jnp.asarray(NODES[1:], dtype),
      jnp.asarray(STAGES[1:], dtype),
    )
    state = (slopes, point.x, point.ends)
    (slopes, x, ends), _ = jax.lax.scan(stage, state, rows)
    return x, ends, slopes

  def _error(self, before, after, h, slopes):
    """The norm of each example's error; infinite where it is no number."""
    rtol, atol = self._settings.rtol, self._settings.atol
    weights = jnp.asarray(ERROR, h.dtype)

    def squares(x, y, k):
      error = _wide(h, x) * jnp.tensordot(weights, k, 1)
      scale = atol + rtol * jnp.maximum(jnp.abs(x), jnp.abs(y))
      return jnp.square(error / scale).reshape(x.shape[0], -1).sum(1)

    total = sum(jax.tree.leaves(jax.tree.map(squares, before, after, slopes)))
    size = sum(x[0].size for x in jax.tree.leaves(before))
    norm = jnp.sqrt(total / size)
    return jnp.where(jnp.isfinite(norm), norm, jnp.inf)


def _wide(v, x):
  """[b] -> [b, 1, ..., 1]."""
  return v.reshape(v.shape + (1,) * (x.ndim - v.ndim))
