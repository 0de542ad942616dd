"""Timesteps: when the network is called, and where each step lands.

timesteps is made by a frozen dataclass, `make(process, num_steps, td) ->
Timesteps`. Those of diffusers' discrete steps 0 .. 999 place step i at t = (i
+ 1) / 1000, as schedules.py does its tables.
"""

import dataclasses
from typing import Any

import numpy as np

from pix2seqd_jax.diffusion import logsnr
from pix2seqd_jax.diffusion.process import Process
from pix2seqd_jax.diffusion.schedules import NUM_TABULATED
from pix2seqd_jax.types import Timesteps

SOLVERS = ('ddim', 'dpm')


@dataclasses.dataclass(frozen=True)
class Uniform:
  """Even steps in t: now = 1 - i / T, next = max(1 - (i + 1 + td) / T, 0).

  Attributes:
    start: the first time; the source is 1.
    end: the last; the data is 0. (1e-3 for latent diffusion, pdm.md 5.1.) A
      timesteps may also lead from the data to the source.
  """

  start: float | int = 1.0
  end: float | int = 0.0

  def __post_init__(self):
    for key in ('start', 'end'):
      value = getattr(self, key)
      if not (_is_number(value) and 0 <= value <= 1):
        raise ValueError(
          f'sample.timestep_spacing_args: {key}={value!r} must be a time in '
          '[0, 1]; 1 is '
          'the source, 0 is data.'
        )
    if self.start == self.end:
      raise ValueError(
        f'sample.timestep_spacing_args: start and end are both {self.start}; '
        'the timesteps '
        'would lead nowhere.'
      )

  def make(
    self, process: Process | None, num_steps: int, td: float | int = 0.0
  ) -> Timesteps:
    """The timesteps of T = num_steps steps.

    td is Pix2Seq-D's asymmetric time interval (arXiv 2210.06366, section
    3.3): the sample is made cleaner than the time that the network is told
    next, by td steps, and the last steps all land on the end. It may be
    fractional.

    Raises:
      ValueError: num_steps < 1, td < 0, or times that the schedule lacks.
    """
    _check_steps(num_steps)
    if not (_is_number(td) and 0 <= td < np.inf):
      raise ValueError(
        f'td={td!r} must be 0 or more (0 is symmetric, the paper uses 1 and 2).'
      )
    i = np.arange(num_steps, dtype=np.float64)
    fractions = i / num_steps, np.minimum((i + 1 + td) / num_steps, 1)
    return Timesteps(*(self._place(process, u) for u in fractions))

  def _place(self, process, fraction):
    """The times at shares 0 .. 1 of the way; both ends to the last digit."""
    t = np.where(fraction < 1, self.at(process, fraction), self.end)
    return np.where(fraction > 0, t, self.start)

  def at(self, process: Process | None, fraction: np.ndarray) -> np.ndarray:
    """t at a fraction of the way from start to end."""
    return self.start + (self.end - self.start) * fraction


@dataclasses.dataclass(frozen=True)
class Quadratic(Uniform):
  """Even steps in sqrt(t): finer towards the data (arXiv 2010.02502, D.3)."""

  def at(self, process: Process | None, fraction: np.ndarray) -> np.ndarray:
    """((1 - u) sqrt(start) + u sqrt(end))^2."""
    start, end = self.start**0.5, self.end**0.5
    return (start + (end - start) * fraction) ** 2


@dataclasses.dataclass(frozen=True)
class LogSNR(Uniform):
  """Even steps in log(alpha / sigma) (arXiv 2206.00927, section 3)."""

  def at(self, process: Process | None, fraction: np.ndarray) -> np.ndarray:
    """The t of (1 - u) lambda(start) + u lambda(end).

    Raises:
      ValueError: alpha or sigma is 0 at one end.
    """
    start, end = logsnr.half_logsnr(process, [self.start, self.end])
    for key, value in (('start', start), ('end', end)):
      if not np.isfinite(value):
        raise ValueError(
          f'sample.timestep_spacing logsnr cannot {key} at '
          f't={getattr(self, key):g}, where '
          f'log(alpha / sigma) is {value:g} on {process.schedule}; set '
          f'sample.timestep_spacing_args {key}={0.999 if value < 0 else 0.001}.'
        )
    return logsnr.time_of(process, start + (end - start) * fraction)


