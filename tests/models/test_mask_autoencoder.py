"""LDMSeg's stage 1: the original's training steps, and laws of the model."""

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import parity
import pytest

from pix2seqd_jax.models import mask_autoencoder as stage1
from pix2seqd_jax.pretrained import mask_autoencoder as pretrained
from pix2seqd_jax.pretrained import part, torch_files
from pix2seqd_jax.train import optimizer

NETWORK = {'widths': (16, 32, 48, 64), 'hidden': 64, 'upscale_channels': 64}
TINY = {
  'widths': (8, 8, 16),
  'hidden': 16,
  'upscale_channels': 8,
  'groups': 4,
}


def tiny(**kwargs):
  rest = {
    'num_classes': 3,
    'num_ids': 8,
    'image_size': (32, 32),
    'mask_size': (16, 16),
    'network': TINY,
    'points': {'num_points': 40},
    'thresholds': {'min_pixels': 0},
  }
  return stage1.MaskAutoencoder(**rest | kwargs)


@pytest.fixture(scope='module')
def params():
  model = tiny()
  x = jnp.zeros((1, 16, 16, 3))
  variables = oracles.random_variables(model.net, x)
  return {'net': {'autoencoder': variables['params']}}


def masks():
  """Three stripes with ids 1, 5, 0 and an image of void."""
  ids = np.zeros((2, 16, 16), np.int32)
  ids[0, :6], ids[0, 6:12] = 1, 5
  return jnp.asarray(ids)


# Two training steps of the original.


def original_step(z, step):
  """All that the original drew in this step: ids, noise, points, their slots.

  It lists the masks of a batch image by image, ids rising.
  """
  ids = np.asarray(z[f'step{step}/semseg'])
  keys = sorted(key for key in z if key.startswith('rng/'))
  noise, *points = (z[key] for key in keys[5 * step : 5 * step + 5])
  slots, start = np.zeros((127, len(ids)), int), 0
  for b, one in enumerate(ids):
    count = len(np.unique(one[one > 0]))
    slots[:count, b] = start + np.arange(count)
    start += count
  assert start == len(points[2])
  package = [
    (0, 16 - start),
    (0, 0),
    (0, 0),
  ]  # both steps alike: one compilation
  points[2:] = [np.pad(x, package) for x in points[2:]]
  ids = jnp.asarray(ids, jnp.int32)
  return ids, jnp.asarray(np.moveaxis(noise, 1, -1)), points, slots


def test_two_training_steps_of_the_original(shared):
  folder = shared / 'oracles' / 'ldmseg_ae'
  z = oracles.load_npz(folder / 'ae_trainstep.npz')
  tensors = torch_files.read(folder / 'default_tiny.safetensors')
  _, plan = part.plan(pretrained.PART, tensors)
  net = {'autoencoder': plan.tree(tensors)['params']}
  model = tiny(
    num_ids=128,
    mask_size=(64, 64),
    network=NETWORK,
    kl_weight=1e-4,
    points={'num_points': 112},
  )
  tx = optimizer.make_optimizer(
    'torch_adamw', 1e-4, weight_decay=0.05, clip_norm=3.0
  )
  opt_state = tx.init(net)

  def theirs(tree):
    """Our tree of parameters under their names, as theirs."""
    return {
      entry.name: make()
      for entry, _, make in part.to_theirs(
        pretrained.PART, model.net, {'params': tree['autoencoder']}
      )
    }

  def loss_fn(net, ids, noise, points, slots):
    def draw_fn(i):
      return {'candidates': points[2][slots[i]], 'fresh': points[3][slots[i]]}

    draws = {'candidates': points[0], 'fresh': points[1]}
    return model.loss_at({'net': net}, ids, ids, noise, draws, draw_fn)

  grad_fn = jax.jit(jax.value_and_grad(loss_fn, has_aux=True))
  for step in (0, 1):
    ids, *drawn = original_step(z, step)
    np.testing.assert_array_equal(
      model.channels.encode(np.asarray(ids)),
      np.moveaxis(z[f'step{step}/model_input'], 1, -1),
    )
    with jax.default_matmul_precision('highest'):
      (loss, aux), gradients = grad_fn(net, ids, *drawn)
    told = {
      'loss': loss,
      'ce': aux.scalars['ce'],
      'mask': aux.scalars['bce'] + aux.scalars['dice'],
      'kl': aux.scalars['kl'],
    }
    oracle = 'ldmseg_ae/ae_trainstep'
    for key, value in told.items():
      expected = z[f'meter/{key}'][step]
      parity.check(oracle, f'{key} {step}', value, expected, bound=1e-5)
    norm = np.sqrt(sum(np.sum(g**2) for g in theirs(gradients).values()))
    expected = z['grad_norm_before_clip'][step]
    parity.check(oracle, f'norm {step}', norm, expected, bound=1e-4)
    for name, value in theirs(gradients).items():
      key = f'step{step}/grad/{name}'
      if key in z:
        parity.check(oracle, key, value, z[key], bound=1e-4)
    updates, opt_state = tx.update(gradients, opt_state, net)
    net = jax.tree.map(jnp.add, net, updates)
  for name, value in theirs(net).items():
    if f'after/{name}' in z:
      parity.check(
        oracle, f'after/{name}', value, z[f'after/{name}'], bound=1e-4
      )


