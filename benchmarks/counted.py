"""How often an adaptive solver calls the network."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from pix2seqd_jax.diffusion import dormand_prince, sampler as sampler_lib


@dataclasses.dataclass(frozen=True)
class Counted:
  """rk45 that tells of its effort as it samples; on one device.

  Attributes:
    stepper: the solver.
    told: gets for each row of the grid int32 [2, b], of each example the calls
      of the network and whether max_steps cut it short; [True] of ways from
      the data to the source.
  """

  stepper: dormand_prince.RK45
  told: dict[bool, list[np.ndarray]] = dataclasses.field(
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
      (_Telling(part, self.told[back]), rows) for part, rows in parts
    )


class _Telling:
  """A part of rk45."""

  def __init__(self, part, told):
    self._part, self._told = part, told

  def step(self, predict, carry, row, keys):
    after = self._part.step(predict, carry, row, keys)
    pairs = zip(_effort(after), _effort(carry), strict=True)
    jax.debug.callback(self._keep, [new - old for new, old in pairs])
    return after

  def _keep(self, told):
    self._told.append(np.stack(told))


def _effort(carry):
  return carry.memory.calls, carry.memory.unfinished


def counted(stepper: Any) -> Any:
  """The stepper, or where it is rk45, one that counts."""
  if isinstance(stepper, dormand_prince.RK45):
    return Counted(stepper)
  return stepper


def calls(
  stepper: Any,
  process: Any,
  grid: Any,
  back: bool = False,
  real: Sequence[np.ndarray] | None = None,
) -> float:
  """Calls of the network for an example, in the mean.

  Args:
    stepper: from `counted`, after it has sampled.
    process: of the model.
    grid: what it sampled by.
    back: on the way from the data to the source.
    real: of each batch that was sampled, bool [b]: which of its examples
      count, the rest being fillers; None: all.
  """
  if not isinstance(stepper, Counted):
    return float(sampler_lib.evaluations(stepper, process, grid))
  found = _of_examples(stepper, back, real)
  return float(found[0].mean()) * len(grid.now) if found.size else 0.0


def cut_short(
  stepper: Any, back: bool = False, real: Sequence[np.ndarray] | None = None
) -> int:
  """Intervals that rk45's max_steps cut short; arguments as of `calls`."""
  if not isinstance(stepper, Counted):
    return 0
  return int(_of_examples(stepper, back, real)[1].sum())


def _of_examples(stepper, back, real):
  """int [2, n]: what was told of the examples that count."""
  jax.effects_barrier()
  told = stepper.told[back]
  if not told:
    return np.zeros((2, 0), int)
  if real is not None:
    each = len(told) // len(real)  # rows and samples, batch by batch
    told = [one[:, real[i // each]] for i, one in enumerate(told)]
  return np.concatenate(told, axis=1)
