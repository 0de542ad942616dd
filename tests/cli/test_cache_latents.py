"""Latents by the command, read in training and evaluation, against the model's
own."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest

from configs import ldmseg_shapes, semflow_camvid, semflow_shapes
from pix2seqd_jax.cli import cache_latents
from pix2seqd_jax.experiment import build, schema
from pix2seqd_jax.train.checkpoints import weights

REPO = pathlib.Path(__file__).resolve().parents[2]
QUICK = {'xla_backend_optimization_level': 0}
SMALL = {
  'data.source.size': (16, 16),
  'data.image_size': (16, 16),
  'data.mask_size': (16, 16),
  'data.train.num_examples': 5,
  'data.eval.num_examples': 3,
  'data.batch_size': 8,
  'eval.batch_size': 4,
}


def small(**changes):
  config = ldmseg_shapes.get_config('smoke').unlock()
  for key, value in {**SMALL, **changes}.items():
    *sections, last = key.split('.')
    node = config
    for section in sections:
      node = node[section]
    node[last] = value
  return config


def encoder(seed=0):
  """Weights of the encoder of `small`'s images."""
  network = build.Experiment(small()).model.image_net
  image = jnp.zeros((1, 16, 16, 3))
  return oracles.random_variables(network, image, seed=seed)['params']


@pytest.fixture(scope='module')
def run(tmp_path_factory):
  """What is left of a run of an image autoencoder: its weights."""
  folder = tmp_path_factory.mktemp('run')
  weights.save_params(folder, 0, {'net': {'autoencoder': encoder()}})
  return folder


def command(run, output):
  flags = [f'--config.{key}={value}' for key, value in SMALL.items()]
  recipe = f'{REPO}/configs/ldmseg_shapes.py:smoke'
  cache_latents.run(
    ['--workdir', str(run), '--config', recipe, '--output', str(output), *flags]
  )


@pytest.fixture(scope='module')
def folder(run, tmp_path_factory):
  """All latents, by the command line."""
  output = tmp_path_factory.mktemp('latents') / 'shapes'
  command(run, output)
  return output


def test_cached_latents_are_those_that_the_model_makes(folder):
  experiment = build.Experiment(small(**{'data.latents': str(folder)}))
  experiment.check_latents({'frozen': {'image': encoder()}})
  params = {'frozen': {'image': encoder()}}
  encode = jax.jit(
    lambda batch: experiment.model.encode(params, batch, None).condition['map'],
    compiler_options=QUICK,
  )
  seen = set()
  stream = experiment.train_batches()
  batches = [next(stream), next(stream), *experiment.eval_batches()]
  plain = build.Experiment(small()).train_batches()
  for batch in batches:
    latent = batch['image_latent']
    assert latent.dtype == np.float32 and latent.shape[1:] == (4, 4, 4)
    inputs = {k: batch[k] for k in ('image', 'valid')}
    padded = {k: np.resize(v, (8, *v.shape[1:])) for k, v in inputs.items()}
    expected = encode(padded)[: len(latent)]
    scaled = latent * experiment.model.image_scale
    np.testing.assert_allclose(scaled, expected, rtol=1e-6, atol=2e-6)
    seen |= {row.tobytes() for row in latent}
  # Five images both ways, but for chance, and three of evaluation.
  assert len(seen) > 5 + 3
  # Nothing else of a batch changes.
  np.testing.assert_array_equal(next(plain)['image'], batches[0]['image'])


def test_the_model_takes_them_in_place_of_the_image(folder):
  experiment = build.Experiment(small(**{'data.latents': str(folder)}))
  batch = next(iter(experiment.eval_batches()))
  told = experiment.model.encode({}, batch, None).condition['map']
  scale = experiment.model.image_scale
  np.testing.assert_allclose(told, batch['image_latent'] * scale)


def test_a_image_of_the_user_has_no_latent(folder):
  experiment = build.Experiment(small(**{'data.latents': str(folder)}))
  example = experiment.source('eval')[0]
  inputs, _ = experiment.single(example)
  assert set(inputs) == {'image', 'valid'}


