"""The autoencoder of images: its loss by definition, what it reads out."""

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest

from pix2seqd_jax.architectures import lpips_vgg
from pix2seqd_jax.models import image_autoencoder
from pix2seqd_jax.train import sharding

TINY = {'block_out_channels': (4, 4), 'layers_per_block': 1, 'groups': 2}
QUICK = {'xla_backend_optimization_level': 0}


def tiny(**kwargs):
  rest = {
    'num_classes': 3,
    'num_ids': 8,
    'image_size': (8, 12),
    'mask_size': (4, 4),
    'network': TINY,
    'kl_weight': 0.25,
  }
  return image_autoencoder.ImageAutoencoder(**rest | kwargs)


@pytest.fixture(scope='module')
def params():
  net = oracles.random_variables(tiny().net, jnp.zeros((1, 8, 12, 3)))['params']
  # So that nothing is clipped when it is read.
  out = net['decoder']['conv_out']
  net['decoder']['conv_out'] = jax.tree.map(lambda x: x / 8, out)
  return {'net': {'autoencoder': net}, 'stats': {}, 'frozen': {}}


@pytest.fixture(scope='module')
def batch():
  """Two images, the second padded on the right and below."""
  rng = np.random.default_rng(0)
  valid = np.ones((2, 8, 12), bool)
  valid[1, 6:] = valid[1, :, 5:] = False
  image = rng.integers(0, 256, (2, 8, 12, 3)).astype(np.uint8)
  return {'image': image, 'valid': valid}


@pytest.fixture(scope='module')
def gradients():
  """(params, batch, noise) -> ((loss, aux), gradients)."""

  def loss_fn(net, params, batch, noise):
    return tiny().loss_at({**params, 'net': net}, batch, noise)

  grad_fn = jax.jit(
    jax.value_and_grad(loss_fn, has_aux=True), compiler_options=QUICK
  )
  return lambda params, *rest: grad_fn(params['net'], params, *rest)


NO_NOISE = np.zeros((2, 4, 6, 4), np.float32)


def test_padding_is_the_middle_of_the_range(batch):
  images = image_autoencoder.signed_images(batch)
  assert images.dtype == jnp.float32
  np.testing.assert_array_equal(images[1, 6:], 0)
  expected = 2 * (batch['image'][0] / 255) - 1
  np.testing.assert_allclose(images[0], expected, atol=1e-6)
  whole = {**batch, 'image': batch['image'].astype(np.float32) / 255}
  np.testing.assert_allclose(image_autoencoder.signed_images(whole), images)


def test_the_loss_by_its_definition(params, batch, gradients):
  """Of what comes back when nothing is drawn, image by image."""
  (loss, aux), _ = gradients(params, batch, NO_NOISE)
  model = tiny()

  def reconstruct(params, batch):
    z = model.sample(params, batch, None, timesteps=None, sampler=None)
    return z, model.decode(params, z, batch)['image']

  z, made = jax.jit(reconstruct, compiler_options=QUICK)(params, batch)
  assert made.min() > 0 and made.max() < 1
  error = 2 * np.abs(np.asarray(made) - batch['image'] / 255)
  means = [e[v].mean() for e, v in zip(error, batch['valid'], strict=True)]
  told = aux.scalars
  np.testing.assert_allclose(told['reconstruction'], np.mean(means), rtol=1e-5)
  np.testing.assert_allclose(told['latent_std'], np.std(z), rtol=1e-5)
  np.testing.assert_allclose(
    loss, told['reconstruction'] + 0.25 * told['kl'], rtol=1e-6
  )
  assert told['kl'] > 0


def test_what_is_under_the_padding_does_not_matter(params, batch, gradients):
  image = np.where(batch['valid'][..., None], batch['image'], 77)
  other = {**batch, 'image': image.astype(np.uint8)}
  losses = [gradients(params, b, NO_NOISE)[0][0] for b in (batch, other)]
  assert losses[0] == losses[1]


def test_two_steps_down_the_gradient(params, batch, gradients):
  losses, noise = [], np.random.default_rng(1).normal(size=NO_NOISE.shape)
  for _ in range(3):
    (loss, _), grads = gradients(params, batch, noise.astype(np.float32))
    losses.append(float(loss))
    net = jax.tree.map(lambda p, g: p - 0.01 * g, params['net'], grads)
    params = {**params, 'net': net}
  assert losses[0] > losses[1] > losses[2]


def test_the_names_are_those_of_stable_diffusion():
  shapes = jax.eval_shape(tiny().init, jax.random.key(0), {})
  paths = sharding.flat_paths(shapes)
  for name in (
    'encoder/down_blocks_0/resnets_0/conv1/kernel',
    'quant_conv/kernel',
    'post_quant_conv/kernel',
    'decoder/up_blocks_1/resnets_1/norm2/scale',
  ):
    assert f'net/autoencoder/{name}' in paths
  assert not shapes['frozen']


