"""Classes for masks: what the head sees, the loss, the vote, refusals."""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest

from pix2seqd_jax.models import mask_classifier as lib
from pix2seqd_jax.tasks import panoptic
from pix2seqd_jax.types import Category, Segmentation

SHALLOW = {
  'widths': (8, 8, 16),
  'hidden': 16,
  'upscale_channels': 8,
  'num_upscalers': 1,
  'groups': 4,
}
SMALL_VAE = {
  'block_out_channels': (8, 8, 8),
  'layers_per_block': 1,
  'groups': 4,
}
SIZE = (16, 16)
FAST = {'xla_backend_optimization_level': 0}
fast = functools.partial(jax.jit, compiler_options=FAST)


def tiny(**kwargs):
  rest = {
    'num_classes': 3,
    'num_ids': 8,
    'image_size': SIZE,
    'mask_size': SIZE,
    'head': {'width': 8, 'num_blocks': 1, 'dilations': (1,), 'groups': 4},
    'image_autoencoder': SMALL_VAE,
    'mask_autoencoder': {'network': SHALLOW},
  }
  return lib.MaskClassifier(**rest | kwargs)


@pytest.fixture(scope='module')
def params():
  model = tiny()
  shapes = jax.eval_shape(model.init, jax.random.key(0), {})
  rng = np.random.default_rng(0)
  return jax.tree.map(
    lambda s: jnp.asarray(0.3 * rng.normal(size=s.shape), s.dtype), shapes
  )


def batch_of(count=2, seed=0):
  rng = np.random.default_rng(seed)
  ids = np.zeros((count, *SIZE), np.int32)
  ids[:, :6], ids[:, 6:12] = 1, 5
  classes = np.array([0, 2, 0, 0, 0, 3], np.int32)
  return {
    'image': jnp.asarray(rng.integers(0, 256, (count, *SIZE, 3)), jnp.uint8),
    'valid': jnp.ones((count, *SIZE), bool),
    'instance': jnp.asarray(ids),
    'semantic': jnp.asarray(classes[ids]),
  }


def inputs_of(batch):
  rest = {key: batch[key] for key in ('image', 'valid')}
  return rest | {'given': {'instance': batch['instance']}}


@pytest.mark.parametrize('kind', ['shallow', 'sd_vae'])
def test_the_head_sees_what_the_last_convolutions_see(kind):
  """Those convolutions, on these features, give the logits and the latent."""
  masks = {'kind': kind, 'network': SHALLOW}
  if kind == 'sd_vae':
    masks['network'] = SMALL_VAE
  model, batch = tiny(mask_autoencoder=masks), batch_of()
  ids = model.masks.channels.encode(batch['instance'])
  mask = oracles.random_variables(model.masks.net, ids)
  image = oracles.random_variables(model.image_net, jnp.zeros((1, *SIZE, 3)))
  frozen = {'mask': mask['params'], 'image': image['params']}

  def convolved(x, entry):
    net = nn.Conv(entry['bias'].shape[0], (3, 3))
    return net.apply({'params': entry}, x)

  @fast
  def both(frozen):
    """(ours through the last convolution, the network's own), twice."""
    z = model.masks.encode(mask, batch['instance']).mean
    of_mask, of_image = model.features(frozen, z, batch)
    latent = dataclasses.replace(model, image='latent')
    name = '7' if kind == 'shallow' else 'conv_out'
    logits = convolved(of_mask, frozen['mask']['decoder'][name])
    moments = convolved(of_image, frozen['image']['encoder']['conv_out'])
    last = frozen['image']['quant_conv']
    moments = moments @ last['kernel'] + last['bias']
    return (
      (logits, model.masks.logits(mask, z)),
      (moments[..., :4], latent.features(frozen, z, batch)[1]),
    )

  for ours, theirs in both(frozen):
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)


def test_samples_lie_side_by_side(params):
  model, batch = tiny(), inputs_of(batch_of())

  @fast
  def sampled(params, batch):
    z = model.sample(
      params, batch, None, timesteps=None, sampler=None, num_samples=2
    )
    return model.decode(params, z, batch)

  raw = sampled(params, batch)
  assert raw['classes'].shape == (4, 8, 8, 4)
  assert raw['instance'].shape == (4, *SIZE)
  for key in raw:
    np.testing.assert_allclose(raw[key][0], raw[key][1], atol=1e-5)
  # The second example's own image tells its logits from the first one's.
  assert np.abs(raw['classes'][1] - raw['classes'][2]).max() > 1e-3
  with pytest.raises(ValueError, match=r"task.given=\('instance',\)"):
    model.sample(params, {}, None, timesteps=None, sampler=None)


