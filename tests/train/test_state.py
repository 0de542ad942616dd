"""States: made on the mesh, averaged in float32."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy import Toy, make_batch

from pix2seqd_jax.train import optimizer, sharding, state

RULES = (('one/kernel$', (None, ('fsdp', 'tensor'))), ('two/kernel$', 'fsdp'))
CUBE = (('data', 2), ('fsdp', 2), ('tensor', 2))


def create(mesh, rules=RULES, use_ema=True, **toy):
  return state.create_state(
    Toy(**toy),
    optimizer.make_optimizer('adamw', 0.1),
    jax.random.key(0),
    make_batch(0),
    mesh,
    rules,
    use_ema,
  )


def test_optimizer_state_and_ema_are_sharded_like_their_parameter():
  made = create(sharding.make_mesh(CUBE))
  spec = made.params['net']['one']['kernel'].sharding.spec
  found = {
    path: leaf.sharding.spec
    for path, leaf in sharding.flat_paths(made).items()
    if path.endswith('one/kernel')
  }
  assert len(found) == 4  # the parameter, its average, two moments
  assert set(found.values()) == {spec}


def test_the_mesh_does_not_change_the_initial_values():
  eight = create(sharding.make_mesh(CUBE))
  one = create(sharding.make_mesh(devices=jax.devices()[:1]))
  jax.tree.map(np.testing.assert_array_equal, eight, one)


def test_abstract_state_matches_the_real_one():
  mesh = sharding.make_mesh(CUBE)
  made = create(mesh)
  expected = state.abstract_like(made)
  abstract = state.abstract_state(
    Toy(), optimizer.make_optimizer('adamw', 0.1), make_batch(0), mesh, RULES
  )
  assert jax.tree.structure(abstract) == jax.tree.structure(expected)
  for a, e in zip(jax.tree.leaves(abstract), jax.tree.leaves(expected)):
    assert (a.shape, a.dtype) == (e.shape, e.dtype)
    assert a.sharding.is_equivalent_to(e.sharding, len(a.shape))


def test_ema_starts_as_a_copy_in_other_buffers():
  made = create(sharding.make_mesh())
  old = made.params['net']['one']['kernel']
  new = made.ema['net']['one']['kernel']
  np.testing.assert_array_equal(old, new)
  pointers = [
    x.addressable_shards[0].data.unsafe_buffer_pointer() for x in (old, new)
  ]
  assert pointers[0] != pointers[1]


def test_ema_of_bfloat16_moves():
  params = {'net': jnp.ones(2, jnp.bfloat16), 'stats': {}}
  ema = state.ema_of(params)
  assert ema['net'].dtype == jnp.float32
  params['net'] = jnp.zeros(2, jnp.bfloat16)
  for _ in range(20):
    ema = state.update_ema(ema, params, 0.999)
  np.testing.assert_allclose(ema['net'], 0.999**20, rtol=1e-6)


def test_integers_are_copied_into_the_average():
  params = {'net': {}, 'stats': {'count': jnp.int32(3)}}
  ema = state.update_ema(
    {'net': {}, 'stats': {'count': jnp.int32(1)}}, params, 0.9
  )
  assert ema['stats']['count'] == 3


def test_eval_params_prefers_the_average():
  made = create(sharding.make_mesh(), frozen=True)
  made = made._replace(ema=jax.tree.map(lambda x: x + 1, made.ema))
  averaged = state.eval_params(made)
  assert averaged['net'] is made.ema['net']
  assert averaged['frozen'] is made.params['frozen']
  assert state.eval_params(made, ema=False) is made.params
  without = create(sharding.make_mesh(), use_ema=False)
  assert state.eval_params(without) is without.params


def test_with_params_replaces_weights_and_restarts_the_average():
  made = create(sharding.make_mesh(CUBE))
  host = jax.tree.map(lambda x: np.full(x.shape, 3.0), made.params)
  new = state.with_params(made, host)
  kernel = new.params['net']['one']['kernel']
  assert kernel.sharding == made.params['net']['one']['kernel'].sharding
  assert kernel.dtype == jnp.float32
  np.testing.assert_array_equal(new.ema['net']['one']['kernel'], 3)


def test_unknown_collections_are_refused():
  with pytest.raises(ValueError, match='batch_stats'):
    state.collections({'net': {}, 'batch_stats': {}})
