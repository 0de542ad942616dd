"""Equation (1) and its inverse, for every kind of prediction.

    x_t = alpha(t) x_0 + sigma(t) x_1                                     (1)

What a network may predict is a linear combination c0 x_0 + c1 x_1:

    kind        c0          c1
    'x0'        1           0           the data
    'x1'        0           1           the source (eps)
    'v'         -sigma      alpha       arXiv 2202.00512, section 4
    'velocity'  alpha'      sigma'      dx_t / dt; x_1 - x_0 when straight

(diffusers says 'sample', 'epsilon' and 'v_prediction' of the first three),
so a prediction and x_t give both endpoints by one 2x2 solve, whose
determinant is alpha c1 - sigma c0. x may be any tree of arrays [b, ...].
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from pix2seqd_jax.diffusion import thresholding

State = PyTree[Float[Array, 'b ...'], 'T']
AnyState = PyTree[Float[Array, 'b ...']]

# Below this |determinant| float32 has nothing left of the solution: the
# reference's smallest, alpha = sqrt(1e-9) = 3e-5, is above it.
MIN_DETERMINANT = 1e-6


class Moment(NamedTuple):
  """A time and the schedule there: all [n], [b], or scalars inside a scan."""

  t: Any
  alpha: Any
  sigma: Any
  alpha_dot: Any
  sigma_dot: Any


# A time: [b], or what `Process.moment` has made of one.
Time = Float[Array, 'b'] | Moment


class Endpoints(NamedTuple):
  """Estimates of the two ends of the path that leads through x_t."""

  x_0: Any
  x_1: Any


TARGETS: dict[str, Callable[[Moment], tuple[Any, Any]]] = {
  'x0': lambda m: (1.0, 0.0),
  'x1': lambda m: (0.0, 1.0),
  'v': lambda m: (-m.sigma, m.alpha),
  'velocity': lambda m: (m.alpha_dot, m.sigma_dot),
}
# diffusers' `prediction_type`.
ALIASES = {'sample': 'x0', 'epsilon': 'x1', 'v_prediction': 'v'}


def per_leaf(setting: Any, x: Any) -> Any:
  """A setting for each leaf of x, in the order of `jax.tree.leaves`.

  A mapping gives one setting a key (of mappings in x); anything else holds
  for all leaves below.

  Raises:
    ValueError: the keys of the mapping are not those of x.
  """
  if not isinstance(setting, Mapping):
    return [setting] * len(jax.tree.leaves(x))
  if not isinstance(x, Mapping) or set(x) != set(setting):
    names = sorted(x) if isinstance(x, Mapping) else 'a single array'
    raise ValueError(
      f'settings for {sorted(setting)} do not fit the state {names}; give '
      'one setting for all, or one for each key of the state.'
    )
  # Sorted, since jax.tree flattens dicts in that order.
  return [s for key in sorted(x) for s in per_leaf(setting[key], x[key])]


def map_leaves(function: Callable, settings: Any, x: Any, *rest: Any) -> Any:
  """jax.tree.map of function(setting, leaf, ...), settings as `per_leaf`."""
  leaves, structure = jax.tree.flatten(x)
  others = [structure.flatten_up_to(r) for r in rest]
  values = map(function, per_leaf(settings, x), leaves, *others)
  return jax.tree.unflatten(structure, list(values))


@dataclasses.dataclass(frozen=True)
class Process:
  """A schedule, and what the network predicts on it.

  Attributes:
    schedule: one of diffusion/schedules.py.
    target: a kind of TARGETS or of ALIASES, or one for each key of the state.
    clip_x0: thresholding of estimates of x_0, for all or one for each key:
      (low, high), thresholding.Dynamic(), or None.
    recompute_x1: x_1 follows from the clipped x_0, as in the reference and in
      diffusers' use_clipped_model_output; False keeps the network's own.
  """

  schedule: Any
  target: Any = 'x0'
  clip_x0: Any = None
  recompute_x1: bool = True

  def __post_init__(self):
    object.__setattr__(self, 'target', _canonical(self.target))
    for kind in _values(self.target):
      if kind not in TARGETS:
        raise ValueError(
          f'target={kind!r} is unknown; use one of {(*TARGETS, *ALIASES)}.'
        )
    for clip in _values(self.clip_x0):
      thresholding.check(clip)

  def moment(self, t: Any) -> Moment:
    """The schedule at t. NumPy in, float64 out; JAX in, JAX out."""
    s = self.schedule
    # Slopes may be infinite at the ends, where few need them.
    with np.errstate(divide='ignore', invalid='ignore'):
      return Moment(t, s.alpha(t), s.sigma(t), s.alpha_dot(t), s.sigma_dot(t))

  def mix(self, x_0: State, x_1: State, t: Time) -> State:
    """x_t, by equation (1)."""
    m = self._at(t)

    def mix_leaf(a, b):
      return _wide(m.alpha, a) * a + _wide(m.sigma, b) * b

    return jax.tree.map(mix_leaf, x_0, x_1)

  def regression_target(self, x_0: State, x_1: State, t: Time) -> State:
    """What the network ought to predict: c0 x_0 + c1 x_1."""
    m = self._at(t)

    def target_leaf(kind, a, b):
      if kind in ('x0', 'x1'):  # not 0 * b: x_1 need not be finite there
        return a if kind == 'x0' else b
      c0, c1 = TARGETS[kind](m)
      return _wide(c0, a) * a + _wide(c1, b) * b

    return map_leaves(target_leaf, self.target, x_0, x_1)

  def endpoints(self, x_t: AnyState, value: AnyState, t: Time) -> Endpoints:
    """(x_0, x_1) from x_t and a prediction of the target at time t.

    x_0 is clipped to clip_x0; where that changes it, x_1 is computed again
    from x_t and the clipped x_0 (unless recompute_x1 is False). `check` says
    beforehand whether this can be solved.
    """
    m = self._at(t)

    def solve(setting, x, y):
      kind, clip = setting
      x_0, x_1 = _solve(kind, m, x, y)
      if clip is None:
        return x_0, x_1
      clipped = thresholding.threshold(clip, x_0)
      if self.recompute_x1:
        again = (x - _wide(m.alpha, x) * clipped) / _wide(m.sigma, x)
        x_1 = jnp.where(clipped == x_0, x_1, again)
      return clipped, x_1

    leaves, structure = jax.tree.flatten(x_t)
    settings = zip(per_leaf(self.target, x_t), per_leaf(self.clip_x0, x_t))
    values = structure.flatten_up_to(value)
    pairs = [solve(*args) for args in zip(settings, leaves, values)]
    return Endpoints(
      jax.tree.unflatten(structure, [p[0] for p in pairs]),
      jax.tree.unflatten(structure, [p[1] for p in pairs]),
    )

  def velocity(self, ends: Endpoints, t: Time) -> AnyState:
    """dx_t / dt = alpha' x_0 + sigma' x_1 along the path through x_t."""
    m = self._at(t)

    def velocity_leaf(a, b):
      return _wide(m.alpha_dot, a) * a + _wide(m.sigma_dot, b) * b

    return jax.tree.map(velocity_leaf, ends.x_0, ends.x_1)

  def check(self, times: Any) -> None:
    """Raises ValueError where a prediction cannot be turned into endpoints.

    Args:
      times: every time at which the network will be called; NumPy.
    """
    times = np.atleast_1d(np.asarray(times, np.float64))
    with np.errstate(divide='ignore', invalid='ignore'):
      m = self.moment(times)
      for kind in dict.fromkeys(_values(self.target)):
        c0, c1 = TARGETS[kind](m)
        determinant = np.abs(m.alpha * c1 - m.sigma * c0)
        determinant = np.broadcast_to(determinant, times.shape)
        # A NaN or an infinity is no solution either.
        bad = ~((determinant > MIN_DETERMINANT) & np.isfinite(determinant))
        if bad.any():
          i = int(np.argmax(bad))
          raise ValueError(
            f'target={kind!r} cannot be solved for the endpoints at t='
            f'{times[i]:g}, where alpha={m.alpha[i]:.3g} and sigma='
            f'{m.sigma[i]:.3g} on {self.schedule}; start the timesteps '
            'elsewhere '
            "or predict another target ('v' can be solved at every time)."
          )
    clipped = any(clip is not None for clip in _values(self.clip_x0))
    if clipped and self.recompute_x1:
      bad = m.sigma <= MIN_DETERMINANT
      if bad.any():
        raise ValueError(
          f'clip_x0={self.clip_x0} recomputes x_1, which needs sigma > 0, '
          f'but sigma={m.sigma[bad][0]:.3g} at t={times[bad][0]:g}; set '
          'recompute_x1=False or clip_x0=None, or end the timesteps earlier.'
        )

  def _at(self, t) -> Moment:
    return t if isinstance(t, Moment) else self.moment(t)


def _solve(kind, m, x, value):
  """One leaf's endpoints: the 2x2 solve of (1) with c0 x_0 + c1 x_1."""
  c0, c1 = TARGETS[kind](m)
  determinant = m.alpha * c1 - m.sigma * c0
  # The coefficients first: those of 'x0' and 'x1' are then exactly 0 and 1.
  x_0 = _combine((c1 / determinant, x), (-m.sigma / determinant, value))
  x_1 = _combine((-c0 / determinant, x), (m.alpha / determinant, value))
  if kind == 'x0':
    return value, x_1
  return (x_0, value) if kind == 'x1' else (x_0, x_1)


def _combine(*terms):
  return sum(_wide(c, x) * x for c, x in terms)


def _wide(coefficient, x):
  """[b] -> [b, 1, ..., 1], as wide as x; scalars stay."""
  if np.ndim(coefficient) == 0:
    return coefficient
  return coefficient.reshape(coefficient.shape + (1,) * (x.ndim - 1))


def _canonical(target):
  """Names of TARGETS in place of their aliases."""
  if isinstance(target, Mapping):
    return {key: _canonical(kind) for key, kind in target.items()}
  return ALIASES.get(target, target)


def _values(setting) -> list:
  if isinstance(setting, Mapping):
    return [v for s in setting.values() for v in _values(s)]
  return [setting]
