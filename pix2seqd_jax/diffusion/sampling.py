"""The one sampling loop: a lax.scan over the rows of each part of a stepper."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key

from pix2seqd_jax.diffusion import grids, noise, stepping
from pix2seqd_jax.diffusion.process import (
  AnyState,
  Moment,
  Process,
  per_leaf,
)
from pix2seqd_jax.diffusion.stepping import Carry
from pix2seqd_jax.types import Grid

RETURNS = ('last_x0', 'block_x0', 'state', 'denoised')


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
      called as often as stepping.evaluations says.
    process: equation (1), the kind of target and the clipping of x_0.
    x_1: the state at grid.now[0], a tree of [b, ...].
    keys: one typed PRNG key an example, for steppers that draw noise.
    grid: times, as NumPy.
    stepper: see stepping.py.
    returns: one setting, or one for each key of the state:
      'last_x0', the last estimate of x_0 (Pix2Seq-D);
      'block_x0', the first estimate of x_0 in the last step (PDM's map, where
      a step of its solver makes three estimates);
      'state', the x that the last step lands on;
      'denoised', the estimate of x_0 from that x: one more call.
    self_condition: `previous` is then the last estimate of x_0, zeros in the
      first call (arXiv 2208.04202, section 3.2); else None.

  Returns:
    A tree like x_1, in at least float32.

  Raises:
    ValueError: a bad grid, a target that has no endpoints at a time of the
      grid, or an unknown `returns`; all before compilation.
  """
  wanted = _check_returns(returns, x_1)
  grids.check(grid)
  process.check(stepping.times(stepper, process, grid))
  last = np.asarray(grid.next, np.float64)[-1]
  if 'denoised' in wanted:
    process.check(last)
  x = jax.tree.map(_at_least_float32, x_1)
  dtype = jnp.result_type(*jax.tree.leaves(x))
  parts = [
    (part, jax.tree.map(lambda column: _device(column, dtype), rows))
    for part, rows in stepping.plan(stepper, process, grid)
  ]

  def predict(x_t, moment: Moment, previous):
    t = jnp.broadcast_to(moment.t, keys.shape)
    prediction = denoise(x_t, t, previous if self_condition else None)
    ends = process.endpoints(x_t, prediction.value, moment)
    return jax.tree.map(lambda e: e.astype(dtype), ends)

  zeros = jax.tree.map(jnp.zeros_like, x)
  carry = Carry(x, zeros, stepper.init(x))
  carry, block_x0 = _scan(
    predict, parts, carry, keys, zeros if 'block_x0' in wanted else None
  )
  choices = {'last_x0': carry.x_0, 'state': carry.x, 'block_x0': block_x0}
  if 'denoised' in wanted:
    moment = jax.tree.map(lambda m: _device(m, dtype), process.moment(last))
    choices['denoised'] = predict(carry.x, moment, carry.x_0).x_0
  found = [jax.tree.leaves(choices[kind]) for kind in wanted]
  chosen = [leaves[i] for i, leaves in enumerate(found)]
  return jax.tree.unflatten(jax.tree.structure(x), chosen)


def _scan(predict, parts, carry, keys, block_x0):
  """-> (carry, first estimate of the last row; None where none was given)."""
  done = 0
  for part, rows in parts:

    def body(state, numbered, part=part):
      step, row = numbered
      first = []

      def recorded(*args):
        ends = predict(*args)
        first.append(ends.x_0)
        return ends

      step_keys = noise.fold_step(keys, step)
      carry = part.step(recorded, state[0], row, step_keys)
      return (carry, None if state[1] is None else first[0]), None

    num_steps = stepping.num_rows(rows)
    steps = jnp.arange(done, done + num_steps)
    (carry, block_x0), _ = jax.lax.scan(body, (carry, block_x0), (steps, rows))
    done += num_steps
  return carry, block_x0


def _device(column, dtype):
  return jnp.asarray(np.asarray(column), dtype)


def _check_returns(returns, x) -> list[str]:
  """One setting for each leaf."""
  wanted = per_leaf(returns, x)
  for setting in wanted:
    if setting not in RETURNS:
      raise ValueError(f'returns={setting!r} must be one of {RETURNS}.')
  return wanted


def _at_least_float32(x):
  return jnp.asarray(x, jnp.promote_types(x.dtype, jnp.float32))
