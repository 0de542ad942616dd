"""Time grids: when the network is called, and where each step lands."""

import numpy as np

from pix2seqd_jax.types import Grid


def uniform(num_steps: int, td: float | int = 0.0) -> Grid:
  """now = 1 - i / T, next = max(1 - (i + 1 + td) / T, 0), i = 0 .. T - 1.

  td is Pix2Seq-D's asymmetric time interval (arXiv 2210.06366, section 3.3):
  the sample is made cleaner than the time that the network is told next, and
  the last steps all land on 0. It may be fractional.

  Raises:
    ValueError: num_steps < 1 or td < 0.
  """
  if int(num_steps) != num_steps or num_steps < 1:
    raise ValueError(
      f'steps={num_steps} must be a whole number of at least 1; set steps=20.'
    )
  if not 0 <= td < np.inf:
    raise ValueError(
      f'td={td} must be 0 or more (0 is symmetric, the paper uses 1 and 2).'
    )
  i = np.arange(num_steps, dtype=np.float64)
  now = 1 - i / num_steps
  return Grid(now, np.maximum(1 - (i + 1 + td) / num_steps, 0.0))


def check(grid: Grid) -> None:
  """Raises ValueError where a grid is empty, ragged or leaves [0, 1]."""
  now, after = np.asarray(grid.now), np.asarray(grid.next)
  if now.ndim != 1 or now.shape != after.shape or not now.size:
    raise ValueError(
      f'grid.now {now.shape} and grid.next {after.shape} must be two vectors '
      'of the same length, at least 1.'
    )
  both = np.concatenate([now, after])
  if not (both.min() >= 0 and both.max() <= 1):
    raise ValueError(
      f'grid times run from {both.min()} to {both.max()} but must lie in '
      '[0, 1]; 0 is data, 1 is the source.'
    )
