"""What a stepper is: the contract between the one loop and all solvers.

A stepper is a frozen dataclass with

    tables(process, grid) -> a tree of float64 NumPy arrays [n, ...], one row
        a step; raises ValueError for what it cannot do on this grid
    init(x) -> memory: the solver's own history, or None
    step(predict, carry, row, keys) -> carry

where `predict(x, moment, previous)` calls the network and returns Endpoints.
It is first called outside of any inner loop or branch of the step ('block_x0'
is that estimate). A solver whose steps are not all alike has, in place of
`tables`,

    plan(process, grid) -> ((part, rows), ...): one lax.scan a part, each part
        with a `step` and rows of its own; memory keeps its structure

and any stepper may have

    calls: calls of the network a row, of a stepper or a part; 1 if absent
    times(process, grid) -> all times at which the network is called, where
        those are not grid.now
    evaluations(grid) -> calls of the network in all, where the rows do not
        say it; for an adaptive solver the most there can be
    is_stochastic: whether it draws noise, which stands for a part of x_1
"""

from typing import Any, NamedTuple

import jax
import numpy as np

from pix2seqd_jax.diffusion import timesteps as timesteps_lib
from pix2seqd_jax.diffusion.process import Process
from pix2seqd_jax.types import Grid


class Carry(NamedTuple):
  """What goes from step to step."""

  x: Any  # the sample, at the row's `now`
  x_0: Any  # the last estimate of x_0; zeros before the first
  memory: Any = None


def plan(
  stepper: Any, process: Process, grid: Grid
) -> tuple[tuple[Any, Any], ...]:
  """The parts of a stepper on a grid, each with its float64 rows."""
  if hasattr(stepper, 'plan'):
    return tuple(stepper.plan(process, grid))
  return ((stepper, stepper.tables(process, grid)),)


def num_rows(rows: Any) -> int:
  """The length of a part's tables."""
  return len(jax.tree.leaves(rows)[0])


def times(stepper: Any, process: Process, grid: Grid) -> np.ndarray:
  """Every time at which the network will be called."""
  if hasattr(stepper, 'times'):
    return np.asarray(stepper.times(process, grid), np.float64)
  return np.asarray(grid.now, np.float64)


def check(stepper: Any, process: Process, grid: Grid) -> None:
  """Raises ValueError for a stepper that cannot cross a grid on a process."""
  timesteps_lib.check(grid)
  process.check(times(stepper, process, grid))
  plan(stepper, process, grid)


def check_source(stepper: Any, source_is_noise: bool) -> None:
  """Raises ValueError for fresh noise in place of an x_1 that is none."""
  if getattr(stepper, 'is_stochastic', False) and not source_is_noise:
    raise ValueError(
      f'sample.stepper={stepper} draws fresh noise in each step, but the paths '
      "of this model do not begin in noise: it would only spoil x. Use 'euler',"
      " 'heun' or 'rk45', or 'ddim' with eta=0."
    )


def evaluations(stepper: Any, process: Process, grid: Grid) -> int:
  """Calls of the network that a stepper promises on a grid.

  Exact, but for an adaptive solver, which may call it less often. 'denoised'
  (see sampling.sample) costs one more; guidance doubles the batch instead.
  """
  if getattr(stepper, 'evaluations', None) is not None:
    return int(stepper.evaluations(grid))
  return sum(
    num_rows(rows) * getattr(part, 'calls', 1)
    for part, rows in plan(stepper, process, grid)
  )