def test_killed_and_resumed(run, folder, tmp_path, monkeypatch):
  """The bytes are those of one go; what was saved is not made again."""
  monkeypatch.setattr(cache_latents, '_SAVE_EVERY', 1)
  made = []
  check = cache_latents._check_finite

  def kill(found, rows):
    if len(made) == 2:
      raise KeyboardInterrupt
    made.append(len(rows))
    check(found, rows)

  monkeypatch.setattr(cache_latents, '_check_finite', kill)
  with pytest.raises(KeyboardInterrupt):
    cache_latents.cache(run, small(), tmp_path)
  assert sum(made) == 4
  monkeypatch.setattr(
    cache_latents, '_check_finite', lambda _, rows: made.append(len(rows))
  )
  cache_latents.cache(run, small(), tmp_path)
  assert sum(made) == 5 + 3
  for name in ('train.f32', 'eval.f32'):
    one, two = (np.fromfile(f / name, np.float32) for f in (folder, tmp_path))
    np.testing.assert_array_equal(one, two)
  cache_latents.cache(run, small(), tmp_path)  # there is nothing left to do
  assert sum(made) == 5 + 3


def test_latents_of_other_weights_are_refused(run, folder, tmp_path):
  experiment = build.Experiment(small(**{'data.latents': str(folder)}))
  with pytest.raises(ValueError, match='by an encoder whose weights have'):
    experiment.check_latents({'frozen': {'image': encoder(seed=1)}})
  weights.save_params(tmp_path, 0, {'net': {'vae': encoder(seed=1)}})
  with pytest.raises(ValueError, match='by an encoder whose weights have'):
    cache_latents.cache(tmp_path, small(), folder)


def test_transforms_that_draw_are_refused(run, tmp_path):
  crop = (('fixed_size_crop', {}), ('pad', {}))
  config = small(**{'data.train_transforms': crop})
  with pytest.raises(ValueError, match="has 'fixed_size_crop', which draws"):
    cache_latents.cache(run, config, tmp_path / 'new')
  assert not (tmp_path / 'new').exists()


def test_another_data_set_is_refused(folder):
  changes = {'data.latents': str(folder), 'data.source.hue': 0.0}
  with pytest.raises(ValueError, match=r'source is .* here'):
    build.Experiment(small(**changes)).transform('train')


def test_a_model_without_images_latents_is_refused(smoke_config):
  smoke_config.data.latents = 'latents/shapes'
  with pytest.raises(ValueError, match="'pix2seq_d' has no image autoencoder"):
    build.Experiment(smoke_config).transform('train')


def test_latents_that_are_drawn_are_refused():
  config = semflow_shapes.get_config('smoke')
  config.data.latents = 'latents/shapes'
  with pytest.raises(ValueError, match=r"set model\.posterior='mode'"):
    build.Experiment(config).transform('train')


def test_camvid_s_cached_variant_may_have_them():
  config = semflow_camvid.get_config('cached')
  experiment = build.Experiment(config)
  assert experiment.latent_origin('train')['ways'] == 2
  assert experiment.latent_origin('eval')['ways'] == 1
  plain = build.Experiment(semflow_camvid.get_config())
  with pytest.raises(ValueError, match=r'data\.latents: '):
    plain.latent_origin('train')


@pytest.fixture
def smoke_config():
  from smoke import smoke_config

  return schema.complete(smoke_config())


def test_a_run_without_such_an_encoder_is_refused(tmp_path):
  wide = {'encoder': {'conv_in': {'bias': np.zeros(64, np.float32)}}}
  weights.save_params(tmp_path, 0, {'net': {'autoencoder': wide}})
  with pytest.raises(ValueError, match='of another size: net/autoencoder/'):
    cache_latents.cache(tmp_path, small(), tmp_path / 'latents')


def test_of_several_encoders_the_frozen_one_is_taken():
  own, other = encoder(), encoder(seed=1)
  params = {'net': {'vae': other}, 'frozen': {'image': own}}
  found = cache_latents.encoder_weights(params, own, 'runs/ldmseg')
  jax.tree.map(np.testing.assert_array_equal, found, own)
  twice = {'net': {'vae': other, 'autoencoder': own}}
  with pytest.raises(ValueError, match='has 2 networks that fit'):
    cache_latents.encoder_weights(twice, own, 'runs/vae')


@pytest.mark.parametrize(
  'flags, words',
  [
    (['--batches', '3'], 'unknown argument --batches'),
    (['--split', 'test'], '--split=test: there are train and eval'),
    (['--batch_size', '-1'], 'batch_size=-1 must be'),
  ],
)
def test_the_command_line(flags, words, tmp_path):
  recipe = f'{REPO}/configs/ldmseg_shapes.py:smoke'
  told = ['--workdir', 'none', '--config', recipe, '--output', str(tmp_path)]
  with pytest.raises(ValueError, match=words):
    cache_latents.run([*told, *flags])
