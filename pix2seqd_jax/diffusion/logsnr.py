"""Half the logarithm of the signal-to-noise ratio: the clock of DPM-Solver.

    lambda(t) = log(alpha(t) / sigma(t)), falling from data to source

arXiv 2206.00927, section 3. NumPy only: the tables of samplers.
"""

import numpy as np

from pix2seqd_jax.diffusion.process import Process

# Halvings of [0, 1] until float64 has no number in between.
_HALVINGS = 1100


def half_logsnr(process: Process, t) -> np.ndarray:
  """lambda(t), float64; infinite where sigma = 0, minus it where alpha = 0."""
  m = process.moment(np.asarray(t, np.float64))
  with np.errstate(divide='ignore'):
    return np.log(m.alpha) - np.log(m.sigma)


def time_of(process: Process, value) -> np.ndarray:
  """The t in [0, 1] of lambda, by bisection: for any monotone schedule.

  Raises:
    ValueError: lambda lies outside of what the schedule reaches.
  """
  value = np.asarray(value, np.float64)
  ends = half_logsnr(process, [1.0, 0.0])
  if not ((value >= ends[0]) & (value <= ends[1])).all():
    raise ValueError(
      f'log(alpha / sigma) of {value.min():.4g} to {value.max():.4g} is not '
      f'reached by {process.schedule}, which runs from {ends[0]:.4g} to '
      f'{ends[1]:.4g}.'
    )
  low, high = np.zeros_like(value), np.ones_like(value)
  for _ in range(_HALVINGS):
    middle = low + (high - low) / 2
    if ((middle == low) | (middle == high)).all():
      break
    above = half_logsnr(process, middle) > value
    low, high = np.where(above, middle, low), np.where(above, high, middle)
  errors = [np.abs(half_logsnr(process, t) - value) for t in (low, high)]
  return np.where(errors[0] <= errors[1], low, high)
