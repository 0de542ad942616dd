"""LDMSeg's configs: the release's numbers, sizes by shapes alone, and smoke."""

import functools
import importlib
import json
import re

import jax
import numpy as np
import pytest

from configs import common, ldmseg_autoencoder_coco
from pix2seqd_jax.experiment import build, runs, schema
from pix2seqd_jax.train import sharding
from pix2seqd_jax.train.checkpoints import archive
from pix2seqd_jax.types import Category

NAMES = tuple(
  f'ldmseg{stage}_{data}'
  for data in ('coco', 'nuclei', 'cityscapes')
  for stage in ('_autoencoder', '')
)
UNET, TIME_EMBEDDING = 815_556_484, 2_050_560
MASKS = 2_023_208


def get_config(name, variant=''):
  return importlib.import_module(f'configs.{name}').get_config(variant)


def experiment_of(config):
  """Without the data set's files: dummy classes of the right number."""
  classes = tuple(
    Category(i + 1, f'class {i + 1}', is_thing=i % 2 == 0)
    for i in range(config.data.num_classes)
  )
  return build.Experiment(config, classes)


@functools.cache
def shapes(name, variant=''):
  """{path: shape} of the parameters; tracing them takes seconds."""
  experiment = experiment_of(get_config(name, variant))
  init = jax.eval_shape(experiment.model.init, jax.random.key(0), None)
  return {k: v.shape for k, v in sharding.flat_paths(init).items()}


def count(found, prefix=''):
  return sum(int(np.prod(s)) for k, s in found.items() if k.startswith(prefix))


def all_variants(name):
  return ('', *importlib.import_module(f'configs.{name}').VARIANTS)


@pytest.mark.parametrize('name', NAMES)
def test_every_variant_builds_and_survives_json(name):
  for variant in all_variants(name):
    plain = schema.plain(get_config(name, variant))
    again = schema.from_plain(json.loads(json.dumps(plain)))
    assert schema.plain(again) == plain
    experiment = experiment_of(again)
    experiment.transform('train'), experiment.transform('eval')
    assert experiment.task.class_agnostic == (variant != 'classes')
    assert len(experiment.timesteps().now) == again.sample.steps
  with pytest.raises(ValueError, match="'lowers' is unknown; known: "):
    get_config(name, 'lowers')


# The release (methods sheet, sections 2 and 3).


def test_the_release_s_parameters():
  found = shapes('ldmseg_coco')
  assert count(found, 'net/') == count(found, 'net/unet/') == UNET
  assert count(found, 'frozen/mask/') == MASKS
  assert found['net/unet/conv_in/kernel'] == (3, 3, 12, 320)
  assert not any('decoder' in name for name in found if '/image/' in name)
  assert count(found, 'net/unet/time_embedding/') == TIME_EMBEDDING


def test_what_trains_and_what_decays():
  config = get_config('ldmseg_coco')
  found = shapes('ldmseg_coco')
  names = [k.removeprefix('net/') for k in found if k.startswith('net/')]
  (freeze,) = config.optimizer.freeze
  frozen = [name for name in names if re.search(freeze, name)]
  kept = count({name: found[f'net/{name}'] for name in frozen})
  assert UNET - kept == 813_505_924
  (decays,) = config.optimizer.decay_mask
  without = {name for name in names if not re.search(decays, name)}
  # What PyTorch calls GroupNorm and LayerNorm: vectors beside a scale.
  norms = {name.rpartition('/')[0] for name in names if name.endswith('scale')}
  assert without == {name for name in names if name.rpartition('/')[0] in norms}


def test_stage_2_by_the_step():
  config = get_config('ldmseg_coco')
  assert (config.data.batch_size, config.train.steps) == (256, 200_000)
  assert config.optimizer.clip_norm == 1.0
  assert config.optimizer.weight_decay == 0.05
  rate = experiment_of(config).learning_rate
  for step, expected in ((0, 0), (100, 5e-5), (200, 1e-4), (200_000, 1e-6)):
    assert float(rate(step)) == pytest.approx(expected, rel=1e-4)
  now = experiment_of(config).timesteps().now
  steps = [round(1000 * float(t)) - 1 for t in now]
  assert steps == list(range(999, 0, -20))


def test_stage_1():
  config = get_config('ldmseg_autoencoder_coco')
  assert count(shapes('ldmseg_autoencoder_coco')) == MASKS
  assert (config.data.batch_size, config.train.steps) == (16, 66_528)
  assert config.data.num_ids == 128
  rate = experiment_of(config).learning_rate
  for step, expected in ((0, 0), (200, 1e-4), (66_527, 1e-4)):
    assert float(rate(step)) == pytest.approx(expected)
  assert config.optimizer.decay_mask == 'all'


