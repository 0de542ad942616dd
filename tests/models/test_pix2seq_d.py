"""The method file against the original, and the laws of its interface."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import parity
import pytest
from flax import traverse_util

from pix2seqd_jax import checking
from pix2seqd_jax.diffusion import noise, samplers
from pix2seqd_jax.diffusion import timesteps as timesteps_lib
from pix2seqd_jax.models.pix2seq_d import CONDITIONALS, Pix2SeqD
from pix2seqd_jax.pretrained import pix2seq_tf
from pix2seqd_jax.types import inputs_only

STATISTICS = 5e-6  # see tests/train/test_step_oracles.py
TINY = {
  'num_classes': 5,
  'num_ids': 8,
  'image_size': (32, 32),
  'mask_size': (16, 16),
  'class_bits': 3,
  'instance_bits': 3,
  'encoder': {
    'width_multiplier': 0.0625,
    'blocks': (1, 1, 1),
    'dim': 16,
    'num_layers': 1,
    'num_heads': 2,
    'mlp_dim': 32,
  },
  'merge': {'out_dim': 8},
  'denoiser': {
    'dim': 8,
    'multipliers': (1, 2),
    'transformer_dim': 16,
    'transformer_blocks': 1,
    'head_dim': 8,
  },
}


def make(**changes):
  return checking.construct('model', Pix2SeqD, TINY | changes)


@pytest.fixture(scope='module')
def original(shared):
  """(model, {'raw', 'ema'} params, inputs and outputs of io_loss)."""
  params = {}
  for kind in ('raw', 'ema'):
    params[kind], config = oracles.load_pix2seq(shared, 'A', kind)
  folder = shared / 'oracles' / 'pix2seq' / 'A'
  return oracles.model(config), params, oracles.load_npz(folder / 'io_loss.npz')


def batch_of(z):
  return {
    'image': jnp.asarray(z['images']),
    'valid': jnp.ones(z['images'].shape[:3], bool),
    'semantic': jnp.asarray(z['label_map'][..., 0]),
    'instance': jnp.asarray(z['label_map'][..., 1]),
  }


@pytest.mark.parametrize(
  ('key', 'kind', 'p'),
  [
    ('loss_eval', 'ema', 0.2),
    ('loss_train', 'raw', 0.2),
    ('loss_train_p0.0', 'raw', 0.0),
    ('loss_train_p0.6', 'raw', 0.6),
    ('loss_train_p1.0', 'raw', 1.0),
  ],
)
def test_loss_is_the_originals(original, key, kind, p):
  model, params, z = original
  model = dataclasses.replace(model, loss_weight=p)
  batch, train = batch_of(z), kind == 'raw'

  @jax.jit
  def loss(params, batch, x_1, t):
    k_drop = jax.random.key(0)  # rates are 0 in the oracle
    encoded = model.encode(params, batch, k_drop, train=train)
    x_0, weight = model.target(params, batch, None)
    return model.loss_at(
      params, batch, encoded, x_0, x_1, t, weight, train=train, rng=k_drop
    ), (x_0, weight, encoded.stats)

  with jax.default_matmul_precision('highest'):
    found, (x_0, weight, stats) = loss(
      params[kind], batch, jnp.asarray(z['eps']), jnp.asarray(z['t'])
    )
  oracle = 'pix2seq/A/io_loss.npz through the model'
  parity.check(oracle, key, found, z[key], bound=2e-5)
  parity.check(oracle, 'bits', x_0, z['bits'], bound=1e-7)
  if p == 0.2:
    parity.check(oracle, 'mask_weight', weight, z['mask_weight'])
  if key == 'loss_train':
    flat = traverse_util.flatten_dict({'stats': stats})
    named = {
      f'bn_after/{pix2seq_tf.their_name(path)}': leaf
      for path, leaf in flat.items()
    }
    assert set(named) == {k for k in z if k.startswith('bn_after/')}
    for name, leaf in named.items():
      parity.check(oracle, name, leaf, z[name], bound=STATISTICS)


def test_decode_is_the_originals(shared, original):
  model, params, _ = original
  folder = shared / 'oracles' / 'pix2seq' / 'A'
  z = oracles.load_npz(folder / 'io_ddim_s5_td1.npz')
  raw = model.decode(params['ema'], jnp.asarray(z['final']), {})
  np.testing.assert_array_equal(raw['semantic'], z['final_int'][..., 0])
  np.testing.assert_array_equal(raw['instance'], z['final_int'][..., 1])


def make_batch(model, size=3, seed=0):
  rng = np.random.default_rng(seed)
  image = rng.integers(0, 256, (size, *model.image_size, 3), np.uint8)
  return {
    'image': jnp.asarray(image),
    'valid': jnp.ones((size, *model.image_size), bool),
    'semantic': jnp.asarray(
      rng.integers(0, model.num_classes + 1, (size, *model.mask_size)),
      jnp.int32,
    ),
    'instance': jnp.asarray(
      rng.integers(0, model.num_ids, (size, *model.mask_size)), jnp.int32
    ),
    'is_real': jnp.ones(size, bool),
  }


def perturbed(params, seed=0):
  """The same tree with noise on every leaf, so that no zero hides a path."""
  leaves, structure = jax.tree.flatten(params)
  rng = np.random.default_rng(seed)
  noisy = [leaf + 0.05 * rng.normal(size=leaf.shape) for leaf in leaves]
  return jax.tree.unflatten(
    structure, [jnp.asarray(x, jnp.float32) for x in noisy]
  )


@pytest.fixture(scope='module')
def tiny():
  model = make()
  return model, perturbed(
    jax.jit(model.init)(jax.random.key(0), make_batch(model))
  )


def keys_of(seed, size):
  return jax.random.split(jax.random.key(seed), size)


def sampled(model, params, batch, keys, steps=3):
  return jax.jit(
    lambda p, b, k: model.sample(
      p,
      b,
      k,
      timesteps=timesteps_lib.uniform(steps),
      sampler=samplers.SAMPLERS['ddim'](),
    )
  )(params, inputs_only(batch), keys)


def test_untrained_loss_is_the_entropy_of_uniform_codes():
  model = make()
  batch = make_batch(model)
  params = jax.jit(model.init)(jax.random.key(0), batch)
  loss, aux = jax.jit(model.loss_fn)(params, batch, jax.random.key(1))
  np.testing.assert_allclose(loss, np.log(8), rtol=1e-3)
  assert jax.tree.structure(aux.stats) == jax.tree.structure(params['stats'])


@pytest.mark.parametrize('conditional', CONDITIONALS)
@pytest.mark.parametrize('loss_kind', ['softmax', 'sigmoid', 'x0', 'eps'])
def test_every_loss_and_condition_traces(conditional, loss_kind):
  model = make(
    conditional=conditional,
    loss_kind=loss_kind,
    self_condition_rate=0.5,
  )
  batch = make_batch(model)

  def run(rng):
    params = model.init(rng, batch)
    loss, _ = model.loss_fn(params, batch, rng)
    return (
      loss,
      model.sample(
        params,
        inputs_only(batch),
        keys_of(0, 3),
        timesteps=timesteps_lib.uniform(2),
        sampler=samplers.SAMPLERS['ddim'](),
      ),
      params,
    )

  loss, x_0, params = jax.eval_shape(run, jax.random.key(0))
  assert loss.shape == () and x_0.shape == (3, 16, 16, 6)
  assert ('encoder' in params['net']) == (conditional != 'none')
  assert ('merge' in params['net']) == ('cat' in conditional)
  flat = {
    jax.tree_util.keystr(k)
    for k, _ in jax.tree_util.tree_leaves_with_path(params['net']['denoiser'])
  }
  assert any('cross' in k for k in flat) == ('attn' in conditional)


@pytest.mark.parametrize(
  ('theirs', 'target'),
  [('sample', 'x0'), ('epsilon', 'x1'), ('v_prediction', 'v')],
)
def test_diffusers_names_of_predictions(theirs, target):
  model = make(loss_kind=theirs)
  assert model.process.target == target
  batch = make_batch(model)
  _, weight = jax.eval_shape(lambda: model.target({}, batch, None))
  assert (weight is None) == (target == 'x1')


def test_a_sample_does_not_depend_on_its_batch(tiny):
  model, params = tiny
  batch, keys = make_batch(model), keys_of(5, 3)
  together = sampled(model, params, batch, keys)
  alone = sampled(
    model, params, jax.tree.map(lambda x: x[1:2], batch), keys[1:2]
  )
  np.testing.assert_allclose(alone[0], together[1], atol=2e-6)


def test_sampling_needs_no_labels_and_the_image_matters(tiny):
  model, params = tiny
  batch, keys = make_batch(model), keys_of(5, 3)
  before = sampled(model, params, batch, keys)
  other = make_batch(model, seed=1)
  relabelled = {**batch, 'semantic': other['semantic']}
  np.testing.assert_array_equal(
    before, sampled(model, params, relabelled, keys)
  )
  repainted = {**batch, 'image': other['image']}
  assert np.abs(before - sampled(model, params, repainted, keys)).max() > 1e-4


def test_padding_is_painted_over(tiny):
  """What stands in the padded part of an image cannot change the mask."""
  model, params = tiny
  batch, keys = make_batch(model), keys_of(5, 3)
  valid = batch['valid'].at[:, 20:].set(False)
  painted = jnp.where(valid[..., None], batch['image'], 255)
  np.testing.assert_array_equal(
    sampled(model, params, {**batch, 'valid': valid}, keys),
    sampled(model, params, {**batch, 'valid': valid, 'image': painted}, keys),
  )


def test_several_samples_of_a_image_lie_side_by_side(tiny):
  model, params = tiny
  batch, keys = make_batch(model, size=2), keys_of(5, 2)
  many = jax.jit(
    lambda p, b, k: model.sample(
      p,
      b,
      k,
      timesteps=timesteps_lib.uniform(2),
      sampler=samplers.SAMPLERS['ddim'](),
      num_samples=3,
    )
  )(params, inputs_only(batch), keys)
  assert many.shape[0] == 6
  assert np.abs(many[0] - many[1]).max() > 1e-4
  for i in (0, 2):
    told = noise.fold_sample(keys, i)
    alone = sampled(model, params, batch, told, steps=2)
    np.testing.assert_allclose(many[i], alone[0], atol=2e-6)
    np.testing.assert_allclose(many[3 + i], alone[1], atol=2e-6)
  assert (noise.fold_sample(keys, 0) == keys).all()


def test_labels_survive_encode_and_decode(tiny):
  model, params = tiny
  batch = make_batch(model)
  for kind in ('binary', 'gray', 'random'):
    coded = dataclasses.replace(model, bits_kind=kind)
    x_0, weight = coded.target(params, batch, None)
    raw = coded.decode(params, x_0, batch)
    np.testing.assert_array_equal(raw['semantic'], batch['semantic'])
    np.testing.assert_array_equal(raw['instance'], batch['instance'])
    np.testing.assert_allclose(raw['score'], 1.0)
    np.testing.assert_allclose(weight.mean((1, 2)), 1.0, rtol=1e-5)


def test_postprocess_takes_the_padding_off(tiny):
  model, _ = tiny
  rows = np.repeat(np.arange(16)[:, None], 16, 1).astype(np.int32)
  raw = {'semantic': rows, 'instance': rows, 'score': rows / 16.0}
  meta = {'unpadded': (24, 32), 'size': (48, 64)}
  found = model.postprocess(raw, meta)
  assert found.semantic.shape == found.score.shape == (48, 64)
  # 24 of 32 rows are image: 12 of the 16 rows of the mask, 4 pixels each.
  np.testing.assert_array_equal(found.instance[:, 0], np.arange(48) // 4)


def test_bfloat16_keeps_parameters_loss_and_bits_in_float32():
  model = make(dtype='bfloat16', remat=True)
  batch = make_batch(model)

  def run(rng):
    params = model.init(rng, batch)
    loss, _ = model.loss_fn(params, batch, rng)
    x_0 = model.sample(
      params,
      inputs_only(batch),
      keys_of(0, 3),
      timesteps=timesteps_lib.uniform(2),
      sampler=samplers.SAMPLERS['ddim'](),
    )
    return params, loss, x_0

  shapes = jax.eval_shape(run, jax.random.key(0))
  assert {leaf.dtype for leaf in jax.tree.leaves(shapes)} == {
    np.dtype('float32')
  }


def test_remat_changes_no_gradient(tiny):
  model, params = tiny
  batch, rng = make_batch(model), jax.random.key(3)

  def gradient(model):
    loss = lambda net: model.loss_fn({**params, 'net': net}, batch, rng)[0]
    return jax.jit(jax.grad(loss))(params['net'])

  plain = gradient(model)
  again = gradient(dataclasses.replace(model, remat=True))
  for a, b in zip(jax.tree.leaves(plain), jax.tree.leaves(again), strict=True):
    np.testing.assert_allclose(a, b, atol=2e-6, rtol=1e-4)


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'instance_bits': 2}, 'model.instance_bits=2 can name 4 codes'),
    ({'class_bits': 2}, 'model.class_bits=2 can name 4 codes'),
    ({'conditional': 'cat+atn'}, "Did you mean 'cat\\+attn'"),
    ({'loss_kind': 'softmx'}, "Did you mean 'softmax'"),
    ({'schedule': ('cosin', {})}, "Did you mean 'cosine'"),
    ({'scale': 0.0}, 'model.scale=0.0'),
    ({'self_condition_rate': 1.5}, 'self_condition_rate=1.5'),
  ],
)
def test_bad_settings_are_named(changes, message):
  with pytest.raises(ValueError, match=message):
    make(**changes)
