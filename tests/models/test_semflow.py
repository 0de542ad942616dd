"""SemFlow: what holds of it whatever its networks are."""

import functools

import jax
import jax.numpy as jnp
import known_flow
import numpy as np
import pytest

from pix2seqd_jax.diffusion import samplers
from pix2seqd_jax.diffusion import timesteps as timesteps_lib
from pix2seqd_jax.models import reflow
from pix2seqd_jax.models.semflow import SemFlow
from pix2seqd_jax.types import inputs_only

TOY = known_flow.ToyFlow(**known_flow.KWARGS)
PARAMS = known_flow.params()
BATCH = known_flow.batch()
KEYS = jax.random.split(jax.random.key(0), 2)


def sample(model, batch, steps=4, sampler='euler', keys=KEYS, **kwargs):
  return model.sample(
    PARAMS,
    batch,
    keys,
    timesteps=timesteps_lib.uniform(steps),
    sampler=samplers.SAMPLERS[sampler](),
    **kwargs,
  )


def given(**more):
  return inputs_only(BATCH, ('semantic',)) | {
    'given': {'semantic': BATCH['semantic'], **more}
  }


def test_there_and_back_again():
  image = TOY.encode(PARAMS, BATCH, None).condition['latent']

  class Back(known_flow.ToyFlow):
    def start(self, params, batch, keys):
      return batch['latent']

  back = Back(**known_flow.KWARGS)
  errors = []
  for sampler, steps in (('euler', 50), ('euler', 400), ('heun', 100)):
    mask = sample(TOY, inputs_only(BATCH), steps, sampler)
    assert np.abs(mask - image).max() > 0.1
    found = sample(back, {**BATCH, 'latent': mask}, steps, sampler)
    errors.append(float(np.abs(found - image).max()))
  assert errors[1] < 1e-3 and errors[2] < 1e-4
  assert errors[1] < errors[0] / 6  # of the first order


def test_segmentation_reads_no_label_and_draws_nothing():
  inputs = inputs_only(BATCH)
  assert 'semantic' not in inputs
  found = sample(TOY, inputs, num_samples=2)
  assert found.shape == (4, 4, 4, 4)
  np.testing.assert_array_equal(found[0], found[1])
  other = sample(TOY, inputs, keys=jax.random.split(jax.random.key(1), 2))
  np.testing.assert_array_equal(found[::2], other)


def test_images_of_a_mask_differ_by_its_perturbation_alone():
  found = sample(TOY, given(), num_samples=3)
  assert found.shape == (6, 4, 4, 4)
  spread = np.ptp(found[:3], axis=0).max()
  assert spread > 1e-3
  less = sample(TOY, given(perturbation=jnp.zeros(2)), num_samples=3)
  assert np.ptp(less[:3], axis=0).max() == 0
  half = given(perturbation=jnp.full(2, TOY.perturbation / 2))
  half = np.ptp(TOY.start(PARAMS, half, KEYS) - start_of_nothing(), axis=0)
  whole = TOY.start(PARAMS, given(), KEYS) - start_of_nothing()
  np.testing.assert_allclose(2 * half, np.ptp(whole, axis=0), atol=1e-6)


def start_of_nothing():
  return TOY.start(PARAMS, given(perturbation=jnp.zeros(2)), KEYS)


def test_a_sample_does_not_depend_on_its_batch():
  both = sample(TOY, given())
  alone = jax.tree.map(lambda x: x[1:], given())
  np.testing.assert_allclose(
    sample(TOY, alone, keys=KEYS[1:])[0], both[1], atol=1e-6
  )


