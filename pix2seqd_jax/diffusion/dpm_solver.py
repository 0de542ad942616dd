"""DPM-Solver++ in data prediction, orders 1 to 3 (arXiv 2211.01095).

With lambda = log(alpha / sigma) as the clock, x / sigma moves by
d(x / sigma) / d lambda = e^lambda x_0, whatever the schedule. Over an interval
of length h the integral is exact but for the change of the estimate D of x_0,
which is taken from evaluations inside the interval (singlestep, with stages
as in a Runge-Kutta method) or from those before it (multistep):

    x_t = sigma_t / sigma_s x_s - alpha_t f1 D_s + alpha_t f2 D' - ...    (8)
    f1 = expm1(-h),  f2 = f1 / h + 1,  f3 = f2 / h - 1/2

Every stage is a linear combination of x_s and the estimates, so a row of the
tables is a small matrix. No coefficient depends on the scale of the source:
PDM's image and map, whose noises differ, share them.

An interval that begins at alpha = 0 or ends at sigma = 0 is infinitely long
in lambda; there, the step is of first order (and exact in x, DDIM's).
"""

import dataclasses
import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from pix2seqd_jax.diffusion import logsnr
from pix2seqd_jax.diffusion.process import Moment, Process
from pix2seqd_jax.diffusion.sampler import Carry
from pix2seqd_jax.types import Timesteps

SOLVERS = ('dpmsolver', 'taylor', 'midpoint')


class Rows(NamedTuple):
  """`mix[i]` makes stage i + 1 of x and the estimates so far."""

  nodes: tuple[Moment, ...]  # where the network is called
  mix: Any  # [n, stages, 1 + estimates]


class _Nodes(NamedTuple):
  """The schedule at the ends and inner nodes of the intervals: [..., k]."""

  t: np.ndarray
  alpha: np.ndarray
  sigma: np.ndarray
  logsnr: np.ndarray


def _at(process: Process, t) -> _Nodes:
  m = process.moment(np.asarray(t, np.float64))
  return _Nodes(m.t, m.alpha, m.sigma, logsnr.half_logsnr(process, m.t))


def _phi(h):
  """(f1, f2, f3) of h > 0; the limit for h = inf."""
  f1 = np.expm1(-h)
  f2 = f1 / h + 1
  return f1, f2, f2 / h - 0.5


def _combine(row, x, estimates):
  """row[0] x + row[1] estimates[0] + ..., leaf by leaf."""

  def leaf(x, *estimates):
    return sum((row[i + 1] * d for i, d in enumerate(estimates)), row[0] * x)

  return jax.tree.map(leaf, x, *estimates)


def _check_order(name: str, order: Any, solver: str) -> None:
  if order not in (1, 2, 3) or solver not in SOLVERS:
    raise ValueError(
      f'{name}: order={order!r} must be 1, 2 or 3, and solver={solver!r} one '
      f'of {SOLVERS}.'
    )


def _contiguous(name: str, timesteps: Timesteps) -> np.ndarray:
  """now and the last next: [n + 1] times that fall.

  Raises:
    ValueError: a step does not land where the next begins, or leads up.
  """
  now, after = (np.asarray(g, np.float64) for g in timesteps)
  if not np.allclose(after[:-1], now[1:], rtol=0, atol=1e-12):
    i = int(np.argmax(np.abs(after[:-1] - now[1:]) > 1e-12))
    raise ValueError(
      f'{name} uses its own estimates at times before, but step {i} of the '
      f'timesteps lands on t={after[i]:g} while the next begins at '
      f't={now[i + 1]:g};'
      ' set sample.td=0.'
    )
  times = np.append(now, after[-1])
  if not (np.diff(times) < 0).all():
    raise ValueError(f'{name} steps from larger to smaller t, but got {times}.')
  return times


