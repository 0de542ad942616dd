"""One training step: loss, gradients, update, running averages."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from pix2seqd_jax import types
from pix2seqd_jax.train import augment, sharding, state

TrainStep = Callable[
  [state.TrainState, types.Batch, types.Array],
  tuple[state.TrainState, dict[str, types.Array]],
]


def ema_decay_at(decay: float, step: Any, warmup: bool) -> Any:
  """`decay`, or min(decay, (1 + i) / (10 + i)) after i updates."""
  if not warmup:
    return decay
  i = jnp.asarray(step, jnp.float32)
  return jnp.minimum(decay, (1 + i) / (10 + i))


def _gradients(model: types.Model, params, batch, rng):
  """Loss, Aux and the gradient with respect to params['net'] alone."""

  def loss_of(net):
    loss, aux = model.loss_fn({**params, 'net': net}, batch, rng)
    return loss.astype(jnp.promote_types(loss.dtype, jnp.float32)), aux

  (loss, aux), grads = jax.value_and_grad(loss_of, has_aux=True)(params['net'])
  stats = params['stats'] if aux.stats is None else aux.stats
  return {**aux.scalars, 'loss': loss}, grads, stats


def _accumulated(model: types.Model, params, batch, rng, pieces: int):
  """The mean of the gradients over `pieces` parts of the batch, by a scan.

  Part i takes every pieces-th example, so that an example stays on the device
  where it is. Running statistics pass from part to part.
  """
  if pieces == 1:
    return _gradients(model, params, batch, rng)
  parts = jax.tree.map(
    lambda x: jnp.swapaxes(
      x.reshape(x.shape[0] // pieces, pieces, *x.shape[1:]), 0, 1
    ),
    batch,
  )

  def body(carry, inputs):
    stats, total = carry
    i, part = inputs
    scalars, grads, stats = _gradients(
      model, {**params, 'stats': stats}, part, jax.random.fold_in(rng, i)
    )
    return (stats, jax.tree.map(jnp.add, total, grads)), scalars

  zeros = jax.tree.map(jnp.zeros_like, params['net'])
  (stats, total), scalars = jax.lax.scan(
    body, (params['stats'], zeros), (jnp.arange(pieces), parts)
  )
  grads = jax.tree.map(lambda g: g / pieces, total)
  return jax.tree.map(lambda x: x.mean(0), scalars), grads, stats


def _trained_only(optimizer, tree):
  """The leaves that are trained; frozen ones are no part of any norm."""
  if not hasattr(optimizer, 'trained'):
    return tree
  keep = jax.tree.leaves(optimizer.trained(tree))
  return [x for x, k in zip(jax.tree.leaves(tree), keep) if k]


def _norm(tree) -> Any:
  leaves = [x.astype(jnp.float32) for x in jax.tree.leaves(tree)]
  return jnp.sqrt(sum((jnp.sum(x * x) for x in leaves), jnp.float32(0)))


def _is_finite(*values) -> Any:
  """1 where all of them are numbers, else 0."""
  return jnp.isfinite(jnp.stack(values)).all().astype(jnp.float32)


def _make_step(model, optimizer, ema_decay, ema_warmup, accumulate):
  """The function that is compiled; the arguments are make_train_step's."""

  def step_fn(old: state.TrainState, batch, rng):
    batch, told = augment.prepare(batch)
    scalars, grads, stats = _accumulated(
      model, old.params, batch, rng, accumulate
    )
    scalars = {**scalars, **told}
    net = old.params['net']
    updates, opt_state = optimizer.update(grads, old.opt_state, net)
    params = {
      **old.params,
      'net': optax.apply_updates(net, updates),
      'stats': stats,
    }
    ema = old.ema
    if ema is not None:
      decay = ema_decay_at(ema_decay, old.step, ema_warmup)
      ema = state.update_ema(ema, params, decay)
    scalars['grad_norm'] = _norm(_trained_only(optimizer, grads))
    scalars['param_norm'] = _norm(params['net'])
    # The new weights count too: a finite loss can come before an update that
    # is not, and no checkpoint may hold it.
    scalars['is_finite'] = _is_finite(
      scalars['loss'], scalars['grad_norm'], scalars['param_norm'], _norm(stats)
    )
    if hasattr(optimizer, 'learning_rate'):
      scalars['learning_rate'] = optimizer.learning_rate(old.step)
    return state.TrainState(old.step + 1, params, ema, opt_state), scalars

  return step_fn


def _check_division(batch, accumulate: int, mesh: Mesh) -> None:
  size = jax.tree.leaves(batch)[0].shape[0]
  if accumulate < 1 or size % accumulate:
    raise ValueError(
      f'optimizer.accumulate={accumulate} does not divide '
      f'data.batch_size={size}; choose a divisor.'
    )
  sharding.check_batch(size // accumulate, mesh, processes=1)


def make_train_step(
  model: types.Model,
  optimizer: Any,
  *,
  mesh: Mesh,
  rules: sharding.Rules = (),
  ema_decay: float = 0.999,
  ema_warmup: bool = False,
  accumulate: int = 1,
) -> TrainStep:
  """(state, batch, rng) -> (state, scalars), compiled once, state donated.

  Args:
    model: gives loss_fn(params, batch, rng) -> (loss, Aux).
    optimizer: an `optimizer.Optimizer` or an optax transformation.
    mesh: of the state, and of the batch (from `sharding.put_batch`).
    rules: the rules with which the state was made.
    ema_decay: of the average of net and stats, updated after the weights.
    ema_warmup: see `ema_decay_at`; off for parity with the reference.
    accumulate: parts of a batch, to save memory; their mean is the gradient.

  The scalars: those of Aux, `loss`, `grad_norm` (before clipping, of trained
  leaves), `param_norm` (after the update), `learning_rate`, and `is_finite`,
  0 when anything turned NaN or Inf.

  Raises:
    ValueError: at the first call, when `accumulate` and the mesh do not divide
      the batch.
  """
  step_fn = _make_step(model, optimizer, ema_decay, ema_warmup, accumulate)
  compiled = None

  def build(old, batch):
    _check_division(batch, accumulate, mesh)
    where = sharding.shardings(old, mesh, rules)
    whole = sharding.replicated(mesh)
    return jax.jit(
      step_fn,
      in_shardings=(where, sharding.batch_sharding(mesh), whole),
      out_shardings=(where, whole),
      donate_argnums=0,
    )

  def train_step(old, batch, rng):
    nonlocal compiled
    if compiled is None:
      compiled = build(old, batch)
    return compiled(old, batch, rng)

  # For cost analysis and ahead-of-time compilation.
  train_step.lower = lambda old, batch, rng: build(old, batch).lower(
    old, batch, rng
  )
  return train_step