def test_void_has_no_loss_unless_it_is_weighed():
  semantic = batch_of()['semantic']
  rng = np.random.default_rng(0)
  logits = jnp.asarray(rng.normal(size=(*semantic.shape, 4)), jnp.float32)
  each = -jnp.take_along_axis(
    jax.nn.log_softmax(logits), semantic[..., None], -1
  )[..., 0]
  known = semantic > 0
  for weight in (0, 1, 0.25):
    loss, aux = tiny(void_weight=weight).loss(logits, semantic)
    weights = jnp.where(known, 1, weight)
    expected = jnp.sum(each * weights) / jnp.sum(weights)
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    right = (jnp.argmax(logits, -1) == semantic)[known]
    np.testing.assert_allclose(aux.scalars['accuracy'], right.mean())
  assert tiny().loss(logits, 0 * semantic)[0] == 0


def test_noise_disturbs_the_latents_of_training_alone(params, monkeypatch):
  model, batch = tiny(noise=2), batch_of(32)
  monkeypatch.setattr(lib.MaskClassifier, 'loss_at', lambda *args: args[-1])

  @fast
  def both(params, batch):
    z = model.sample(
      params, inputs_of(batch), None, timesteps=None, sampler=None
    )
    return z, model.loss_fn(params, batch, jax.random.key(0))

  z, noisy = both(params, batch)
  strengths = jnp.std(noisy - z, axis=(1, 2, 3)) / jnp.std(z)
  assert 0 < strengths.min() < 0.5 and 1.5 < strengths.max() < 2.6
  assert abs(strengths.mean() - 1) < 0.3


def test_training_moves_the_head_towards_the_classes(params):
  """And only it: the frozen parts get no gradient."""
  model, batch = tiny(), batch_of()

  @fast
  def step(head):
    def loss_fn(head):
      whole = params | {'net': {'head': head}}
      return model.loss_fn(whole, batch, jax.random.key(0))[0]

    loss, gradients = jax.value_and_grad(loss_fn)(head)
    return loss, jax.tree.map(lambda p, g: p - 0.05 * g, head, gradients)

  head = params['net']['head']
  first, head = step(head)
  for _ in range(5):
    loss, head = step(head)
  assert loss < 0.9 * first


def test_segments_get_classes_and_stuff_is_merged():
  """Perfect logits -> the segments of the truth, two of grass made one."""
  model = tiny(image_size=(32, 32))
  ids = np.zeros(SIZE, np.int32)
  ids[:6], ids[6:12], ids[12:, :8] = 1, 5, 7
  classes = np.array([0, 2, 0, 0, 0, 3, 0, 3])[ids]
  raw = {'classes': 9 * np.eye(4)[classes], 'instance': ids}
  raw['classes'] = raw['classes'].astype(np.float32)
  meta = {'size': (48, 64), 'unpadded': (24, 32)}
  found = model.postprocess(raw, meta)
  assert found.semantic.shape == found.instance.shape == (48, 64)
  assert set(np.unique(found.instance)) == {1, 5}  # 7 is in the padding
  for name, number in ((0, 0), (1, 2), (5, 3)):
    assert (found.semantic[found.instance == name] == number).all()
  categories = [
    Category(i + 1, name, name == 'cat')
    for i, name in enumerate(('cat', 'sky', 'grass'))
  ]
  task = panoptic.PanopticTask(categories)
  whole = Segmentation(ids > 0, ids, score=np.ones(SIZE, np.float32))
  found = model.classify(whole, raw['classes'], {'unpadded': (32, 32)})
  assert found.score is whole.score
  named, segments = task.segments(task.refine(found))
  assert [s.class_id for s in segments] == [2, 3]
  np.testing.assert_array_equal(named > 0, ids > 0)


def test_the_head_of_a_larger_model_has_the_same_parameters(params):
  """LDMSeg makes it from its own frozen parameters."""
  shapes = jax.eval_shape(tiny().init_head, jax.random.key(0), params['frozen'])
  head = params['net']['head']
  same = jax.tree.map(lambda a, b: a.shape == b.shape, shapes, head)
  assert all(jax.tree.leaves(same))


@pytest.mark.parametrize(
  'kwargs, words',
  [
    ({'image': 'hiden'}, "model.image='hiden' is unknown. Did you mean"),
    ({'vote': 'most'}, "model.vote='most' is unknown"),
    ({'noise': -1}, 'model.noise=-1 must be 0 or more'),
    ({'void_weight': -1}, 'model.void_weight=-1 must be'),
    ({'head': {'depth': 3}}, 'model.head'),
    ({'image_autoencoder': {'depth': 3}}, 'model.image_autoencoder'),
    ({'mask_autoencoder': {'depth': 3}}, 'model.mask_autoencoder'),
    ({'mask_size': (16, 18)}, 'must be divisible by 4'),
  ],
)
def test_refused(kwargs, words):
  with pytest.raises(ValueError, match=words):
    tiny(**kwargs)
