"""The train state: one tree with all that a run is, made on the mesh."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from pix2seqd_jax import types
from pix2seqd_jax.train import sharding

COLLECTIONS = ('net', 'stats', 'frozen')
AVERAGED = ('net', 'stats')


class TrainState(NamedTuple):
  """What a step takes and gives."""

  step: Any  # int32 scalar: steps done
  params: types.Params  # {'net', 'stats', 'frozen'}
  ema: types.Params | None  # {'net', 'stats'} in float32, or None
  opt_state: Any


def collections(params: types.Params) -> dict[str, Any]:
  """{'net', 'stats', 'frozen'}, the missing ones empty.

  Raises:
    ValueError: on another top-level name, or without 'net'.
  """
  unknown = sorted(set(params) - set(COLLECTIONS))
  if unknown or 'net' not in params:
    raise ValueError(
      f'params has the collections {sorted(params)}; they must be '
      f"{COLLECTIONS}, with 'net' always: let model.init return these."
    )
  return {name: params.get(name, {}) for name in COLLECTIONS}


def ema_of(params: types.Params) -> dict[str, Any]:
  """A float32 copy of the averaged collections (never the same buffers).

  In bfloat16 an average of decay 0.9999 would not move at all. The original
  starts its average from another random initialisation; ours starts from the
  parameters themselves.
  """

  def copy(x):
    wide = x.dtype if _is_exact(x) else jnp.promote_types(x.dtype, jnp.float32)
    return jnp.array(x, dtype=wide, copy=True)

  return jax.tree.map(copy, {name: params[name] for name in AVERAGED})


def _is_exact(x) -> bool:
  return not jnp.issubdtype(x.dtype, jnp.floating)


def update_ema(
  ema: types.Params, params: types.Params, decay: Any
) -> dict[str, Any]:
  """decay * ema + (1 - decay) * params; counters are copied, not averaged."""

  def average(old, new):
    return new if _is_exact(old) else old + (1 - decay) * (new - old)

  return jax.tree.map(average, ema, {name: params[name] for name in AVERAGED})


def _create(model, optimizer, batch, use_ema):
  """rng -> TrainState, to be traced. Of the batch only the shapes matter."""
  shapes = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype),
    sharding.device_part(batch),
  )

  def create(rng) -> TrainState:
    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
    params = collections(model.init(rng, zeros))
    return TrainState(
      step=jnp.zeros((), jnp.int32),
      params=params,
      ema=ema_of(params) if use_ema else None,
      opt_state=optimizer.init(params['net']),
    )

  return create


def abstract_state(
  model: types.Model,
  optimizer: Any,
  batch: types.Batch,
  mesh: Mesh,
  rules: sharding.Rules = (),
  use_ema: bool = True,
) -> TrainState:
  """Shapes, dtypes and shardings of the state; nothing is computed."""
  create = _create(model, optimizer, batch, use_ema)
  shapes = jax.eval_shape(create, jax.random.key(0))
  return with_shardings(shapes, sharding.shardings(shapes, mesh, rules))


def with_shardings(tree: types.PyTree, where: types.PyTree) -> types.PyTree:
  """The shapes of a tree with a sharding each: a target for `restore`."""
  return jax.tree.map(
    lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), tree, where
  )


def abstract_like(state: TrainState) -> TrainState:
  """Shapes, dtypes and shardings of a state that exists."""
  return jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state
  )


def create_state(
  model: types.Model,
  optimizer: Any,
  rng: types.Array,
  batch: types.Batch,
  mesh: Mesh,
  rules: sharding.Rules = (),
  use_ema: bool = True,
) -> TrainState:
  """Initialises parameters, EMA and optimizer state where they belong.

  One jit with `out_shardings`: without them the zeros of the optimizer state,
  which depend on no data, would all land on one device. Of `batch` (host
  arrays or shapes) only the shapes and dtypes are used.
  """
  create = _create(model, optimizer, batch, use_ema)
  shapes = jax.eval_shape(create, rng)
  where = sharding.shardings(shapes, mesh, rules)
  return jax.jit(create, out_shardings=where)(rng)


def with_params(state: TrainState, params: types.Params) -> TrainState:
  """The state with other weights (host or device); its EMA starts there."""
  new = jax.tree.map(
    lambda old, x: jax.device_put(jnp.asarray(x, old.dtype), old.sharding),
    state.params,
    collections(params),
  )
  if state.ema is None:
    return state._replace(params=new)
  where = jax.tree.map(lambda x: x.sharding, state.ema)
  ema = jax.jit(ema_of, out_shardings=where)(new)
  return state._replace(params=new, ema=ema)


def eval_params(state: TrainState, ema: bool = True) -> types.Params:
  """The parameters to evaluate with: averaged ones if there are any."""
  if not ema or state.ema is None:
    return state.params
  return {**state.ema, 'frozen': state.params['frozen']}
