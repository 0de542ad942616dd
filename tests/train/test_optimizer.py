"""Learning rates and updates against the original's numbers and laws."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from pix2seqd_jax.train import optimizer

TREE = {
  'encoder': {'kernel': jnp.ones((3, 2)), 'bias': jnp.ones(2)},
  'decoder': {'kernel': jnp.ones((2, 2)), 'scale': jnp.ones(2)},
}
GRADS = jax.tree.map(lambda x: 0.1 * jnp.ones_like(x), TREE)


def updates_of(tx, grads=GRADS, params=TREE, steps=1):
  held = tx.init(params)
  for _ in range(steps):
    updates, held = tx.update(grads, held, params)
  return updates, held


@pytest.fixture(scope='module')
def oracle(shared):
  return np.load(shared / 'oracles' / 'pix2seq' / 'pure' / 'optim.npz')


# Oracle tables 3 and 4 are 'cosine@0.8' and 'exp@0.1', which no config of
# this paper uses.
@pytest.mark.parametrize('table', [0, 1, 2, 5])
def test_schedules_are_the_originals(oracle, table):
  name, warmup, tail, end = oracle[f'lr_{table}_cfg'].tolist()
  schedule = optimizer.make_schedule(
    'constant' if name == 'none' else name,
    base=1e-3,
    warmup_steps=int(warmup),
    total_steps=100,
    end_factor=float(end),
    tail_steps=int(tail),
  )
  rates = jax.vmap(schedule)(oracle['lr_steps'].astype(np.int32))
  np.testing.assert_allclose(rates, oracle[f'lr_{table}'], rtol=3e-6, atol=1e-9)


def test_the_config_of_the_paper():
  # Sheet 5: 184,824 steps, 1,155 of warm-up, 1e-4 to a tenth of it.
  schedule = optimizer.make_schedule(
    'linear', base=1e-4, warmup_steps=1155, total_steps=184824, end_factor=0.1
  )
  np.testing.assert_allclose(schedule(577), 4.9957e-5, rtol=1e-5)
  np.testing.assert_allclose(schedule(1155), 1e-4, rtol=1e-6)
  np.testing.assert_allclose(schedule(92989), 5.5e-5, rtol=1e-5)
  np.testing.assert_allclose(schedule(184824), 1e-5, rtol=1e-6)
  assert schedule(0) == 0 and schedule(0).dtype == jnp.float32


@pytest.mark.parametrize(
  'kwargs, message',
  [
    ({'name': 'cos'}, "must be 'linear'"),
    ({'warmup_steps': 6, 'tail_steps': 4}, 'leaves no step'),
    ({'base': 0.0}, 'above 0'),
    ({'end_factor': float('nan')}, 'at least 0'),
  ],
)
def test_bad_schedules_are_refused(kwargs, message):
  with pytest.raises(ValueError, match=message):
    optimizer.make_schedule(**{'base': 1e-3, 'total_steps': 10, **kwargs})


@pytest.mark.parametrize('run', ['const', 'sched'])
def test_adamw_is_the_originals(oracle, run):
  # Both runs: rate 1e-2, decay 0.05, b2 0.999; the second falls from step 3
  # on to a tenth at step 10. Every other gradient is far above the clip.
  schedule = 1e-2
  if run == 'sched':
    schedule = optimizer.make_schedule(
      'linear', base=1e-2, warmup_steps=3, total_steps=10, end_factor=0.1
    )
  tx = optimizer.make_optimizer('adamw', schedule, weight_decay=0.05)
  params = [jnp.asarray(oracle[f'adamw_{run}_init_{k}']) for k in (0, 1)]
  held = tx.init(params)
  update = jax.jit(tx.update)
  for step in range(6):
    grads = [jnp.asarray(oracle[f'adamw_{run}_g{step}_{k}']) for k in (0, 1)]
    updates, held = update(grads, held, params)
    params = optax.apply_updates(params, updates)
    for k in (0, 1):
      expected = oracle[f'adamw_{run}_p{step}_{k}']
      atol = 3e-6 * np.abs(expected).max()
      np.testing.assert_allclose(params[k], expected, rtol=0, atol=atol)


def test_eps_stands_outside_the_bias_correction():
  # With g far below eps, the first step is g / eps * sqrt(1 - b2) in Keras'
  # form, and g / eps in optax's.
  tx = optimizer.make_optimizer('adam', 1.0, eps=1e-3, clip_norm=None)
  updates, _ = updates_of(tx, jax.tree.map(lambda g: 1e-9 * g, GRADS))
  np.testing.assert_allclose(
    updates['decoder']['scale'], -1e-10 / 1e-3 * np.sqrt(1e-3), rtol=1e-4
  )


@pytest.mark.parametrize(
  'mask, decayed',
  [
    (
      'all',
      {'encoder/kernel', 'encoder/bias', 'decoder/kernel', 'decoder/scale'},
    ),
    ('kernels', {'encoder/kernel', 'decoder/kernel'}),
    (
      ('^decoder/', 'bias'),
      {'encoder/bias', 'decoder/kernel', 'decoder/scale'},
    ),
  ],
)
def test_decay_masks(mask, decayed):
  tx = optimizer.make_optimizer('adamw', 0.1, weight_decay=0.5, decay_mask=mask)
  zeros = jax.tree.map(jnp.zeros_like, TREE)
  updates = optimizer.sharding.flat_paths(updates_of(tx, zeros)[0])
  for path, update in updates.items():
    expected = -0.05 if path in decayed else 0.0
    np.testing.assert_allclose(update, expected, rtol=1e-6)


def test_groups_scale_the_whole_update():
  plain = optimizer.make_optimizer('adamw', 0.1, weight_decay=0.5)
  grouped = optimizer.make_optimizer(
    'adamw', 0.1, weight_decay=0.5, groups=(('bias', 0.0), ('encoder', 0.5))
  )
  before, after = updates_of(plain)[0], updates_of(grouped)[0]
  np.testing.assert_allclose(
    after['encoder']['kernel'], 0.5 * before['encoder']['kernel']
  )
  np.testing.assert_array_equal(after['encoder']['bias'], 0)  # first match
  np.testing.assert_array_equal(
    after['decoder']['kernel'], before['decoder']['kernel']
  )


def test_frozen_leaves_do_not_move_hold_no_state_and_leave_the_norm():
  tx = optimizer.make_optimizer('sgd', 1.0, b1=0.0, freeze=('^encoder/',))
  grads = {
    'encoder': jax.tree.map(lambda x: 1e6 * x, GRADS['encoder']),
    'decoder': GRADS['decoder'],
  }
  updates, _ = updates_of(tx, grads)
  assert all((u == 0).all() for u in jax.tree.leaves(updates['encoder']))
  # Six entries of 0.1 have the norm 0.245 < 1: not clipped.
  np.testing.assert_allclose(updates['decoder']['kernel'], -0.1, rtol=1e-6)
  adam = optimizer.make_optimizer('adamw', 1.0, freeze=('^encoder/',))
  paths = optimizer.sharding.flat_paths(adam.init(TREE))
  assert not any('encoder' in path for path in paths)
  assert sum('decoder' in path for path in paths) == 4


def test_clipping_bounds_the_global_norm():
  tx = optimizer.make_optimizer('sgd', 1.0, b1=0.0, clip_norm=0.01)
  np.testing.assert_allclose(
    optax.tree.norm(updates_of(tx)[0]), 0.01, rtol=1e-5
  )


def test_sgd_has_momentum_and_lamb_a_trust_ratio():
  sgd = optimizer.make_optimizer('sgd', 1.0, b1=0.5, clip_norm=None)
  updates, _ = updates_of(sgd, steps=3)
  np.testing.assert_allclose(
    updates['decoder']['scale'], -0.1 * (1 + 0.5 + 0.25), rtol=1e-6
  )
  lamb = optimizer.make_optimizer('lamb', 0.1)
  big = jax.tree.map(lambda p: 10 * p, TREE)
  ratio = jax.tree.map(
    lambda u, v: float(jnp.linalg.norm(u) / jnp.linalg.norm(v)),
    updates_of(lamb, params=big)[0],
    updates_of(lamb)[0],
  )
  np.testing.assert_allclose(jax.tree.leaves(ratio), 10, rtol=1e-4)


@pytest.mark.parametrize(
  'kwargs, message',
  [
    ({'freeze': ('enoder',)}, "'enoder' matches no parameter"),
    ({'groups': (('head', 0.1),)}, "'head' matches no parameter"),
    ({'decay_mask': ('gamma',)}, "'gamma' matches no parameter"),
    ({'freeze': ('.',)}, 'freezes every parameter'),
    ({'decay_mask': 'kernel'}, "must be 'all', 'kernels'"),
    ({'name': 'adamax'}, "must be 'adamw'"),
    ({'name': 'adam', 'weight_decay': 0.1}, "use optimizer.name='adamw'"),
  ],
)
def test_bad_optimizers_are_refused(kwargs, message):
  with pytest.raises(ValueError, match=message):
    optimizer.make_optimizer(**kwargs).init(TREE)
