"""How often an adaptive solver calls the network."""

import dataclasses
from typing import Any

import jax
import numpy as np

from pix2seqd_jax.diffusion import dormand_prince, stepping


@dataclasses.dataclass(frozen=True)
class Counted:
  """rk45 that tells of its effort as it samples; on one device.

  Attributes:
    stepper: the solver.
    calls: gets the calls of the network for each example, row by row of the
      grid; [True] those of ways from the data to the source.
  """

  stepper: dormand_prince.RK45
  calls: dict[bool, list[np.ndarray]] = dataclasses.field(
    default_factory=lambda: {False: [], True: []}
  )

  def init(self, x: Any) -> Any:
    """As the solver's."""
    return self.stepper.init(x)

  def times(self, process: Any, grid: Any) -> np.ndarray:
    """As the solver's."""
    return self.stepper.times(process, grid)

  def plan(self, process: Any, grid: Any) -> tuple[tuple[Any, Any], ...]:
    """The solver's parts, which report."""
    back = bool(grid.next[0] > grid.now[0])
    parts = self.stepper.plan(process, grid)
    return tuple(
      (_Telling(part, self.calls[back]), rows) for part, rows in parts
    )


class _Telling:
  """A part of rk45."""

  def __init__(self, part, calls):
    self._part, self._calls = part, calls

  def step(self, predict, carry, row, keys):
    after = self._part.step(predict, carry, row, keys)
    jax.debug.callback(self._keep, after.memory.calls - carry.memory.calls)
    return after

  def _keep(self, calls):
    self._calls.append(np.asarray(calls))


def counted(stepper: Any) -> Any:
  """The stepper, or where it is rk45, one that counts."""
  if isinstance(stepper, dormand_prince.RK45):
    return Counted(stepper)
  return stepper


def calls(stepper: Any, process: Any, grid: Any, back: bool = False) -> float:
  """Calls of the network for an example, in the mean.

  Args:
    stepper: from `counted`, after it has sampled.
    process: of the model.
    grid: what it sampled by.
    back: on the way from the data to the source.
  """
  if not isinstance(stepper, Counted):
    return float(stepping.evaluations(stepper, process, grid))
  jax.effects_barrier()
  found = stepper.calls[back]
  if not found:
    return 0.0
  return float(np.concatenate(found).mean()) * len(grid.now)
