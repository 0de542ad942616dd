"""The one sampling loop: a lax.scan over the rows of a stepper's tables."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key

from pix2seqd_jax.diffusion import grids, noise
from pix2seqd_jax.diffusion.process import AnyState, Moment, Process, map_leaves
from pix2seqd_jax.diffusion.steppers import Carry
from pix2seqd_jax.types import Grid

RETURNS = ('last_x0', 'state')


def sample(
  denoise: Callable,
  process: Process,
  x_1: AnyState,
  keys: Key[Array, 'b'],
  *,
  grid: Grid,
  stepper: Any,
  returns: Any = 'last_x0',
  self_condition: bool = False,
) -> AnyState:
  """Integrates from grid.now[0] (the source, as a rule) to the data.

  Args:
    denoise: (x_t, t [b], previous) -> Prediction of the process's target;
      guidance, conditions and the network's own clock are its affair. It is
      traced once and called once a row (for the steppers of this package).
    process: equation (1), the kind of target and the clipping of x_0.
    x_1: the state at grid.now[0], a tree of [b, ...].
    keys: one typed PRNG key an example, for steppers that draw noise.
    grid: times, as NumPy.
    stepper: see steppers.py.
    returns: 'last_x0', the last estimate of x_0 (Pix2Seq-D), or 'state', the
      x that the last step lands on; or one for each key of the state.
    self_condition: `previous` is then the last estimate of x_0, zeros in the
      first call (arXiv 2208.04202, section 3.2); else None.

  Returns:
    A tree like x_1, in at least float32.

  Raises:
    ValueError: a bad grid, a target that has no endpoints at a time of the
      grid, or an unknown `returns`; all before compilation.
  """
  map_leaves(_check_returns, returns, x_1)
  grids.check(grid)
  process.check(grid.now)
  x = jax.tree.map(_at_least_float32, x_1)
  dtype = jnp.result_type(*jax.tree.leaves(x))
  rows = jax.tree.map(
    lambda column: jnp.asarray(np.asarray(column), dtype),
    stepper.tables(process, grid),
  )

  def predict(x_t, moment: Moment, previous):
    t = jnp.broadcast_to(moment.t, keys.shape)
    prediction = denoise(x_t, t, previous if self_condition else None)
    ends = process.endpoints(x_t, prediction.value, moment)
    return jax.tree.map(lambda e: e.astype(dtype), ends)

  def body(carry, numbered):
    step, row = numbered
    step_keys = noise.fold_step(keys, step)
    return stepper.step(predict, carry, row, step_keys), None

  start = Carry(x, jax.tree.map(jnp.zeros_like, x), stepper.init(x))
  steps = jnp.arange(len(grid.now))
  end, _ = jax.lax.scan(body, start, (steps, rows))

  return map_leaves(_choose, returns, end.x_0, end.x)


def _choose(setting, x_0, x):
  return x_0 if setting == 'last_x0' else x


def _check_returns(setting, leaf):
  if setting not in RETURNS:
    raise ValueError(f'returns={setting!r} must be one of {RETURNS}.')
  return leaf


def _at_least_float32(x):
  return jnp.asarray(x, jnp.promote_types(x.dtype, jnp.float32))
