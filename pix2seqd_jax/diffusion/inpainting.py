"""Inpainting: some elements of x_0 are given, the sampler finds the others.

The network is not trained for it. Two ways are known, neither of them exact:

'x0'       each estimate of x_0 gets the given values, so that the solver is
           drawn to them (LDMSeg, arXiv 2401.10227, algorithm 3). x_1 then
           follows from x_t and the pasted estimate; 'x0_eps' keeps the
           network's own.
'repaint'  after each step the given elements of the state become alpha x_0 +
           sigma x_1 at the time where it lands, with one x_1 for all steps
           (RePaint, arXiv 2201.09865, equation 8, without its resampling and
           its fresh noise).

Both return the given values themselves. Both hold for every sampler; 'x0' and
'x0_eps' differ only for those that use x_1 (not for DPM-Solver++).
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from pix2seqd_jax.diffusion import sampler as sampler_lib
from pix2seqd_jax.diffusion.process import (
  MIN_DETERMINANT,
  Endpoints,
  Moment,
  Process,
)
from pix2seqd_jax.diffusion.sampler import Carry
from pix2seqd_jax.types import Timesteps

VARIANTS = ('x0', 'x0_eps', 'repaint')
_SLACK = 1e-9  # of times that are equal but for float64's rounding


class Known(NamedTuple):
  """What is told of a sample.

  Attributes:
    x_0: a tree like the state; read where `mask` says so, and by `start`.
    mask: bool (or 0 and 1), True where given; broadcastable to each leaf of
      the state, or a tree of such.
    x_1: the source of the given elements, a tree like the state; None takes
      the x_1 that sampling starts from.
  """

  x_0: Any
  mask: Any
  x_1: Any = None


def check_variant(inpainting: Any) -> None:
  """Raises ValueError for a name that is none of VARIANTS."""
  if inpainting not in VARIANTS:
    raise ValueError(
      f'sample.inpainting={inpainting!r} must be one of {VARIANTS}.'
    )


def check_strength(strength: Any) -> None:
  """Raises ValueError for what is no number in (0, 1]."""
  number = isinstance(strength, int | float | np.number)
  if isinstance(strength, bool) or not (number and 0 < strength <= 1):
    raise ValueError(
      f'sample.strength={strength!r} must lie in (0, 1]: 1 starts from noise '
      'alone, less keeps more of what is given.'
    )


def cut(timesteps: Timesteps, strength: float | int) -> Timesteps:
  """The rows of timesteps from t <= strength on; all of them for 1.

  As diffusers' image-to-image pipelines do: of 10 steps and strength 0.5 the
  last 5.

  Raises:
    ValueError: a strength out of (0, 1], timesteps that does not lead to the
      data, or one without a time as small.
  """
  check_strength(strength)
  if strength == 1:
    return timesteps
  now = np.asarray(timesteps.now)
  if (np.asarray(timesteps.next) > now).any():
    raise ValueError(
      f'sample.strength={strength} starts between source and data, on the way '
      'to the data, but these timesteps leads to the source.'
    )
  rest = now <= strength + _SLACK
  if not rest.any():
    raise ValueError(
      f'sample.strength={strength} is below {now.min():.4g}, the last of the '
      f'{now.size} times of the timesteps: nothing would be sampled; raise '
      'it, or '
      'sample.steps.'
    )
  return Timesteps(now[rest], np.asarray(timesteps.next)[rest])


def start(
  process: Process,
  timesteps: Timesteps,
  known: Known | None,
  x_1: Any,
  strength: float | int,
) -> tuple[Timesteps, Any]:
  """Where sampling begins: (the rest of the timesteps, x at its first time).

  Args:
    process: equation (1).
    timesteps: of the whole way.
    known: its x_0, all of it, given or not, is noised to that time.
    x_1: the source.
    strength: in (0, 1]; 1 changes nothing.

  Raises:
    ValueError: as `cut`, or a strength below 1 with nothing known.
  """
  rest = cut(timesteps, strength)
  if strength == 1:
    return rest, x_1
  if known is None:
    raise ValueError(
      f'sample.strength={strength} starts from what is given, but nothing is; '
      'set sample.strength=1, or give a mask (task inpainting).'
    )
  check(known, x_1)
  first = process.moment(float(rest.now[0]))
  return rest, process.mix(known.x_0, x_1, first)


def check(known: Known, x: Any) -> None:
  """Raises ValueError where known does not fit the state x."""
  structure = jax.tree.structure(x)
  for name in ('x_0', 'x_1'):
    tree = getattr(known, name)
    if tree is None and name == 'x_1':
      continue
    shapes = [np.shape(leaf) for leaf in jax.tree.leaves(tree)]
    expected = [np.shape(leaf) for leaf in jax.tree.leaves(x)]
    if jax.tree.structure(tree) != structure or shapes != expected:
      raise ValueError(
        f'known.{name} has the shapes {shapes} but the state {expected}; they '
        'must be equal.'
      )
  for mask, leaf in zip(_masks(known, x), jax.tree.leaves(x), strict=True):
    behind = np.shape(leaf)[::-1]
    sides = list(zip(np.shape(mask)[::-1], behind))
    if np.ndim(mask) > len(behind) or any(a not in (1, b) for a, b in sides):
      raise ValueError(
        f'known.mask {np.shape(mask)} must be broadcastable to the state '
        f'{np.shape(leaf)}.'
      )


def landings(
  sampler: Any, process: Process, timesteps: Timesteps
) -> np.ndarray:
  """The time where each row of a sampler's plan lands, over all its parts.

  That is timesteps.next where a row is a row of the timesteps, and where rows
  take several of them (DPM-Solver++ singlestep), the time at which the next
  begins.

  Raises:
    ValueError: a sampler whose rows do not say it.
  """
  parts = sampler_lib.plan(sampler, process, timesteps)
  if sum(sampler_lib.num_rows(rows) for _, rows in parts) == len(timesteps.now):
    return np.asarray(timesteps.next, np.float64)
  if not all(hasattr(rows, 'nodes') for _, rows in parts):
    raise ValueError(
      f"sample.inpainting='repaint' needs the time where each step lands, "
      f"which the plan of {type(sampler).__name__} does not say; use 'x0'."
    )
  starts = np.concatenate([np.asarray(rows.nodes[0].t) for _, rows in parts])
  return np.append(starts[1:], np.asarray(timesteps.next)[-1])


@dataclasses.dataclass(frozen=True)
class Held:
  """See `hold`.

  Attributes:
    moments: where each row of the plan lands, in float64; None where the
      state is left as it is.
  """

  inpainting: str
  x_0: Any
  x_1: Any
  masks: Any
  solver: Process
  moments: Moment | None

  def paste(self, x: Any) -> Any:
    """x with the given values."""
    return self._put(self.x_0, x)

  def estimate(self, ends: Endpoints, x_t: Any, moment: Moment) -> Endpoints:
    """What the solver gets in place of the network's endpoints."""
    if self.inpainting == 'repaint':
      return ends
    x_0 = self.paste(ends.x_0)
    if self.inpainting == 'x0_eps':
      return Endpoints(x_0, ends.x_1)
    again = self.solver.endpoints(x_t, x_0, moment).x_1
    return Endpoints(x_0, self._put(again, ends.x_1))

  def renew(self, x: Any, moment: Moment) -> Any:
    """The state after a step that lands at `moment`."""
    return self._put(self.solver.mix(self.x_0, self.x_1, moment), x)

  def parts(self, parts: tuple[tuple[Any, Any], ...]) -> tuple:
    """The parts of a sampler's plan, with `renew` after each step."""
    if self.moments is None:
      return parts
    found, done = [], 0
    for part, rows in parts:
      end = done + sampler_lib.num_rows(rows)
      lands = Moment(*(column[done:end] for column in self.moments))
      found.append((_Renewed(part, self), (rows, lands)))
      done = end
    return tuple(found)

  def _put(self, given, x):
    return jax.tree.map(jnp.where, self.masks, given, x)