# Laws.


def test_sampling_reads_what_the_task_gives(params):
  model = tiny()
  batch = {'given': {'instance': masks()}}
  z = model.sample(
    params, batch, None, timesteps=None, sampler=None, num_samples=2
  )
  assert z.shape == (4, 4, 4, 4)
  np.testing.assert_array_equal(z[0], z[1])
  raw = model.decode(params, z[:1], batch)
  assert raw['logits'].shape == (1, 16, 16, 8)
  meta = {'size': (20, 40), 'unpadded': (16, 32)}
  found = model.postprocess({'logits': raw['logits'][0]}, meta)
  assert found.semantic.shape == found.instance.shape == (20, 40)
  np.testing.assert_array_equal(found.semantic, found.instance > 0)
  with pytest.raises(ValueError, match=r"task.given=\('instance',\)"):
    model.sample(params, {}, None, timesteps=None, sampler=None)


def test_perfect_logits_give_the_mask_back():
  model = tiny()
  ids = masks()[0]
  logits = 20 * (2 * jax.nn.one_hot(ids, 8) - 1)
  meta = {'size': (16, 16), 'unpadded': (32, 32)}
  found = model.postprocess({'logits': logits}, meta)
  # The image is twice as large; only borders may be unsure.
  assert (found.instance == np.asarray(ids)).mean() > 0.95
  assert set(np.unique(found.instance)) == {0, 1, 5}


@pytest.mark.parametrize('corrupt_targets', [True, False])
def test_corruption(params, corrupt_targets, monkeypatch):
  model = tiny(corruption=0.5, corrupt_targets=corrupt_targets)
  told = {}

  def keep(self, params, seen, expected, *rest):
    told.update(seen=seen, expected=expected)
    return 0, None

  monkeypatch.setattr(stage1.MaskAutoencoder, 'loss_at', keep)
  model.loss_fn(params, {'instance': masks()}, jax.random.key(0))
  given = np.asarray(masks())
  seen, expected = (np.asarray(told[key]) for key in ('seen', 'expected'))
  kept = seen > 0
  assert 0 < kept.sum() < (given > 0).sum()
  np.testing.assert_array_equal(seen[kept], given[kept])
  target = seen if corrupt_targets else given
  np.testing.assert_array_equal(expected, target)


def test_corruption_keeps_the_rate():
  ids = jnp.ones((400, 64, 32), jnp.int32)
  kept = stage1.corrupt(ids, jax.random.key(0), 0.6)
  rates = np.asarray(kept).mean((1, 2))
  assert abs(rates.mean() - 0.3) < 0.02 and rates.max() < 0.7
  cells = np.asarray(kept).reshape(400, 32, 2, 32, 1)
  np.testing.assert_array_equal(cells[:, :, 0], cells[:, :, 1])


def test_every_part_of_the_loss_counts(params):
  def loss(**kwargs):
    model = tiny(**kwargs)
    fn = jax.jit(model.loss_fn)
    return fn(params, {'instance': masks()}, jax.random.key(0))

  total, aux = loss(ce_weight=2.0, mask_weight=3.0, kl_weight=0.5)
  told = aux.scalars
  expected = 2 * told['ce'] + 3 * (told['bce'] + told['dice']) + told['kl'] / 2
  np.testing.assert_allclose(total, expected, rtol=1e-5)
  assert min(told.values()) > 0


def test_the_autoencoder_of_stable_diffusion():
  model = tiny(
    kind='sd_vae',
    network={
      'block_out_channels': (8, 8),
      'layers_per_block': 1,
      'groups': 4,
    },
  )
  shapes = jax.eval_shape(model.init, jax.random.key(0), {})
  net = shapes['net']['autoencoder']
  assert net['encoder']['conv_in']['kernel'].shape == (3, 3, 3, 8)
  assert net['decoder']['conv_out']['kernel'].shape == (3, 3, 8, 8)
  batch = {'given': {'instance': jax.ShapeDtypeStruct((2, 16, 16), np.int32)}}

  def reconstruct(params, batch):
    z = model.sample(params, batch, None, timesteps=None, sampler=None)
    return model.decode(params, z, batch)

  raw = jax.eval_shape(reconstruct, shapes, batch)
  assert raw['logits'].shape == (2, 16, 16, 8)


@pytest.mark.parametrize(
  'kwargs, words',
  [
    ({'kind': 'deep'}, "model.kind='deep' is unknown"),
    ({'mask_size': (16, 18)}, 'must be divisible by 4'),
    ({'mask_encoding': 'hex'}, "mask_encoding='hex'"),
    ({'kl_weight': -1}, 'model.kl_weight=-1 must be'),
    ({'corruption': 2}, 'model.corruption=2 must be 0 to 1'),
    ({'thresholds': {'mask': 3}}, 'model.thresholds.mask=3'),
    ({'network': {'depth': 3}}, 'model.network'),
    ({'points': {'number': 3}}, 'model.points'),
  ],
)
def test_refused(kwargs, words):
  with pytest.raises(ValueError, match=words):
    tiny(**kwargs)
