"""The one sampling loop: a lax.scan over the rows of each part of a sampler."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key

from pix2seqd_jax.diffusion import inpainting as inpainting_lib
from pix2seqd_jax.diffusion import noise
from pix2seqd_jax.diffusion import sampler as sampler_lib
from pix2seqd_jax.diffusion.process import (
  AnyState,
  Moment,
  Process,
  per_leaf,
)
from pix2seqd_jax.diffusion.sampler import Carry
from pix2seqd_jax.types import Timesteps

# What `sample` returns, for all leaves of the state or by key:
RETURNS = (
  'last_x0',  # the last estimate of x_0 (Pix2Seq-D)
  'block_x0',  # the first estimate of x_0 in the last row of the plan (PDM's
  # map, where a step of the solver makes three estimates)
  'state',  # the x that the last step lands on
  'denoised',  # the estimate of x_0 from that x: one more call
)


def sample(
  denoise: Callable,
  process: Process,
  x_1: AnyState,
  keys: Key[Array, 'b'],
  *,
  timesteps: Timesteps,
  sampler: Any,
  returns: Any = 'last_x0',
  self_condition: bool = False,
  callback: Callable | None = None,
  with_memory: bool = False,
  known: inpainting_lib.Known | None = None,
  inpainting: str = 'x0',
) -> Any:
  """Integrates from timesteps.now[0] (the source, as a rule) to the data.

  Args:
    denoise: (x_t, t [b], previous) -> Prediction of the process's target;
      guidance, conditions and the network's own clock are its affair. It is
      called as often as stepping.evaluations says.
    process: equation (1), the kind of target and the clipping of x_0.
    x_1: the state at timesteps.now[0], a tree of [b, ...].
    keys: one typed PRNG key an example, for samplers that draw noise.
    timesteps, sampler: times, as NumPy, and how they are crossed (stepping.py).
    returns: one of RETURNS, or one for each key of the state.
    self_condition: `previous` is then the last estimate of x_0, zeros in the
      first call (arXiv 2208.04202, section 3.2); else None.
    callback: called on the host after each row of the plan, in order, as
      (step 0 .. num_steps - 1, num_steps, x, last estimate of x_0). On one
      device only. None leaves no trace in what is compiled.
    with_memory: returns (tree, the sampler's memory): for 'rk45', its Effort.
    known: elements of x_0 that are given; None leaves no trace.
    inpainting: how the sample keeps to them, one of inpainting.VARIANTS.

  Returns:
    A tree like x_1, in at least float32; what is known stands in it unchanged.

  Raises:
    ValueError: a bad timesteps, a target that has no endpoints at a time of the
      timesteps, an unknown `returns`, or `known` that does not fit; all before
      compilation.
  """
  expected = _check(process, x_1, timesteps, sampler, returns)
  x = jax.tree.map(_at_least_float32, x_1)
  dtype = jnp.result_type(*jax.tree.leaves(x))
  held = inpainting_lib.hold(inpainting, known, x, sampler, process, timesteps)
  predict = _predictor(denoise, process, keys, self_condition, dtype, held)
  parts = _on_device(_plan(sampler, process, timesteps, held), dtype)
  zeros = jax.tree.map(jnp.zeros_like, x)
  carry = Carry(x, zeros, sampler.init(x))
  block_x0 = zeros if 'block_x0' in expected else None
  carry, block_x0 = _scan(predict, parts, carry, keys, block_x0, callback)

  found = {'last_x0': carry.x_0, 'state': carry.x, 'block_x0': block_x0}
  if 'denoised' in expected:
    end = _on_device(process.moment(np.asarray(timesteps.next)[-1]), dtype)
    found['denoised'] = predict(carry.x, end, carry.x_0).x_0
  state = _picked(found, expected, held)
  return (state, carry.memory) if with_memory else state


def check_options(
  guidance: Any, returns: Any, inpainting: Any = 'x0', strength: Any = 1.0
) -> None:
  """Raises ValueError for values that no model can be sampled with."""
  inpainting_lib.check_variant(inpainting)
  inpainting_lib.check_strength(strength)
  number = isinstance(guidance, int | float) and not isinstance(guidance, bool)
  if not (number and abs(guidance) < float('inf')):
    raise ValueError(
      f'sample.guidance={guidance!r} must be a finite number; 1.0 is the '
      'condition alone.'
    )
  settings = returns.values() if isinstance(returns, Mapping) else [returns]
  for setting in settings:
    if setting not in ('', *RETURNS):
      raise ValueError(
        f'sample.returns={returns!r} must be one of {RETURNS}, or empty for '
        "the model's own."
      )


def _check(process, x, timesteps, sampler, returns) -> list[str]:
  """Raises ValueError; else what is to be returned, for each leaf."""
  expected = per_leaf(returns, x)
  for setting in expected:
    if setting not in RETURNS:
      raise ValueError(f'returns={setting!r} must be one of {RETURNS}.')
  sampler_lib.check(sampler, process, timesteps)
  if 'denoised' in expected:
    process.check(np.asarray(timesteps.next)[-1])
  return expected


def _predictor(denoise, process, keys, self_condition, dtype, held):
  """(x, moment, previous) -> Endpoints, for samplers."""

  def predict(x_t, moment: Moment, previous):
    t = jnp.broadcast_to(moment.t, keys.shape)
    prediction = denoise(x_t, t, previous if self_condition else None)
    ends = process.endpoints(x_t, prediction.value, moment)
    ends = ends if held is None else held.estimate(ends, x_t, moment)
    return jax.tree.map(lambda e: e.astype(dtype), ends)

  return predict


def _plan(sampler, process, timesteps, held):
  parts = sampler_lib.plan(sampler, process, timesteps)
  return parts if held is None else held.parts(parts)


def _picked(found, expected, held):
  """What is to be returned, leaf by leaf, with what is known."""
  leaves = [jax.tree.leaves(found[k])[i] for i, k in enumerate(expected)]
  state = jax.tree.unflatten(jax.tree.structure(found['state']), leaves)
  return state if held is None else held.paste(state)


def _scan(predict, parts, carry, keys, block_x0, callback):
  """-> (carry, first estimate of the last row; None where none was given)."""
  done, total = 0, sum(sampler_lib.num_rows(rows) for _, rows in parts)

  def report(step, x, x_0):
    callback(int(step), total, x, x_0)

  for part, rows in parts:

    def body(state, numbered, part=part):
      step, row = numbered
      first = []

      def recorded(*args):
        ends = predict(*args)
        if not first:
          first.append(ends.x_0)
        return ends

      step_keys = noise.fold_step(keys, step)
      carry = part.step(recorded, state[0], row, step_keys)
      if callback is not None:
        jax.debug.callback(report, step, carry.x, carry.x_0, ordered=True)
      return (carry, None if state[1] is None else first[0]), None

    num_steps = sampler_lib.num_rows(rows)
    steps = jnp.arange(done, done + num_steps)
    (carry, block_x0), _ = jax.lax.scan(body, (carry, block_x0), (steps, rows))
    done += num_steps
  return carry, block_x0


def _at_least_float32(x):
  return jnp.asarray(x, jnp.promote_types(x.dtype, jnp.float32))


def _on_device(tree, dtype):
  """float64 NumPy columns -> arrays; the parts of a plan pass through."""

  def convert(leaf):
    if isinstance(leaf, np.ndarray | np.number | float):
      return jnp.asarray(np.asarray(leaf), dtype)
    return leaf

  return jax.tree.map(convert, tree)
