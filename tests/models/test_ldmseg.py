"""LDMSeg's second stage: what must hold for any weights."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest

from pix2seqd_jax.diffusion import samplers
from pix2seqd_jax.diffusion import timesteps as timesteps_lib
from pix2seqd_jax.encoding.cells import CELLS, cells_of
from pix2seqd_jax.models.ldmseg import LDMSeg

quick = functools.partial(
  jax.jit, compiler_options={'xla_backend_optimization_level': 0}
)
TINY = {
  'num_classes': 3,
  'num_ids': 8,
  'image_size': (16, 16),
  'mask_size': (16, 16),
  'unet': {
    'channels': (8, 8),
    'has_attention': (False, True),
    'num_layers': 1,
    'num_heads': 2,
    'groups': 4,
  },
  'image_autoencoder': {
    'block_out_channels': (4, 8, 8),
    'layers_per_block': 1,
    'groups': 4,
  },
  'mask_autoencoder': {
    'network': {
      'widths': (4, 8, 8),
      'hidden': 8,
      'upscale_channels': 8,
      'groups': 4,
    },
    'thresholds': {'min_pixels': 0},
  },
}


def tiny(**changes) -> LDMSeg:
  return LDMSeg(**TINY | changes)


def weights(model: LDMSeg) -> dict:
  """Parameters none of which is zero, without compiling initialisers."""

  class Whole:
    init = staticmethod(lambda key: model.init(key, None))

  return oracles.random_variables(Whole)


@pytest.fixture(scope='module')
def params():
  return weights(tiny())


def signed_images(num=2):
  rng = np.random.default_rng(0)
  return {
    'image': jnp.asarray(rng.integers(0, 256, (num, 16, 16, 3), np.uint8)),
    'valid': jnp.ones((num, 16, 16), bool).at[:, 12:].set(False),
  }


def ids(num=2):
  """A square, a stripe, void."""
  found = np.zeros((num, 16, 16), np.int32)
  found[:, :8, :8], found[:, 10:] = 3, 7
  return jnp.asarray(found)


@pytest.fixture(scope='module')
def draw(params):
  """(batch, options) -> x_0; one compilation for each structure."""
  model = tiny()
  keys = jax.random.split(jax.random.key(1), 2)

  def sample(batch, **options):
    return quick(
      lambda params, batch: model.sample(
        params,
        batch,
        keys,
        timesteps=timesteps_lib.Blocks().make(model.process, 4),
        sampler=samplers.DDIM(),
        **options,
      )
    )(params, batch)

  return sample


def test_the_input_of_the_unet():
  assert tiny().unet_net.in_channels == 12
  assert tiny(self_condition_rate=0).unet_net.in_channels == 8
  assert tiny().latent_shape == (4, 4, 4)
  assert LDMSeg(1, 128, (512, 512), (512, 512)).latent_shape == (64, 64, 4)


def test_loss_trains_the_unet_alone(params):
  model = tiny()
  batch = {**signed_images(), 'instance': ids()}

  def loss(net, frozen):
    whole = {'net': net, 'stats': {}, 'frozen': frozen}
    return model.loss_fn(whole, batch, jax.random.key(0))

  (value, aux), gradient = quick(jax.value_and_grad(loss, has_aux=True))(
    params['net'], params['frozen']
  )
  assert np.isfinite(value) and value > 0 and aux.stats == {}
  for leaf in jax.tree.leaves(gradient):
    assert np.isfinite(leaf).all()
  assert set(gradient) == {'unet'}


def test_padding_and_cached_latents(params):
  model, batch = tiny(), signed_images()
  encode = quick(lambda params, b: model.encode(params, b, None).condition)
  plain = encode(params, batch)
  black = jnp.where(batch['valid'][..., None], batch['image'], 0)
  same = encode(params, {**batch, 'image': black})
  np.testing.assert_array_equal(plain['map'], same['map'])
  latent = plain['map'] / model.image_scale
  cached = encode(params, {**batch, 'image_latent': latent})
  np.testing.assert_allclose(cached['map'], plain['map'], rtol=1e-6)


def test_all_given_and_nothing_given(params, draw):
  batch, model = signed_images(), tiny()
  plain = draw(batch)

  def given(known):
    told = {'instance': ids(), 'known': jnp.full((2, 16, 16), known)}
    return {**batch, 'given': told}

  np.testing.assert_array_equal(draw(given(False)), plain)
  expected = model.known(params, given(True)).x_0
  found = draw(given(True))
  np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-7)
  assert np.abs(plain - expected).max() > 0.01


def test_what_is_told_and_what_is_held(params):
  known = np.zeros((2, 16, 16), bool)
  known[:, :8] = True
  model = tiny()
  told = {'instance': ids(), 'known': jnp.asarray(known)}
  found = model.known(params, {'given': told})
  expected, _ = model.target(params, {'instance': ids()}, None)
  # Ids that are not held are where `strength` starts.
  np.testing.assert_array_equal(found.x_0, expected)
  assert found.mask.shape == (2, 4, 4, 1)
  np.testing.assert_array_equal(found.mask[0, :, 0, 0], [1, 1, 0, 0])


def test_cells_of_single_pixels():
  known = jnp.zeros((1, 8, 8), bool).at[0, 0, 0].set(True)
  known = known.at[0, 5, 5].set(True).at[0, 4:, :4].set(True)
  found = {k: np.asarray(cells_of(known, 4, k))[0] for k in CELLS}
  np.testing.assert_array_equal(found['nearest'], [[1, 0], [1, 0]])
  np.testing.assert_array_equal(found['all'], [[0, 0], [1, 0]])
  np.testing.assert_array_equal(found['any'], [[1, 0], [1, 1]])


def test_strength_needs_a_mask(draw):
  with pytest.raises(ValueError, match='strength'):
    draw(signed_images(), strength=0.5)


@pytest.mark.parametrize(
  ('descriptor', 'network', 'length'),
  [
    (
      'text',
      {'vocab_size': 32, 'num_positions': 5, 'width': 8, 'mlp_dim': 8},
      5,
    ),
    ('clip_image', {'image_size': 8, 'patch_size': 4, 'width': 8}, 5),
  ],
)
def test_descriptors(descriptor, network, length):
  network |= {'num_layers': 1, 'num_heads': 2, 'mlp_dim': 8}
  told = {'network': network}
  if descriptor == 'clip_image':
    told['features'] = 6
  model = tiny(descriptor=descriptor, descriptor_args=told)
  params, batch = weights(model), signed_images()
  condition = model.encode(params, batch, None).condition
  width = model.describer.width
  assert condition['context'].shape == (2, length, width)
  assert set(params['frozen']) == {'image', 'mask', 'clip'}
  assert ('descriptor' in params['net']) == (descriptor == 'clip_image')

  x, t = jnp.ones((2, 4, 4, 4)), jnp.full((2,), 0.5)

  def predict(context):
    told = {**condition, 'context': context}
    return model.denoise(params, x, t, told, previous=x).value

  predict = quick(predict)
  context = condition['context']
  assert (predict(context) != predict(context[..., ::-1])).any()
  one, two = np.asarray(context)
  assert (one == two).all() == (descriptor == 'text')  # the empty text


def test_reads_logits_as_stage_1_does(params):
  model = tiny()
  raw = model.decode(params, jnp.zeros((1, 4, 4, 4)), {})
  assert raw['logits'].shape == (1, 16, 16, 8)
  meta = {'size': (20, 30), 'unpadded': (12, 16)}
  found = model.postprocess({'logits': np.asarray(raw['logits'])[0]}, meta)
  assert found.instance.shape == (20, 30)
  assert set(np.unique(found.semantic)) <= {0, 1}


def test_a_classifier_names_segments():
  head = {'width': 8, 'num_blocks': 1, 'dilations': (1,), 'groups': 4}
  model = tiny(classifier={'head': head})
  params, batch = weights(model), signed_images()
  z = jnp.asarray(np.random.default_rng(0).normal(size=(4, 4, 4, 4)))
  raw = quick(lambda p, z: model.decode(p, z.astype(jnp.float32), batch))(
    params, z
  )
  assert raw['classes'].shape[::3] == (4, 4)  # two masks of each image
  meta = {'size': (16, 16), 'unpadded': (12, 16)}
  logits = jnp.zeros((16, 16, 8)).at[:, :8, 2].set(50).at[:, 8:, 5].set(50)
  classes = jnp.zeros((16, 16, 4)).at[:, :8, 3].set(9).at[:, 8:, 1].set(9)
  found = model.postprocess(
    {'logits': np.asarray(logits), 'classes': np.asarray(classes)}, meta
  )
  assert set(np.unique(found.semantic)) == {1, 3}
  for i in np.unique(found.instance):
    assert len(np.unique(found.semantic[found.instance == i])) == 1


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'prediction': 'eps'}, r"model\.prediction='eps' is unknown"),
    ({'schedule': ('cosin', {})}, "Did you mean 'cosine'"),
    ({'loss_weight': ('max_snr', {})}, 'Known: none, linear, ramp'),
    ({'loss_weight': ('ramp', {'ende': 1})}, 'ende'),
    ({'loss_mask': 'void'}, 'Known: ignore, counts, none'),
    ({'loss_kind': 'huber'}, 'Known: l2, l1, smooth_l1'),
    ({'descriptor': 'dino'}, 'Known: none, text, clip_image'),
    ({'descriptor_args': {'net': 1}}, 'net is unknown to Nothing'),
    ({'given_cells': 'some'}, 'Known: nearest, all, any'),
    ({'given_fill': 'near'}, 'Known: void, nearest'),
    ({'latent_scale': 0}, r'model\.latent_scale=0 must be above 0'),
    ({'self_condition_rate': 1.5}, r'must lie in \[0, 1\]'),
    ({'unet': {'in_channels': 4}}, 'in_channels'),
    ({'image_size': (32, 32)}, r'\(8\.0, 8\.0\).*of masks \(4\.0, 4\.0\)'),
    ({'image_size': (18, 16)}, 'must be of one size'),
  ],
)
def test_bad_arguments(changes, message):
  with pytest.raises(ValueError, match=message):
    tiny(**changes)


@pytest.mark.parametrize(
  ('section', 'key', 'value'),
  [
    ('data', 'num_ids', 16),
    ('model', 'kind', 'sd_vae'),
    ('model', 'mask_encoding', 'rgb'),
  ],
)
def test_stage_1_of_other_masks_is_refused(section, key, value):
  theirs = {
    'data': {'num_ids': 8},
    'model': {'kind': 'shallow', 'mask_encoding': 'bits'},
  }
  model = tiny()
  model.check_origin('runs/a', 'frozen/mask', theirs)
  theirs[section][key] = value
  model.check_origin('runs/a', 'frozen/image/encoder', theirs)
  with pytest.raises(ValueError, match=rf'runs/a.*{section}\.{key}={value!r}'):
    model.check_origin('runs/a', 'frozen/mask', theirs)


def test_fields_can_be_replaced():
  model = dataclasses.replace(tiny(), latent_scale=1.0)
  assert model.latent_scale == 1.0 and model.process.target == 'x1'


def test_diffusers_names_of_predictions():
  for theirs, ours in (('epsilon', 'x1'), ('sample', 'x0')):
    model = tiny(prediction=theirs)
    assert model.process == tiny(prediction=ours).process