@dataclasses.dataclass(frozen=True)
class Leading:
  """diffusers' timestep_spacing 'leading': 801, 601, 401, 201, 1 in 5 steps.

  Attributes:
    steps_offset: added to each step; 1 for Stable Diffusion.
    set_alpha_to_one: the last step lands on data itself, t = 0 (diffusers'
      final_sigmas_type 'zero'), and not on step 0, t = .001.
    solver: whose rule: 'ddim' (each step goes 1000 // T down, wherever the
      next begins) or 'dpm' (each lands where the next begins; diffusers'
      DPMSolver schedulers, which also place 'leading' and 'linspace' as if
      there were one step more).
  """

  steps_offset: int = 1
  set_alpha_to_one: bool = False
  solver: str = 'ddim'

  def __post_init__(self):
    if self.solver not in SOLVERS:
      raise ValueError(
        f'sample.timestep_spacing_args: solver={self.solver!r} must be one of '
        f'{SOLVERS}.'
      )
    offset = self.steps_offset
    if not (isinstance(offset, int) and 0 <= offset < NUM_TABULATED):
      raise ValueError(
        f'sample.timestep_spacing_args: steps_offset={offset!r} must be an '
        'integer in '
        f'[0, {NUM_TABULATED}).'
      )

  def make(
    self, process: Process | None, num_steps: int, td: float | int = 0.0
  ) -> Timesteps:
    """The timesteps of num_steps of the 1,000 steps.

    Raises:
      ValueError: num_steps that do not fit, or td other than 0.
    """
    _check_steps(num_steps)
    if td != 0:
      raise ValueError(
        f'td={td!r} has no meaning for the discrete steps of '
        'sample.timestep_spacing '
        f'{type(self).__name__.lower()!r}; set sample.td=0, or timesteps '
        "'uniform'."
      )
    if num_steps > NUM_TABULATED:
      raise ValueError(
        f'steps={num_steps} are more than the {NUM_TABULATED} of the discrete '
        "schedule; set fewer, or sample.timestep_spacing='uniform'."
      )
    steps = self.steps(num_steps)
    if steps.max() >= NUM_TABULATED:
      raise ValueError(
        f'steps={num_steps} with steps_offset={self.steps_offset} begin at '
        f'step {steps.max():g} of 0 .. {NUM_TABULATED - 1}; set fewer steps '
        'or sample.timestep_spacing_args steps_offset=0.'
      )
    if self.solver == 'ddim':
      after = steps - NUM_TABULATED // num_steps
    else:
      after = np.append(steps[1:], -1)
    final = -1 if self.set_alpha_to_one else 0
    after = np.where(after < 0, final, after)
    return Timesteps((steps + 1) / NUM_TABULATED, (after + 1) / NUM_TABULATED)

  def steps(self, num_steps: int) -> np.ndarray:
    """The discrete steps at which the network is called, falling."""
    count = num_steps + (self.solver == 'dpm')
    falling = np.arange(count)[::-1][:num_steps]
    return falling * (NUM_TABULATED // count) + float(self.steps_offset)


@dataclasses.dataclass(frozen=True)
class Trailing(Leading):
  """'trailing': 999, 799, 599, 399, 199. `steps_offset` has no effect."""

  def steps(self, num_steps: int) -> np.ndarray:
    """Evenly down from 1,000, rounded, less one."""
    down = np.arange(NUM_TABULATED, 0, -NUM_TABULATED / num_steps)
    return np.round(down[:num_steps]) - 1


@dataclasses.dataclass(frozen=True)
class Blocks(Leading):
  """LDMSeg's: the highest of each of T blocks of 1000 // T steps.

  'trailing' where T divides 1,000; else it begins lower (30 steps: 989). The
  last step lands on data whatever `set_alpha_to_one` says, as there. Has no
  `steps_offset`.
  """

  set_alpha_to_one: bool = True

  def steps(self, num_steps: int) -> np.ndarray:
    """Evenly, the last at 1000 // T - 1."""
    length = NUM_TABULATED // num_steps
    return np.arange(num_steps, 0, -1) * length - 1.0


@dataclasses.dataclass(frozen=True)
class Linspace(Leading):
  """'linspace': 999, 749, 500, 250, 0. `steps_offset` has no effect."""

  def steps(self, num_steps: int) -> np.ndarray:
    """From 0 to 999, both included, rounded ('dpm' leaves out the 0)."""
    count = num_steps + (self.solver == 'dpm')
    even = np.linspace(0, NUM_TABULATED - 1, count)
    return np.round(even)[::-1][:num_steps]


@dataclasses.dataclass(frozen=True)
class SemFlow:
  """The release's of SemFlow: strides of 1000 // T whole steps.

  The network is told t = 1 - i (1000 // T) / 1000, and each of the n steps
  that fit before t = 0 has the length 1 / n. Where T divides 1,000 this is
  'uniform'; else n may be another number than T, and what a step lands on is
  not what the network is told next.
  """

  def make(
    self, process: Process | None, num_steps: int, td: float | int = 0.0
  ) -> Timesteps:
    """The timesteps.

    Raises:
      ValueError: more than 1,000 steps, or td other than 0.
    """
    _check_steps(num_steps)
    if td != 0 or num_steps > NUM_TABULATED:
      raise ValueError(
        "sample.timestep_spacing 'semflow' takes steps of whole thousandths, "
        'but steps='
        f"{num_steps}, td={td!r}; set sample.timestep_spacing='uniform', or "
        'td=0 and at '
        f'most {NUM_TABULATED} steps.'
      )
    stride = NUM_TABULATED // num_steps
    count = len(range(1, NUM_TABULATED, stride))
    now = 1 - stride * np.arange(count) / NUM_TABULATED
    # Whole thousandths on both sides where they are: no -1e-17 at the end.
    even = stride * count == NUM_TABULATED
    after = np.append(now[1:], 0.0) if even else now - 1 / count
    return Timesteps(now, after)


SPACINGS = {
  'uniform': Uniform,
  'quadratic': Quadratic,
  'logsnr': LogSNR,
  'leading': Leading,
  'trailing': Trailing,
  'linspace': Linspace,
  'blocks': Blocks,
  'semflow': SemFlow,
}


def uniform(num_steps: int, td: float | int = 0.0) -> Timesteps:
  """Even steps from 1 to 0; see Uniform."""
  return Uniform().make(None, num_steps, td)


def reverse(timesteps: Timesteps) -> Timesteps:
  """The way back, from data to the source, over the same times.

  Where steps do not land on the next time of the network, there is no such
  way: then it is the mirrored one, t -> 1 - t (as SemFlow's release has it).
  """
  now, after = np.asarray(timesteps.now), np.asarray(timesteps.next)
  if (now[1:] == after[:-1]).all():
    return Timesteps(after[::-1], now[::-1])
  return Timesteps(1 - now, 1 - after)


def check(timesteps: Timesteps) -> None:
  """Raises ValueError where timesteps is empty, ragged or leaves [0, 1].

  The last step may land beyond if it is no longer than another (SemFlow).
  """
  now, after = np.asarray(timesteps.now), np.asarray(timesteps.next)
  if now.ndim != 1 or now.shape != after.shape or not now.size:
    raise ValueError(
      f'timesteps.now {now.shape} and timesteps.next {after.shape} must be '
      'two vectors '
      'of the same length, at least 1.'
    )
  lengths = np.abs(after - now)
  even = now.size > 1 and lengths[-1] <= lengths[:-1].max() * (1 + 1e-9)
  both = np.concatenate([now, after[:-1] if even else after])
  if not (both.min() >= 0 and both.max() <= 1):
    raise ValueError(
      f'timesteps times run from {now[0]} to {after[-1]} but must lie in '
      '[0, 1]; 0 is data, 1 is the source.'
    )


def _check_steps(num_steps) -> None:
  if not (_is_number(num_steps) and num_steps >= 1 and num_steps % 1 == 0):
    raise ValueError(
      f'steps={num_steps} must be a whole number of at least 1; set steps=20.'
    )


def _is_number(value: Any) -> bool:
  return isinstance(value, int | float | np.number) and not isinstance(
    value, bool
  )
