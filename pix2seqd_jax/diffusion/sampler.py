"""What a sampler is: the contract between the one loop and all solvers.

A sampler is a frozen dataclass with

    tables(process, timesteps) -> a tree of float64 NumPy arrays [n, ...], one
        row a step; raises ValueError for what it cannot do on these timesteps
    init(x) -> memory: the solver's own history, or None
    step(predict, carry, row, keys) -> carry

where `predict(x, moment, previous)` calls the network and returns Endpoints.
It is first called outside of any inner loop or branch of the step ('block_x0'
is that estimate). A solver whose steps are not all alike has, in place of
`tables`,

    plan(process, timesteps) -> ((part, rows), ...): one lax.scan a part, each
        part with a `step` and rows of its own; memory keeps its structure

and any sampler may have

    calls: calls of the network a row, of a sampler or a part; 1 if absent
    times(process, timesteps) -> all times at which the network is called, where
        those are not timesteps.now
    evaluations(timesteps) -> calls of the network in all, where the rows do not
        say it; for an adaptive solver the most there can be
    is_stochastic: whether it draws noise, which stands for a part of x_1
"""

from typing import Any, NamedTuple

import jax
import numpy as np

from pix2seqd_jax.diffusion import timesteps as timesteps_lib
from pix2seqd_jax.diffusion.process import Process
from pix2seqd_jax.types import Timesteps


class Carry(NamedTuple):
  """What goes from step to step."""

  x: Any  # the sample, at the row's `now`
  x_0: Any  # the last estimate of x_0; zeros before the first
  memory: Any = None


def plan(
  sampler: Any, process: Process, timesteps: Timesteps
) -> tuple[tuple[Any, Any], ...]:
  """The parts of a sampler on timesteps, each with its float64 rows."""
  if hasattr(sampler, 'plan'):
    return tuple(sampler.plan(process, timesteps))
  return ((sampler, sampler.tables(process, timesteps)),)


def num_rows(rows: Any) -> int:
  """The length of a part's tables."""
  return len(jax.tree.leaves(rows)[0])


def times(sampler: Any, process: Process, timesteps: Timesteps) -> np.ndarray:
  """Every time at which the network will be called."""
  if hasattr(sampler, 'times'):
    return np.asarray(sampler.times(process, timesteps), np.float64)
  return np.asarray(timesteps.now, np.float64)


def check(sampler: Any, process: Process, timesteps: Timesteps) -> None:
  """Raises ValueError for a sampler that cannot cross these timesteps."""
  timesteps_lib.check(timesteps)
  process.check(times(sampler, process, timesteps))
  plan(sampler, process, timesteps)


def check_source(sampler: Any, source_is_noise: bool) -> None:
  """Raises ValueError for fresh noise in place of an x_1 that is none."""
  if getattr(sampler, 'is_stochastic', False) and not source_is_noise:
    raise ValueError(
      f'sample.sampler={sampler} draws fresh noise in each step, but the paths '
      "of this model do not begin in noise: it would only spoil x. Use 'euler',"
      " 'heun' or 'rk45', or 'ddim' with eta=0."
    )


def evaluations(sampler: Any, process: Process, timesteps: Timesteps) -> int:
  """Calls of the network that a sampler promises on timesteps.

  Exact, but for an adaptive solver, which may call it less often. 'denoised'
  (see sampling.sample) costs one more; guidance doubles the batch instead.
  """
  if getattr(sampler, 'evaluations', None) is not None:
    return int(sampler.evaluations(timesteps))
  return sum(
    num_rows(rows) * getattr(part, 'calls', 1)
    for part, rows in plan(sampler, process, timesteps)
  )