def test_the_target_is_the_mask_moved_within_its_perturbation():
  x_0, weight = TOY.target(PARAMS, BATCH, jax.random.key(0))
  assert weight is None
  still, _ = SemFlow.target(toy(perturbation=0.0), PARAMS, BATCH, KEYS[0])
  anchors = TOY.palette.colors / 127.5 - 1
  np.testing.assert_allclose(still[0, 0, 0, :3], anchors[1] / 2, atol=1e-6)
  np.testing.assert_allclose(still[0, 0, 3, :3], anchors[4] / 2, atol=1e-6)
  moved = np.abs(x_0 - still)[..., :3]
  assert 0 < moved.max() <= TOY.perturbation / 127.5 / 2
  # The same image, painted by the host.
  painted = BATCH | {'colors': TOY.palette.paint(np.asarray(BATCH['semantic']))}
  del painted['semantic']
  same, _ = TOY.target(PARAMS, painted, jax.random.key(0))
  np.testing.assert_array_equal(same, x_0)


def test_the_loss_of_the_true_velocity_is_zero():
  class True_(known_flow.ToyFlow):
    def _unet(self, params, x, time, train, rng):
      x_0 = self.target(params, BATCH, KEYS[0])[0]
      x_1 = self.encode(params, BATCH, None).condition['latent']
      return x_0 - x_1  # their direction

  model = True_(**{**known_flow.KWARGS, 'perturbation': 0, 'posterior': 'mode'})
  loss, aux = model.loss_fn(PARAMS, BATCH, jax.random.key(0))
  assert loss < 1e-12 and aux.stats == {}
  assert TOY.loss_fn(PARAMS, BATCH, jax.random.key(0))[0] > 0.01


def test_the_networks_clock_runs_the_other_way():
  seen = []

  class Watched(known_flow.ToyFlow):
    def _unet(self, params, x, time, train, rng):
      jax.debug.callback(lambda t: seen.append(float(t[0])), time, ordered=True)
      return jnp.zeros_like(x)

  watched = Watched(**known_flow.KWARGS)
  for batch, expected in (
    (inputs_only(BATCH), [0, 250, 500, 750]),
    (given(), [1000, 750, 500, 250]),
  ):
    seen.clear()
    jax.block_until_ready(sample(watched, batch))
    jax.effects_barrier()
    np.testing.assert_allclose(seen, expected, atol=1e-3)


def test_latents_from_the_cache_are_modes():
  cached = BATCH | {'image_latent': jnp.ones((2, 4, 4, 4))}
  with pytest.raises(ValueError, match="set model\\.posterior='mode'"):
    TOY.loss_fn(PARAMS, cached, jax.random.key(0))
  encoded = toy(posterior='mode').encode(PARAMS, cached, None, train=True)
  np.testing.assert_array_equal(encoded.condition['latent'], 0.5)
  drawn = TOY.encode(PARAMS, BATCH, jax.random.key(0), train=True)
  mode = TOY.encode(PARAMS, BATCH, None)
  assert np.std(drawn.condition['latent'] - mode.condition['latent']) > 0.3


def test_postprocess_at_the_original_size():
  meta = {'unpadded': (8, 4), 'size': (16, 8)}
  semantic = np.repeat(np.int32([[1] * 3 + [4] * 5]), 8, 0)
  raw = {'semantic': semantic, 'score': np.ones((8, 8), np.float32)}
  found = TOY.postprocess(raw, meta)
  expected = np.repeat(np.int32([[1] * 6 + [4] * 2]), 16, 0)
  np.testing.assert_array_equal(found.semantic, expected)
  np.testing.assert_array_equal(found.instance, expected)
  assert found.score.shape == (16, 8) and found.image is None
  colors = TOY.palette.colors[semantic] / np.float32(127.5) - 1
  found = TOY.postprocess({'colors': colors}, meta)
  # Between two colours there may be a third.
  np.testing.assert_array_equal(found.semantic[:, [0, 4, 7]], [[1, 1, 4]] * 16)
  image = np.full((8, 8, 3), 1.999 / 255)
  drawn = TOY.postprocess({'image': image}, meta)
  assert drawn.image.shape == (8, 4, 3) and (drawn.image == 1).all()
  assert not drawn.semantic.any()
  both = TOY.postprocess({'image': image, **raw}, meta)
  assert both.image.shape == (8, 4, 3)
  np.testing.assert_array_equal(both.semantic, expected)