def fast_blocks(num_steps: int, order: int) -> tuple[int, ...]:
  """The orders of the "fast" plan: as many evaluations as steps.

  [3, ..., 3, 2, 1], [3, ..., 3, 1] or [3, ..., 3, 2], by num_steps mod 3
  (pdm.md 5.2; arXiv 2206.00927, appendix D.2); [2, ..., 2 (, 1)] for order 2.
  """
  if order == 3 and num_steps % 3 == 0:
    return (3,) * (num_steps // 3 - 1) + (2, 1)
  rest = num_steps % order
  return (order,) * (num_steps // order) + ((rest,) if rest else ())


@dataclasses.dataclass(frozen=True)
class Singlestep:
  """DPM-Solver++ 1S, 2S, 3S: blocks of as many timesteps as the order.

  Attributes:
    order: of the blocks.
    blocks: 'fast', the plan that spends the rows to the last (fast_blocks);
      'fixed', blocks of `order` alone; or the orders themselves.
    inner: where a block's inner nodes lie: on the 'timesteps' (as U-ViT
      and PDM), or at equal steps of 'logsnr' (the paper's r1 = 1/3, r2 = 2/3).
    solver: how the last stage uses the estimates: 'dpmsolver' (the paper's),
      'taylor', or diffusers' 'midpoint', which differs in 3S's second stage.
  """

  order: int = 3
  blocks: str | tuple[int, ...] = 'fast'
  inner: str = 'timesteps'
  solver: str = 'dpmsolver'

  def __post_init__(self):
    _check_order('dpm_singlestep', self.order, self.solver)
    if self.inner not in ('timesteps', 'logsnr'):
      raise ValueError(
        f"dpm_singlestep: inner={self.inner!r} must be 'timesteps' or 'logsnr'."
      )
    named = self.blocks in ('fast', 'fixed')
    if not named and (
      isinstance(self.blocks, str) or not set(self.blocks) <= {1, 2, 3}
    ):
      raise ValueError(
        f"dpm_singlestep: blocks={self.blocks!r} must be 'fast', 'fixed' or a "
        'tuple of orders 1, 2, 3.'
      )

  def init(self, x: Any) -> None:
    """No history."""
    return None

  def evaluations(self, timesteps: Timesteps) -> int:
    """One call of the network a row of the timesteps."""
    return len(timesteps.now)

  def times(self, process: Process, timesteps: Timesteps) -> np.ndarray:
    """All nodes at which the network is called, in order."""
    return np.concatenate(
      [t[:-1] for t in self._block_times(process, timesteps)]
    )

  def plan(
    self, process: Process, timesteps: Timesteps
  ) -> tuple[tuple['_Block', Rows], ...]:
    """Runs of blocks of one order, each with its rows."""
    blocks = self._block_times(process, timesteps)
    parts = []
    for size, run in itertools.groupby(blocks, len):
      nodes = _at(process, np.stack(list(run)))  # [n, order + 1]
      order = size - 1
      mix = _STAGES[order](nodes, self.solver)
      inner = [process.moment(nodes.t[:, i]) for i in range(order)]
      parts.append((_Block(order), Rows(tuple(inner), mix)))
    return tuple(parts)

  def _block_times(self, process, timesteps) -> list[np.ndarray]:
    """The nodes of each block: [order + 1] falling times."""
    times = _contiguous('dpm_singlestep', timesteps)
    length = logsnr.half_logsnr(process, times[[0, -1]])
    orders = self._orders(len(times) - 1, *np.isinf(length))
    ends = np.cumsum([0, *orders])
    nodes = [times[a : b + 1] for a, b in itertools.pairwise(ends)]
    if self.inner == 'logsnr':
      nodes = [_evenly(process, t) if len(t) > 2 else t for t in nodes]
    return nodes

  def _orders(self, num, from_source, to_data) -> tuple[int, ...]:
    """The orders of the blocks; 1 where an interval is infinitely long."""
    rest = num - 1 if from_source and num > 1 else num
    if self.blocks == 'fast':
      orders = fast_blocks(rest, self.order)
    elif self.blocks == 'fixed':
      orders = (self.order,) * (rest // self.order)
    else:
      orders = tuple(self.blocks)
    if sum(orders) != rest:
      raise ValueError(
        f'dpm_singlestep: blocks={self.blocks!r} of order {self.order} take '
        f'{sum(orders)} of the {rest} rows of the timesteps; use '
        "blocks='fast' or "
        f'sample.steps={num - rest + max(1, rest // self.order) * self.order}.'
      )
    if to_data and orders[-1] > 1:
      orders = (*orders[:-1], orders[-1] - 1, 1)
    return (1, *orders) if rest < num else orders


def _evenly(process, times):
  """The same ends, with inner nodes at equal steps of lambda."""
  ends = logsnr.half_logsnr(process, times[[0, -1]])
  inner = np.linspace(*ends, len(times))[1:-1]
  return np.array([times[0], *logsnr.time_of(process, inner), times[-1]])


@dataclasses.dataclass(frozen=True)
class _Block:
  """A singlestep update: the part of a plan."""

  calls: int

  def step(
    self, predict: Callable, carry: Carry, row: Rows, keys: Any
  ) -> Carry:
    """One call a node; every stage starts from the block's x."""
    x, previous, estimates = carry.x, carry.x_0, []
    for i, node in enumerate(row.nodes):
      previous = predict(x, node, previous).x_0
      estimates.append(previous)
      x = _combine(row.mix[i], carry.x, estimates)
    return Carry(x, previous, carry.memory)


def _matrix(h, *stages) -> np.ndarray:
  """Rows of unequal lengths -> [n, k, k + 1], zeros where there is nothing."""
  size = len(stages)
  mix = np.zeros((len(h), size, size + 1))
  for i, stage in enumerate(stages):
    for j, column in enumerate(stage):
      mix[:, i, j] = column
  return mix


def _first(n: _Nodes, end: int):
  """DDIM from the first node to another: coefficients of x and D."""
  h = n.logsnr[:, end] - n.logsnr[:, 0]
  ratio = n.sigma[:, end] / n.sigma[:, 0]
  return ratio, -n.alpha[:, end] * np.expm1(-h)


def _stages_1(n: _Nodes, solver: str) -> np.ndarray:
  return _matrix(n.t, _first(n, 1))


def _slope(n: _Nodes, end: int, solver: str):
  """The weight of D_1 - D_0, divided by r of node 1 in the interval."""
  h = n.logsnr[:, end] - n.logsnr[:, 0]
  r = (n.logsnr[:, 1] - n.logsnr[:, 0]) / h
  f1, f2, _ = _phi(h)
  return n.alpha[:, end] * (f2 if solver == 'taylor' else -f1 / 2) / r


def _stages_2(n: _Nodes, solver: str) -> np.ndarray:
  ratio, c = _first(n, 2)
  slope = _slope(n, 2, solver)
  return _matrix(n.t, _first(n, 1), (ratio, c - slope, slope))


def _stages_3(n: _Nodes, solver: str) -> np.ndarray:
  h = n.logsnr[:, 3] - n.logsnr[:, 0]
  r1, r2 = ((n.logsnr[:, i] - n.logsnr[:, 0]) / h for i in (1, 2))
  _, f2, f3 = _phi(h)
  second_ratio, second_c = _first(n, 2)
  inner = _slope(n, 2, 'midpoint' if solver == 'midpoint' else 'taylor')
  second = (second_ratio, second_c - inner, inner)
  ratio, c = _first(n, 3)
  alpha = n.alpha[:, 3]
  if solver == 'taylor':
    # E1 and E2, the derivatives, as weights of D_1 - D_0 and D_2 - D_0.
    gap = r2 - r1
    one = alpha * (f2 * r2 / r1 + 2 * f3 / r1) / gap
    two = -alpha * (f2 * r1 / r2 + 2 * f3 / r2) / gap
  else:
    one, two = 0 * h, alpha * f2 / r2
  return _matrix(n.t, _first(n, 1), second, (ratio, c - one - two, one, two))


_STAGES = {1: _stages_1, 2: _stages_2, 3: _stages_3}


@dataclasses.dataclass(frozen=True)
class Multistep:
  """DPM-Solver++ 1M, 2M, 3M: one call a row, with the estimates before it.

  The first rows are of orders 1, 2, as far as there is a past.

  Attributes:
    order: 1, 2 or 3.
    solver: 'dpmsolver' (the paper's; 'midpoint' is the same) or 'taylor', for
      order 2.
    lower_order_final: timesteps of fewer rows than this end with orders 2, 1
      (the released code: 10, diffusers: 15; 0 never).
    published_third_order: without the factor 2 of the second derivative, as
      in the release and in diffusers: of second order only (pdm.md, 5).
  """

  order: int = 2
  solver: str = 'dpmsolver'
  lower_order_final: int = 10
  published_third_order: bool = False

  def __post_init__(self):
    _check_order('dpm_multistep', self.order, self.solver)

  def init(self, x: Any) -> tuple:
    """The estimates before, newest first; zeros weigh nothing."""
    return (jax.tree.map(jnp.zeros_like, x),) * (self.order - 1)

  def tables(self, process: Process, timesteps: Timesteps) -> Rows:
    """The rows.

    Raises:
      ValueError: timesteps whose steps do not follow on one another.
    """
    n = _at(process, _contiguous('dpm_multistep', timesteps))
    with np.errstate(invalid='ignore'):
      h = np.diff(n.logsnr)
    mix = np.zeros((len(h), 1, 1 + self.order))
    for i, order in enumerate(self._orders(h)):
      mix[i, 0, 0] = n.sigma[i + 1] / n.sigma[i]
      weights = self._weights(h[: i + 1], order)
      mix[i, 0, 1 : 1 + order] = n.alpha[i + 1] * np.array(weights)
    return Rows((process.moment(timesteps.now),), mix)

  def _orders(self, h) -> list[int]:
    """The order of each row."""
    orders, past = [], 0
    for i, length in enumerate(h):
      order = min(self.order, 1 + past)
      if len(h) < self.lower_order_final:
        order = min(order, len(h) - i)
      orders.append(order if np.isfinite(length) else 1)
      past = past + 1 if np.isfinite(length) else 0
    return orders

  def _weights(self, h, order) -> list[float]:
    """Of D_s, D_{s-1}, D_{s-2}, without alpha."""
    f1, f2, f3 = _phi(h[-1])
    if order == 1:
      return [-f1]
    r0 = h[-2] / h[-1]
    if order == 2:
      slope = (f2 if self.solver == 'taylor' else -f1 / 2) / r0
      return [-f1 + slope, -slope]
    r1 = h[-3] / h[-1]
    a, b = np.array([1, -1, 0]) / r0, np.array([0, 1, -1]) / r1
    first = a + r0 / (r0 + r1) * (a - b)
    second = (a - b) / (r0 + r1)
    if not self.published_third_order:
      second = 2 * second
    return list(np.array([-f1, 0, 0]) + f2 * first - f3 * second)

  def step(
    self, predict: Callable, carry: Carry, row: Rows, keys: Any
  ) -> Carry:
    """One call, combined with the estimates of the rows before."""
    x_0 = predict(carry.x, row.nodes[0], carry.x_0).x_0
    estimates = (x_0, *carry.memory)
    x = _combine(row.mix[0], carry.x, estimates)
    return Carry(x, x_0, estimates[: self.order - 1])
