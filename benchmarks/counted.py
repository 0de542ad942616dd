"""How often an adaptive solver calls the network."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from pix2seqd_jax.diffusion import dormand_prince
from pix2seqd_jax.diffusion import sampler as sampler_lib


@dataclasses.dataclass(frozen=True)
class Counted:
  """rk45 that tells of its effort as it samples; on one device.

  Attributes:
    sampler: the solver.
    told: gets for each row of the timesteps int32 [2, b], of each example the
      calls of the network and whether max_steps cut it short; [True] of ways
      from the data to the source.
  """

  sampler: dormand_prince.RK45
  told: dict[bool, list[np.ndarray]] = dataclasses.field(
    default_factory=lambda: {False: [], True: []}
  )

  def init(self, x: Any) -> Any:
    """As the solver's."""
    return self.sampler.init(x)

  def times(self, process: Any, timesteps: Any) -> np.ndarray:
    """As the solver's."""
    return self.sampler.times(process, timesteps)

  def plan(self, process: Any, timesteps: Any) -> tuple[tuple[Any, Any], ...]:
    """The solver's parts, which report."""
    back = bool(timesteps.next[0] > timesteps.now[0])
    parts = self.sampler.plan(process, timesteps)
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


def counted(sampler: Any) -> Any:
  """The sampler, or where it is rk45, one that counts."""
  if isinstance(sampler, dormand_prince.RK45):
    return Counted(sampler)
  return sampler


def calls(
  sampler: Any,
  process: Any,
  timesteps: Any,
  back: bool = False,
  real: Sequence[np.ndarray] | None = None,
) -> float:
  """Calls of the network for an example, in the mean.

  Args:
    sampler: from `counted`, after it has sampled.
    process: of the model.
    timesteps: what it sampled by.
    back: on the way from the data to the source.
    real: of each batch that was sampled, bool [b]: which of its examples
      count, the rest being fillers; None: all.
  """
  if not isinstance(sampler, Counted):
    return float(sampler_lib.evaluations(sampler, process, timesteps))
  found = _of_examples(sampler, back, real)
  return float(found[0].mean()) * len(timesteps.now) if found.size else 0.0


def cut_short(
  sampler: Any, back: bool = False, real: Sequence[np.ndarray] | None = None
) -> int:
  """Intervals that rk45's max_steps cut short; arguments as of `calls`."""
  if not isinstance(sampler, Counted):
    return 0
  return int(_of_examples(sampler, back, real)[1].sum())


def _of_examples(sampler, back, real):
  """int [2, n]: what was told of the examples that count."""
  jax.effects_barrier()
  told = sampler.told[back]
  if not told:
    return np.zeros((2, 0), int)
  if real is not None:
    each = len(told) // len(real)  # rows and samples, batch by batch
    told = [one[:, real[i // each]] for i, one in enumerate(told)]
  return np.concatenate(told, axis=1)