def test_colours_and_labels_are_of_the_same_image():
  labels = SemFlow(**known_flow.KWARGS)
  colors = SemFlow(**known_flow.KWARGS, resize='colors')
  image = labels.image_net.init(jax.random.key(0), jnp.zeros((1, 8, 8, 3)))
  params = {'frozen': {'image': image['params']}}
  x_0 = jax.random.normal(jax.random.key(1), (2, *labels.latent_shape))
  classes, made = (model.decode(params, x_0, {}) for model in (labels, colors))
  assert set(made) == {'colors'} and made['colors'].shape == (2, 8, 8, 3)
  expected = labels.palette.nearest(made['colors'])
  np.testing.assert_array_equal(classes['semantic'], expected[0])


def toy(**changes):
  return known_flow.ToyFlow(**{**known_flow.KWARGS, **changes})


def test_parameters_have_the_named_parts():
  kwargs = {**known_flow.KWARGS, 'prompt_tokens': 3}
  kwargs['unet'] = {**kwargs['unet'], 'context_dim': 16}
  model = SemFlow(**kwargs)
  shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), None))
  assert shapes['frozen']['prompt']['tokens'].shape == (3, 16)
  assert set(shapes['frozen']['image']) == {
    *('encoder', 'decoder', 'quant_conv', 'post_quant_conv'),
  }
  assert set(shapes['net']) == {'unet'} and shapes['stats'] == {}


@pytest.mark.parametrize(
  'changes, message',
  [
    ({'anchors': {'spacing': 51}}, 'spacing=51 times .* below 255'),
    ({'anchors': {'levels': 2, 'spacing': 255}}, 'below 255'),
    ({'num_classes': 217}, 'num_classes=217 must be 1 to 216'),
    ({'anchors': {'levels': 2, 'spacing': 9}, 'num_classes': 9}, '1 to 8'),
    ({'anchors': {'level': 2}}, 'level'),
    ({'perturbation': 25}, 'below 25 levels, half of model.anchors.spacing=50'),
    ({'perturbation': -1.0}, 'perturbation=-1.0 must be 0 or more'),
    ({'mask_size': (4, 4)}, r'mask_size=\(4, 4\) must be data.image_size'),
    ({'image_size': (9, 9), 'mask_size': (9, 9)}, 'divisible by 2'),
    ({'posterior': 'mean'}, "posterior='mean' is unknown"),
    ({'resize': 'color'}, "Did you mean 'colors'"),
    ({'latent_scale': 0}, 'latent_scale=0 must be above 0'),
    ({'prompt_tokens': -1}, 'prompt_tokens=-1'),
    ({'unet': {'context_dim': 8}}, 'context_dim'),
    ({'unet': {'in_channels': 8}}, 'in_channels'),
  ],
)
def test_bad_arguments_are_named(changes, message):
  with pytest.raises(ValueError, match=message):
    toy(**changes)


