"""The step: gradients of net alone, averages, accumulation, meshes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy import Toy, make_batch

from pix2seqd_jax.train import optimizer, sharding, state, step

ONE = (('data', 1), ('fsdp', 1), ('tensor', 1))


def one_device():
  return sharding.make_mesh(ONE, jax.devices()[:1])


def make(model=None, tx=None, mesh=None, **kwargs):
  model = model or Toy()
  tx = tx or optimizer.make_optimizer('sgd', 0.1, b1=0.0, clip_norm=None)
  mesh = mesh or one_device()
  made = state.create_state(model, tx, jax.random.key(0), make_batch(0), mesh)
  return made, step.make_train_step(model, tx, mesh=mesh, **kwargs), mesh


def run(made, train_step, mesh, steps=1):
  for i in range(steps):
    batch = sharding.put_batch(make_batch(i), mesh)
    made, scalars = train_step(
      made, batch, jax.random.fold_in(jax.random.key(1), i)
    )
  return made, scalars


def test_the_update_is_the_gradient_of_net_and_stats_are_put_back():
  made, train_step, mesh = make(Toy(frozen=True))
  before = jax.device_get(made)
  batch = sharding.device_part(make_batch(0))
  key = jax.random.fold_in(jax.random.key(1), 0)

  def loss(net):
    return Toy(frozen=True).loss_fn({**before.params, 'net': net}, batch, key)

  grads, aux = jax.grad(loss, has_aux=True)(before.params['net'])
  after, scalars = run(made, train_step, mesh)
  jax.tree.map(
    lambda p, g, q: np.testing.assert_allclose(q, p - 0.1 * g, atol=1e-6),
    before.params['net'],
    grads,
    after.params['net'],
  )
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6),
    aux.stats,
    after.params['stats'],
  )
  np.testing.assert_array_equal(after.params['frozen']['scale'], 2)
  assert after.step == 1
  names = {'loss', 'error', 'grad_norm', 'param_norm', 'learning_rate'}
  assert set(scalars) == names | {'is_finite'}
  squares = sum(float((g**2).sum()) for g in jax.tree.leaves(grads))
  np.testing.assert_allclose(scalars['grad_norm'], squares**0.5, rtol=1e-5)


def test_the_state_is_donated():
  made, train_step, mesh = make()
  old = made.params['net']['one']['kernel']
  run(made, train_step, mesh)
  assert old.is_deleted()


@pytest.mark.parametrize('warmup', [False, True])
def test_ema_law(warmup):
  made, train_step, mesh = make(ema_decay=0.9, ema_warmup=warmup)
  expected = np.asarray(made.ema['net']['one']['kernel'])
  mean = np.asarray(made.ema['stats']['one']['mean'])
  for i in range(5):
    batch = sharding.put_batch(make_batch(i), mesh)
    made, _ = train_step(made, batch, jax.random.key(i))
    d = min(0.9, (1 + i) / (10 + i)) if warmup else 0.9
    new = np.asarray(made.params['net']['one']['kernel'])
    expected = d * expected + (1 - d) * new
    mean = d * mean + (1 - d) * np.asarray(made.params['stats']['one']['mean'])
  np.testing.assert_allclose(
    made.ema['net']['one']['kernel'], expected, atol=1e-6
  )
  np.testing.assert_allclose(made.ema['stats']['one']['mean'], mean, atol=1e-6)


@pytest.mark.parametrize('pieces', [2, 4, 8])
def test_accumulation_is_the_big_batch(pieces):
  whole, _ = run(*make(), steps=3)
  parts, _ = run(*make(accumulate=pieces), steps=3)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, atol=2e-6),
    whole.params['net'],
    parts.params['net'],
  )


def test_accumulation_on_a_mesh_keeps_examples_where_they_are():
  mesh = sharding.make_mesh((('data', 4), ('fsdp', 1), ('tensor', 2)))
  parts, _ = run(*make(mesh=mesh, accumulate=2))
  whole, _ = run(*make())
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, atol=2e-6),
    whole.params['net'],
    parts.params['net'],
  )


def test_accumulation_that_does_not_divide_is_refused():
  with pytest.raises(ValueError, match='accumulate=3'):
    run(*make(accumulate=3))
  with pytest.raises(ValueError, match='batch_size=4'):
    run(*make(mesh=sharding.make_mesh(), accumulate=2))


def test_one_device_or_eight_the_same_losses():
  rules = (('one/kernel$', (None, ('fsdp', 'tensor'))), ('two/', 'fsdp'))
  cube = sharding.make_mesh((('data', 2), ('fsdp', 2), ('tensor', 2)))
  model = Toy(dropout=0.2)
  tx = optimizer.make_optimizer('adamw', 0.01, weight_decay=0.05)
  losses = []
  for mesh, used in ((one_device(), ()), (cube, rules)):
    made = state.create_state(
      model, tx, jax.random.key(0), make_batch(0), mesh, used
    )
    train_step = step.make_train_step(model, tx, mesh=mesh, rules=used)
    row = []
    for i in range(60):
      batch = sharding.put_batch(make_batch(i), mesh)
      key = jax.random.fold_in(jax.random.key(1), i)
      made, scalars = train_step(made, batch, key)
      row.append(float(scalars['loss']))
    losses.append(row)
    spec = made.params['net']['one']['kernel'].sharding.spec
    assert ('tensor' in str(spec)) == bool(used)
  np.testing.assert_allclose(losses[0], losses[1], rtol=2e-6)


def test_frozen_gradients_are_in_no_norm():
  tx = optimizer.make_optimizer('sgd', 0.1, b1=0.0, freeze=('^one/',))
  _, scalars = run(*make(tx=tx))
  _, every = run(*make())
  assert 0 < scalars['grad_norm'] < every['grad_norm']


def test_is_finite_sees_an_update_that_is_not():
  made, train_step, mesh = make()
  assert run(made, train_step, mesh)[1]['is_finite'] == 1

  class Explodes(Toy):
    def loss_fn(self, params, batch, rng):
      loss, aux = super().loss_fn(params, batch, rng)
      bias = params['net']['one']['bias'] - params['net']['one']['bias']
      return loss + jnp.sqrt(bias).sum(), aux  # finite; its gradient is not

  _, scalars = run(*make(Explodes()))
  assert np.isfinite(scalars['loss']) and scalars['is_finite'] == 0


def test_without_ema():
  model, mesh = Toy(), one_device()
  tx = optimizer.make_optimizer('adamw', 0.1)
  made = state.create_state(
    model, tx, jax.random.key(0), make_batch(0), mesh, use_ema=False
  )
  after, _ = run(made, step.make_train_step(model, tx, mesh=mesh), mesh)
  assert after.ema is None


def test_the_compiled_step_can_be_looked_at():
  made, train_step, mesh = make()
  lowered = train_step.lower(
    made, sharding.put_batch(make_batch(0), mesh), jax.random.key(0)
  )
  assert 'f64' not in lowered.as_text()