def test_cityscapes_may_go_on_from_coco():
  for stage in ('ldmseg_autoencoder', 'ldmseg'):
    theirs = shapes(f'{stage}_coco')
    assert shapes(f'{stage}_cityscapes') == theirs
  data = get_config('ldmseg_cityscapes').data
  assert data.image_size == data.mask_size == (512, 1024)


@pytest.mark.parametrize('data', ['coco', 'nuclei', 'cityscapes'])
def test_stage_2_takes_over_its_stage_1(data):
  variants = {'coco': ('', 'sd_vae'), 'nuclei': ('', 'gpu')}.get(data, ('',))
  for variant in variants:
    one = get_config(f'ldmseg_autoencoder_{data}', variant)
    two = get_config(f'ldmseg_{data}', variant)
    here = two.model.mask_autoencoder.to_dict()
    assert here == {key: one.model.to_dict()[key] for key in here}
    for key in ('num_ids', 'image_size', 'mask_size'):
      assert one.data[key] == two.data[key]
    assert 'frozen/mask' in {entry[2] for entry in two.init_from}


def test_the_sd_vae_starts_with_all_but_its_last_layer():
  """Where each array comes from, at the size of the smoke variant."""
  found = shapes('ldmseg_autoencoder_coco', 'sd_vae,smoke')
  entries = get_config('ldmseg_autoencoder_coco', 'sd_vae').init_from
  assert {entry[0] for entry in entries} == {ldmseg_autoencoder_coco.SD_VAE}
  covered = {
    name: [e for e in entries if name.startswith(f'{e[2]}/')] for name in found
  }
  last = 'net/autoencoder/decoder/conv_out/'
  for name, some in covered.items():
    assert len(some) == (0 if name.startswith(last) else 1), name
  assert {e for some in covered.values() for e in some} == set(entries)


def test_the_class_head_fits_stage_2():
  """Of the same sizes there, at the size of the smoke variants."""
  head = get_config('ldmseg_classifier_coco').model.to_dict()
  taken = get_config('ldmseg_coco', 'classes').model.classifier.to_dict()
  assert taken == {key: head[key] for key in taken}
  there = shapes('ldmseg_classifier_coco', 'smoke')
  here = shapes('ldmseg_coco', 'classes,smoke')
  for theirs, ours in (
    ('net/head/', 'frozen/classifier/'),
    ('frozen/mask/', 'frozen/mask/'),
    ('frozen/image/', 'frozen/image/'),
  ):
    found = {k: v for k, v in there.items() if k.startswith(theirs)}
    expected = {k: v for k, v in here.items() if k.startswith(ours)}
    assert found and expected == {
      k.replace(theirs, ours): v for k, v in found.items()
    }


def test_fsdp_splits_the_unet():
  """By the rule of the config, nearly all of it."""
  config = get_config('ldmseg_coco')
  mesh = sharding.make_mesh((('data', 1), ('fsdp', 8), ('tensor', 1)))
  tree = {
    k: jax.ShapeDtypeStruct(s, np.float32)
    for k, s in shapes('ldmseg_coco').items()
    if k.startswith('net/')
  }
  where = sharding.shardings(tree, mesh, config.shard_rules)
  held = sum(
    int(np.prod(where[k].shard_shape(leaf.shape))) for k, leaf in tree.items()
  )
  assert held < 0.13 * UNET
  assert config.optimizer.decay_mask == common.NO_NORMS


# Smoke: both stages, one after the other, on real files.


def short(config, shared):
  config.data.root = str(shared / 'data' / 'nuclei')
  config.train.update({'steps': 3, 'save_every': 0, 'eval_every': 0})
  config.eval.num_examples = 8
  if 'max_segments' in config.model:
    config.model.max_segments = 8
  config.sample.steps = 2
  return config


def test_nuclei_smoke_trains_both_stages(shared, tmp_path):
  one = short(get_config('ldmseg_autoencoder_nuclei', 'smoke'), shared)
  two = short(get_config('ldmseg_nuclei', 'smoke'), shared)
  folder = str(tmp_path / 'one')
  two.init_from = ((folder, 'net/autoencoder', 'frozen/mask', 'exact'),)
  for config, name in ((one, 'one'), (two, 'two')):
    runs.train(config, tmp_path / name)
    assert archive.steps_in(tmp_path / name)[-1] == 3
  results = runs.evaluate(tmp_path / 'two')
  assert 0 <= results['pq'] <= 1
  with pytest.raises(ValueError, match=r'num_ids=256, here it is 100'):
    two.data.num_ids = 100
    runs.train(two, tmp_path / 'three')