@pytest.mark.parametrize(
  'target, theirs, is_refused',
  [
    ('net/unet', {'latent_scale': 0.5}, True),
    ('frozen/teacher', {'anchors': {'levels': 3, 'spacing': 9}}, False),
    ('frozen/image', {'masks': {'anchors': {'levels': 3}}}, True),
    ('frozen/image', {'latent_scale': 0.5}, False),  # of images alone
    ('frozen/prompt', {'latent_scale': 0.5}, False),
    ('net/unet', {'latent_scale': 0.18215, 'anchors': {}}, False),
    ('net/unet', {'anchors': {'levels': 6, 'spacing': 50}}, False),
    ('net', {'latent_scale': 0.5}, True),
    ('', {'anchors': {'levels': 3}}, True),
    ('frozen', {'latent_scale': 0.5}, False),  # there is no teacher
    ('frozen', {'masks': {'anchors': {'levels': 3}}}, True),
    ('frozen/image', {'anchors': {'levels': 3}}, False),  # Stable Diffusion's
    ('net/unet/conv_in', {'latent_scale': 0.5}, True),
    ('unet', {'latent_scale': 0.5}, True),  # in net and stats
    ('unet/conv_in', {'latent_scale': 0.5}, True),
    ('stats', {'latent_scale': 0.5}, False),
  ],
)
def test_weights_of_another_meaning_are_refused(target, theirs, is_refused):
  model = toy(anchors={}, latent_scale=0.18215)
  if not is_refused:
    model.check_origin('runs/x', target, {'model': theirs})
    return
  with pytest.raises(ValueError, match='runs/x were trained with'):
    model.check_origin('runs/x', target, {'model': theirs})


def test_a_teacher_of_another_meaning_is_refused():
  model = reflow.SemFlowReflow(**known_flow.KWARGS)
  for target in ('frozen', 'frozen/teacher', ''):
    with pytest.raises(ValueError, match=r'latent_scale=0\.7'):
      model.check_origin('x', target, {'model': {'latent_scale': 0.7}})


def test_noise_in_place_of_the_image_is_refused():
  for sampler in (samplers.DDPM(), samplers.DDIM(eta=0.5)):
    with pytest.raises(ValueError, match='do not begin in noise'):
      TOY.sample(
        *(PARAMS, inputs_only(BATCH), KEYS),
        timesteps=timesteps_lib.uniform(4),
        sampler=sampler,
      )
  euler = sample(TOY, inputs_only(BATCH))
  np.testing.assert_allclose(
    sample(TOY, inputs_only(BATCH), sampler='ddim'), euler, atol=1e-6
  )


def test_classes_that_would_be_lost_are_told():
  with pytest.warns(UserWarning, match="void's white"):
    toy(
      num_classes=8,
      num_ids=9,
      anchors={'levels': 2, 'spacing': 250},
      perturbation=75.0,
    )


def test_the_first_of_several_samples_is_the_one():
  one, three = (sample(TOY, given(), num_samples=n, keys=KEYS) for n in (1, 3))
  np.testing.assert_allclose(three[::3], one, atol=1e-6)
  assert np.abs(three[1::3] - one).max() > 1e-3


def test_masks_of_another_size_are_refused():
  small = BATCH | {'semantic': BATCH['semantic'][:, :4]}
  with pytest.raises(ValueError, match=r'masks are \(4, 8\)'):
    TOY.target(PARAMS, small, jax.random.key(0))
  with pytest.raises(ValueError, match=r'masks are \(4, 8\)'):
    TOY.start(PARAMS, {'given': small}, KEYS)


def test_a_mask_that_is_given_whole_is_not_noised():
  run = functools.partial(sample, TOY, given())
  with pytest.raises(ValueError, match='strength'):
    run(strength=0.5)
  with pytest.raises(ValueError, match='draws fresh noise'):
    run(sampler='ddpm')


def test_the_times_of_training():
  kwargs = {**known_flow.KWARGS, 'train_times': ('beta', {'a': 3})}
  t = SemFlow(**kwargs).times.sample(jax.random.key(0), 1000)
  assert np.mean(t > 0.5) > 0.8
  with pytest.raises(ValueError, match=r"train_times='betta' .*Did"):
    SemFlow(**kwargs | {'train_times': ('betta', {})})
  with pytest.raises(ValueError, match=r'model\.train_times.*alpha'):
    SemFlow(**kwargs | {'train_times': ('beta', {'alpha': 8})})
  with pytest.raises(ValueError, match='times a=-1, b=1'):
    SemFlow(**kwargs | {'train_times': ('beta', {'a': -1})})