class ToyLPIPS:
  def apply(self, variables, x, y):
    return variables['params'] * jnp.abs(x - y).mean((1, 2, 3))


def test_lpips_has_frozen_weights(params, batch, monkeypatch):
  model = tiny(lpips_weight=0.5)
  shapes = jax.eval_shape(model.init, jax.random.key(0), {})
  assert shapes['frozen']['lpips']['lin0']['kernel'].shape == (64, 1)
  monkeypatch.setattr(lpips_vgg, 'LPIPS', ToyLPIPS)
  params = {**params, 'frozen': {'lpips': jnp.float32(3)}}
  loss_at = jax.jit(model.loss_at, compiler_options=QUICK)
  loss, aux = loss_at(params, batch, NO_NOISE)
  told = aux.scalars
  np.testing.assert_allclose(
    loss,
    told['reconstruction'] + 0.25 * told['kl'] + 0.5 * told['lpips'],
    rtol=1e-6,
  )
  assert told['lpips'] > 0


def test_a_postprocess_is_the_image_without_its_padding():
  made = np.linspace(0, 1, 8 * 12 * 3, dtype=np.float32).reshape(8, 12, 3)
  found = tiny().postprocess(
    {'image': made}, {'unpadded': (6, 5), 'size': (60, 50)}
  )
  assert found.image.shape == (6, 5, 3) and found.image.dtype == np.uint8
  np.testing.assert_allclose(found.image / 255, made[:6, :5], atol=0.5 / 255)
  assert found.semantic.shape == (6, 5) and not found.instance.any()


@pytest.mark.parametrize(
  'kwargs, words',
  [
    ({'loss': 'l3'}, "model.loss='l3' is unknown"),
    ({'kl_weight': -1}, 'model.kl_weight=-1 must be'),
    ({'lpips_weight': -0.5}, 'model.lpips_weight=-0.5 must be'),
    ({'image_size': (8, 13)}, 'must be divisible by 2'),
    ({'network': {'depth': 3}}, 'model.network'),
    ({'network': {**TINY, 'parts': ('encoder',)}}, 'both halves are trained'),
  ],
)
def test_refused(kwargs, words):
  with pytest.raises(ValueError, match=words):
    tiny(**kwargs)


# Masks beside images, for SemFlow.

MASKS = {
  'share': 0.5,
  'anchors': {'levels': 2, 'spacing': 200},
  'perturbation': 30,
}


def labelled(batch):
  semantic = np.arange(2 * 8 * 12).reshape(2, 8, 12) % 4
  return {**batch, 'semantic': semantic.astype(np.int32)}


def test_the_first_images_are_masks(batch):
  """Within the perturbation of their colours, all of it valid."""
  model = tiny(masks=MASKS, mask_size=(8, 12))
  given = labelled(batch)
  given['valid'] = given['valid'][::-1]
  made = model.with_masks(given, jax.random.key(0))
  seen = image_autoencoder.signed_images(made)
  colors = model.palette.colors[given['semantic'][0]].astype(np.float32)
  moves = np.asarray(seen[0]) - (colors / 127.5 - 1)
  assert np.abs(moves).max() <= 30 / 127.5 + 1e-6
  assert np.abs(moves).max() > 25 / 127.5 and abs(moves.mean()) < 0.03
  assert np.asarray(made['valid']).all()
  np.testing.assert_allclose(
    seen[1], image_autoencoder.signed_images(given)[1], atol=1e-6
  )
  # What the host has painted goes before.
  painted = np.full((2, 8, 12, 3), 255, np.uint8)
  made = model.with_masks({**given, 'colors': painted}, jax.random.key(0))
  again = np.asarray(image_autoencoder.signed_images(made)[0])
  np.testing.assert_allclose(again - 1, moves, atol=1e-5)


@pytest.mark.parametrize(
  ('masks', 'words'),
  [
    ({'share': 0}, 'share=0 must be above 0'),
    ({'share': 1.5}, 'share=1.5 must be above 0, at most 1'),
    ({'part': 0.5}, 'masks.part is unknown'),
    ({'anchors': {'level': 2}}, "Did you mean 'levels'"),
    ({'anchors': {'levels': 1}}, 'num_classes=3 must be 1 to 1'),
    ({'perturbation': 100}, 'perturbation=100 must be 0 or more and below'),
  ],
)
def test_masks_that_do_not_fit(masks, words):
  with pytest.raises(ValueError, match=words):
    tiny(masks=MASKS | masks, mask_size=(8, 12))


def test_masks_have_the_size_of_images():
  with pytest.raises(ValueError, match=r'mask_size=\(4, 4\) must be'):
    tiny(masks=MASKS)
