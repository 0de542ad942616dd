"""Every shipped config builds at full size; the numbers are the paper's."""

import functools
import importlib
import json

import jax
import numpy as np
import pytest

from configs import common
from pix2seqd_jax.experiment import build, runs, schema, workdir
from pix2seqd_jax.train import optimizer, sharding, state
from pix2seqd_jax.train.checkpoints import archive, weights
from pix2seqd_jax.types import Category

NAMES = (
  'pix2seq_d_shapes',
  'pix2seq_d_nuclei',
  'pix2seq_d_coco',
  'pix2seq_d_cityscapes',
  'pix2seq_d_camvid',
)
RECIPES = tuple(
  (name, variant)
  for name in NAMES
  for variant in ('', *importlib.import_module(f'configs.{name}').VARIANTS)
  if (name, variant) != ('pix2seq_d_coco', '')  # which is :lowres
)
STAGES = ('pretrain_decoder', 'lowres', 'highres', 'ablation')


def get_config(name, variant=''):
  return importlib.import_module(f'configs.{name}').get_config(variant)


def experiment_of(config):
  """Without the data set's files: dummy classes of the right number."""
  classes = tuple(
    Category(i + 1, f'class {i + 1}', is_thing=i % 2 == 0)
    for i in range(config.data.num_classes)
  )
  return build.Experiment(config, classes)


def count(tree):
  return sum(leaf.size for leaf in jax.tree.leaves(tree))


def shapes_of(tree):
  return {k: v.shape for k, v in sharding.flat_paths(tree).items()}


@pytest.mark.parametrize(('name', 'variant'), RECIPES)
def test_a_recipe_builds_at_full_size(name, variant):
  """State, one train step, one sample: shapes alone, nothing is computed."""
  experiment = experiment_of(get_config(name, variant))
  data = experiment.config['data']
  experiment.transform('train'), experiment.transform('eval')
  assert experiment.task is not None
  batch = experiment.abstract_batch(data['batch_size'])
  old = state.abstract_state(
    experiment.model,
    experiment.optimizer,
    batch,
    experiment.mesh,
    experiment.shard_rules,
    experiment.keeps_ema,
  )
  assert shapes_of(old.ema['net']) == shapes_of(old.params['net'])
  key = jax.random.key(0)
  new, scalars = jax.eval_shape(experiment.train_step(), old, batch, key)
  assert shapes_of(new) == shapes_of(old)
  assert scalars['loss'].shape == () and scalars['loss'].dtype == np.float32
  inputs = experiment.abstract_batch(experiment.config['eval']['batch_size'])
  keys = jax.random.split(key, inputs['image'].shape[0])
  raw = jax.eval_shape(
    experiment.sample_fn(),
    old.params,
    {k: inputs[k] for k in ('image', 'valid')},
    keys,
  )
  expected = (inputs['image'].shape[0], *data['mask_size'])
  assert raw['semantic'].shape == raw['instance'].shape == expected


@pytest.mark.parametrize(('name', 'variant'), RECIPES)
def test_a_recipe_survives_json(name, variant):
  plain = schema.plain(get_config(name, variant))
  again = schema.plain(schema.from_plain(json.loads(json.dumps(plain))))
  assert again == plain
  build.Experiment(schema.from_plain(again))


@pytest.mark.parametrize('name', NAMES)
def test_unknown_variants_are_refused(name):
  with pytest.raises(ValueError, match="'lowers' is unknown; known: "):
    get_config(name, 'lowers')


def test_two_stages_at_once_are_refused():
  with pytest.raises(ValueError, match='choose one stage'):
    get_config('pix2seq_d_coco', 'lowres,highres')


def test_the_config_of_a_work_directory(smoke_run, tmp_path):
  """configs/workdir.py:WORKDIR, to override values of a finished run."""
  module = importlib.import_module('configs.workdir')
  found = module.get_config(str(smoke_run.workdir))
  assert schema.plain(found) == schema.plain(smoke_run.config)
  found.sample.steps = 7
  experiment = workdir.load(smoke_run.workdir, found)
  assert len(experiment.timesteps().now) == 7
  with pytest.raises(ValueError, match=r'config\.json does not exist; write'):
    module.get_config(str(tmp_path))


# The config of Pix2Seq-D (arXiv 2210.06366): what the authors ran.


@functools.cache
def coco_shapes(variant):
  experiment = experiment_of(get_config('pix2seq_d_coco', variant))
  batch = experiment.abstract_batch()
  return jax.eval_shape(experiment.model.init, jax.random.key(0), batch)