def hold(
  inpainting: str,
  known: Known | None,
  x: Any,
  sampler: Any,
  process: Process,
  timesteps: Timesteps,
) -> Held | None:
  """What the sampling loop does with `known`; None where nothing is.

  Raises:
    ValueError: an unknown variant, shapes that do not fit, or a sampler and a
      timesteps that the variant cannot be used on; all before compilation.
  """
  if known is None:
    return None
  check_variant(inpainting)
  check(known, x)
  moments = None
  if inpainting == 'repaint':
    moments = process.moment(landings(sampler, process, timesteps))
  elif inpainting == 'x0':
    times = sampler_lib.times(sampler, process, timesteps)
    bad = ~(process.moment(times).sigma > MIN_DETERMINANT)
    if bad.any():
      raise ValueError(
        "sample.inpainting='x0' computes x_1 from the pasted estimate, which "
        f'needs sigma > 0, but the network is called at t={times[bad][0]:g}; '
        "use 'x0_eps', or end the timesteps earlier "
        '(sample.timestep_spacing_args end=0.001).'
      )
  dtype = jnp.result_type(*jax.tree.leaves(x))
  cast = lambda tree: jax.tree.map(lambda a: jnp.asarray(a, dtype), tree)
  source = x if known.x_1 is None else known.x_1
  masks = jax.tree.unflatten(jax.tree.structure(x), _masks(known, x))
  # x_1 follows from x_0 as it does for a network that predicts that.
  solver = dataclasses.replace(process, target='x0', clip_x0=None)
  return Held(inpainting, cast(known.x_0), cast(source), masks, solver, moments)


@dataclasses.dataclass(frozen=True)
class _Renewed:
  """A part of a plan whose rows also say where each of them lands."""

  part: Any
  held: Held

  def step(
    self, predict: Callable, carry: Carry, row: tuple[Any, Moment], keys: Any
  ) -> Carry:
    row, moment = row
    carry = self.part.step(predict, carry, row, keys)
    return carry._replace(x=self.held.renew(carry.x, moment))


def _masks(known: Known, x: Any) -> list[Any]:
  """A bool mask for each leaf of x.

  Raises ValueError where a tree of masks does not fit the state.
  """
  try:
    spread = jax.tree.map(
      lambda mask, part: jax.tree.map(lambda _: mask, part), known.mask, x
    )
  except ValueError as error:
    raise ValueError(
      'known.mask must be one array, or a tree of the same keys as the state: '
      f'{error}'
    ) from error
  return [jnp.asarray(mask) != 0 for mask in jax.tree.leaves(spread)]
