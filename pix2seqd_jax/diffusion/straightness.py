"""How straight the paths of a flow are: what few steps cost.

Liu et al. 2022, "Flow Straight and Fast", https://arxiv.org/abs/2209.03003:

    S = int_0^1 E |(x_1 - x_0) - dx_t / dt|^2 dt

is 0 where every path is a straight line at a constant speed, which one step of
Euler follows exactly.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float


class Straightness(NamedTuple):
  """How far paths are from straight; squares are summed over a state.

  Attributes:
    times: [n], where the paths are looked at, 0 .. 1 of the way.
    deviation: [n], E |(x_1 - x_0) - dx/dt|^2 there.
    length: E |x_1 - x_0|^2, of the straight lines between the same ends.
  """

  times: np.ndarray
  deviation: np.ndarray
  length: float

  @property
  def value(self) -> float:
    """S."""
    return float(self.deviation.mean())

  @property
  def relative(self) -> float:
    """S / length: 0 is straight; has no unit, so that runs compare."""
    return self.value / self.length if self.length else 0.0

  @property
  def curve(self) -> np.ndarray:
    """deviation / length [n]."""
    return self.deviation / (self.length or 1.0)


def straightness(states: Float[np.ndarray, 'n b ...']) -> Straightness:
  """Of paths that were followed by even steps of Euler.

  The speed within a step is that between its ends, and so S is that of the
  path as it was followed: of two steps or more, the more the closer.

  Args:
    states: from the start (of either direction) to the end, of each example.

  Raises:
    ValueError: fewer than two steps; one is always straight.
  """
  steps = len(states) - 1
  if steps < 2:
    raise ValueError(
      f'straightness needs paths of at least 2 steps, not {max(steps, 0)}: '
      'a path of one is straight whatever the network; set steps=50.'
    )
  states = np.asarray(states, np.float64)
  states = states.reshape(*states.shape[:2], -1)
  whole = states[-1] - states[0]
  speeds = np.diff(states, axis=0) * steps
  deviation = np.square(speeds - whole).sum(-1).mean(-1)
  times = (np.arange(steps) + 0.5) / steps
  return Straightness(times, deviation, float(np.square(whole).sum(-1).mean()))