def test_coco_has_the_paper_s_94_5_million_parameters():
  net = coco_shapes('lowres')['net']
  assert count(net) == 94_492_480
  parts = {name: count(part) for name, part in net.items()}
  assert parts == {
    'encoder': 46_898_752,
    'merge': 4_003_840,
    'denoiser': 43_589_888,
  }


@pytest.mark.parametrize(
  ('stage', 'image', 'batch', 'steps', 'rate', 'warmup', 'jitter', 'color'),
  [
    ('lowres', 256, 512, 184_824, 1e-4, 1155, (1.0, 3.0), 1.0),
    ('highres', 1024, 16, 110_895, 1e-5, 0, (1.0, 1.0), 0.0),
  ],
)
def test_coco_stages(stage, image, batch, steps, rate, warmup, jitter, color):
  config = get_config('pix2seq_d_coco', stage)
  data = config.data
  assert data.image_size == (image, image)
  assert data.mask_size == (image // 2, image // 2)
  assert (data.batch_size, config.train.steps) == (batch, steps)
  assert config.optimizer.learning_rate == rate
  assert config.optimizer.warmup_steps == warmup
  transforms = dict(data.train_transforms)
  assert transforms['scale_jitter']['scale'] == jitter
  assert transforms['color_jitter']['strength'] == color
  assert list(transforms) == [
    'scale_jitter',
    'fixed_size_crop',
    'random_flip',
    'color_jitter',
    'pad',
  ]
  assert (data.num_classes, data.num_ids) == (133, 101)
  assert data.id_order == 'random'


def test_coco_ablation_sizes():
  config = get_config('pix2seq_d_coco', 'ablation')
  assert config.data.image_size == (512, 512)
  assert config.data.mask_size == (256, 256)
  assert config.data.batch_size == 128
  assert config.train.steps == 118_287 * 100 // 128 + 1


@pytest.mark.parametrize('stage', STAGES)
def test_coco_common_numbers(stage):
  config = get_config('pix2seq_d_coco', stage)
  adamw = config.optimizer
  assert (adamw.b1, adamw.b2, adamw.eps) == (0.9, 0.999, 1e-8)
  assert (adamw.weight_decay, adamw.decay_mask) == (0.05, 'all')
  assert (adamw.clip_norm, adamw.ema_decay) == (1.0, 0.999)
  assert not adamw.ema_warmup
  assert (adamw.schedule, adamw.end_factor) == ('linear', 0.1)
  model = config.model
  assert (model.scale, model.loss_weight) == (0.1, 0.2)
  assert (model.class_bits, model.instance_bits) == (8, 8)
  assert (model.loss_kind, model.self_condition_rate) == ('softmax', 0.0)
  assert (model.encoder.drop_path, model.encoder.dropout) == (0.1, 0.1)
  assert model.denoiser.time_scaling == 1000.0
  free = 'none' if stage == 'pretrain_decoder' else 'cat+attn'
  assert model.conditional == free
  assert experiment_of(config).model.denoiser.dropout == 0
  sample = config.sample
  assert (sample.steps, sample.td, sample.sampler) == (20, 2.0, 'ddim')
  assert config.task.min_pixels == 80


def test_coco_learning_rate_by_the_step():
  """The reference's own values, read from its schedule."""
  config = get_config('pix2seq_d_coco', 'lowres')
  rate = experiment_of(config).learning_rate
  for step, expected in ((577, 4.9957e-5), (92_989, 5.5e-5), (184_823, 1e-5)):
    assert float(rate(step)) == pytest.approx(expected, rel=2e-4)


def test_coco_stages_take_over_each_other_s_weights():
  decoder = shapes_of(coco_shapes('pretrain_decoder')['net']['denoiser'])
  lowres = coco_shapes('lowres')
  here = shapes_of(lowres['net']['denoiser'])
  assert {k: here[k] for k in decoder} == decoder
  assert all(
    'cross_attention' in k or 'cross' in k for k in {*here} - {*decoder}
  )
  assert shapes_of(coco_shapes('highres')) == shapes_of(lowres)


def test_the_rules_of_init_from_in_the_recipes_exist():
  text = importlib.import_module('configs.pix2seq_d_coco').__doc__
  rules = [part for part in text.split("'") if part in ('partial', 'exact')]
  assert rules and set(rules) <= set(weights.RULES)


def test_cityscapes_takes_over_the_weights_of_coco():
  experiment = experiment_of(get_config('pix2seq_d_cityscapes'))
  data = experiment.config['data']
  assert (data['image_size'], data['mask_size']) == ((1024, 2048), (512, 1024))
  shapes = jax.eval_shape(
    experiment.model.init, jax.random.key(0), experiment.abstract_batch()
  )
  assert shapes_of(shapes) == shapes_of(coco_shapes('lowres'))


@pytest.mark.parametrize('sizes', [(8, 1, 1), (2, 2, 2), (1, 4, 2), (1, 8, 1)])
def test_the_rules_split_the_released_networks(sizes):
  axes = tuple(zip(('data', 'fsdp', 'tensor'), sizes))
  mesh = sharding.make_mesh(axes)
  net = coco_shapes('lowres')['net']
  where = sharding.shardings(net, mesh, common.fsdp_rules())
  held = jax.tree.map(
    lambda leaf, s: int(np.prod(s.shard_shape(leaf.shape))), net, where
  )
  whole = count(net)
  fraction = sum(jax.tree.leaves(held)) / whole
  # Vectors stay whole; they are less than a percent of it.
  assert fraction < 1 / sizes[1] + 0.01
  specs = {k: tuple(s.spec) for k, s in sharding.flat_paths(where).items()}
  layer = 'encoder/layer_0/self_attention'
  assert specs[f'{layer}/query/kernel'] == ('fsdp', 'tensor', None)
  assert specs[f'{layer}/out/kernel'] == ('tensor', None, 'fsdp')
  assert specs['denoiser/conv_out/kernel'] == (None, None, None, 'fsdp')


def test_every_optimizer_schedule_name_is_known():
  for name, variant in RECIPES:
    config = get_config(name, variant).optimizer
    optimizer.make_schedule(
      config.schedule,
      base=config.learning_rate,
      warmup_steps=config.warmup_steps,
      total_steps=get_config(name, variant).train.steps,
      end_factor=config.end_factor,
    )


# Smoke: the configs run, on real files where they are for real files.


def test_shapes_smoke_trains_and_evaluates(smoke_run):
  lines = (smoke_run.workdir / 'metrics.jsonl').read_text().splitlines()
  rows = [json.loads(line) for line in lines]
  losses = [row['loss'] for row in rows if 'loss' in row]
  assert losses and np.isfinite(losses).all()
  for key in ('pq', 'pq_things', 'pq_stuff', 'miou'):
    assert 0 <= smoke_run.results[key] <= 1
  assert archive.steps_in(smoke_run.workdir) == [3, 6]


def check_smoke(config, folder, kinds=('pq_things', 'pq_stuff')):
  runs.train(config, folder)
  results = runs.evaluate(folder)
  assert archive.steps_in(folder)[-1] == config.train.steps
  for key in ('pq', *kinds, 'miou'):
    assert np.isnan(results[key]) or 0 <= results[key] <= 1


def short(config):
  config.train.update({'steps': 3, 'save_every': 0, 'eval_every': 0})
  config.eval.num_examples = 8
  config.sample.steps = 2
  return config


def test_nuclei_smoke_trains_on_real_files(shared, tmp_path):
  config = short(get_config('pix2seq_d_nuclei', 'smoke'))
  config.data.root = str(shared / 'data' / 'nuclei')
  check_smoke(config, tmp_path / 'run')


def test_coco_smoke_trains_on_real_files(shared, tmp_path):
  config = short(get_config('pix2seq_d_coco', 'smoke'))
  config.data.root = str(shared / 'data' / 'coco_mini')
  paths = {
    'images': 'images',
    'panoptic': 'panoptic',
    'annotations': 'annotations/panoptic_full.json',
  }
  config.data.train.update(paths)
  config.data.eval.update(paths)
  check_smoke(config, tmp_path / 'run')


def test_camvid_smoke_trains_on_real_files(shared, tmp_path):
  config = short(get_config('pix2seq_d_camvid', 'smoke'))
  config.data.root = str(shared / 'data' / 'camvid')
  check_smoke(config, tmp_path / 'run', kinds=('pq_stuff',))


def test_the_class_head_builds_and_its_smoke_trains(tmp_path):
  experiment = experiment_of(get_config('ldmseg_classifier_shapes', 'scratch'))
  shapes = experiment.abstract_state.params
  assert set(shapes['net']) == {'head'}
  assert set(shapes['frozen']) == {'image', 'mask'}
  config = short(get_config('ldmseg_classifier_shapes', 'smoke'))
  check_smoke(config, tmp_path / 'run')
