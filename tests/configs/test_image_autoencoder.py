"""The configs of image autoencoders: they build, and the small one runs."""

import importlib
import json

import jax
import numpy as np
import pytest

from configs import image_autoencoder_shapes, ldmseg_autoencoder_shapes
from pix2seqd_jax.experiment import build, runs, schema
from pix2seqd_jax.inference import pipeline
from pix2seqd_jax.train import sharding, state
from pix2seqd_jax.types import Category

NAMES = (
  'image_autoencoder_shapes',
  'image_autoencoder_nuclei',
  'image_autoencoder_camvid',
)
RECIPES = tuple(
  (name, variant)
  for name in NAMES
  for variant in ('', *importlib.import_module(f'configs.{name}').VARIANTS)
)


def get_config(name, variant=''):
  return importlib.import_module(f'configs.{name}').get_config(variant)


def experiment_of(config):
  """Without the data set's files."""
  count = config.data.num_classes
  return build.Experiment(
    config, tuple(Category(i, f'class {i}', True) for i in range(count))
  )


def shapes_of(tree):
  return {k: v.shape for k, v in sharding.flat_paths(tree).items()}


@pytest.mark.parametrize(('name', 'variant'), RECIPES)
def test_a_recipe_builds_at_full_size(name, variant):
  experiment = experiment_of(get_config(name, variant))
  data = experiment.config['data']
  for split in ('train', 'eval'):
    experiment.check_transforms(split)
  experiment.check_ranges()
  assert 'psnr' in experiment.task.empty().compute()
  batch = experiment.abstract_batch(data['batch_size'])
  old = state.abstract_state(
    experiment.model,
    experiment.optimizer,
    batch,
    experiment.mesh,
    experiment.shard_rules,
    experiment.keeps_ema,
  )
  key = jax.random.key(0)
  new, scalars = jax.eval_shape(experiment.train_step(), old, batch, key)
  assert shapes_of(new) == shapes_of(old)
  assert {'loss', 'reconstruction', 'kl', 'latent_std'} <= set(scalars)
  inputs = experiment.abstract_batch(2)
  raw = jax.eval_shape(
    experiment.sample_fn(),
    old.params,
    {k: inputs[k] for k in ('image', 'valid')},
    jax.random.split(key, 2),
  )
  assert raw['image'].shape == inputs['image'].shape
  assert raw['image'].dtype == np.float32


@pytest.mark.parametrize(('name', 'variant'), RECIPES)
def test_a_recipe_survives_json(name, variant):
  plain = schema.plain(get_config(name, variant))
  again = schema.plain(schema.from_plain(json.loads(json.dumps(plain))))
  assert again == plain


@pytest.mark.parametrize('name', NAMES)
def test_unknown_variants_are_refused(name):
  with pytest.raises(ValueError, match="'large' is unknown; known: "):
    get_config(name, 'large')


def test_latents_of_images_and_of_masks_have_one_size():
  images, masks = (
    experiment_of(module.get_config()).model
    for module in (image_autoencoder_shapes, ldmseg_autoencoder_shapes)
  )
  sides = [side // images.net.factor for side in images.image_size]
  assert sides == [side // masks.net.factor for side in masks.mask_size]


class Panels:
  def write_images(self, step, panels):
    self.found = panels


def test_shapes_smoke_trains_and_evaluates(tmp_path, capsys):
  config = get_config('image_autoencoder_shapes', 'smoke')
  config.train.update({'save_every': 0, 'eval_every': 0})
  trained = runs.train(config, tmp_path)
  lines = (tmp_path / 'metrics.jsonl').read_text().splitlines()
  rows = [json.loads(line) for line in lines]
  losses = [row['loss'] for row in rows if 'loss' in row]
  assert losses[-1] < losses[0]
  panels = Panels()
  results = runs.evaluate_params(
    build.Experiment(config), state.eval_params(trained), writer=panels
  )
  assert 3 < results['psnr'] < 40 and 0 < results['l1'] < 1
  told = capsys.readouterr().out
  assert 'psnr: ' in told and 'PQ' not in told
  # The image and what came back, each enlarged to 256.
  assert len(panels.found) == config.train.num_panels
  strip = panels.found['eval/0']
  assert strip.dtype == np.uint8 and strip.shape[1] >= 2 * 256


def test_it_is_asked_for_no_segments():
  pipe = pipeline.Pipeline(experiment_of(get_config(NAMES[0])), {})
  with pytest.raises(ValueError, match=r"task\.name='reconstruction' reads no"):
    pipe.segment(np.zeros((64, 64, 3), np.uint8))
