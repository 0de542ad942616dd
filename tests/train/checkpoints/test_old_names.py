"""Runs and configs of before keys were renamed (commit 62d6a96)."""

import json
import pathlib
import shutil

import pytest

from configs import pix2seq_d_shapes
from pix2seqd_jax.experiment import build, flags, schema, validate
from pix2seqd_jax.train.checkpoints import old_names, resume

# As the quickstart of that commit wrote it.
OLD_RUN = pathlib.Path(__file__).with_name('config_62d6a96.json')


def today():
  config = schema.plain(pix2seq_d_shapes.get_config())
  return {k: v for k, v in config.items() if k != 'distributed'}


def test_a_run_of_then_goes_on_by_todays_config(tmp_path):
  shutil.copy(OLD_RUN, tmp_path / resume.FILE)
  assert resume.check_resume(tmp_path, today())
  assert resume.load_config(tmp_path) == json.loads(json.dumps(today()))
  plain = schema.plain(schema.from_plain(json.loads(OLD_RUN.read_text())))
  assert plain == schema.plain(pix2seq_d_shapes.get_config())
  changed = today()
  changed['data']['num_ids'] = 3
  with pytest.raises(ValueError, match=r'data\.num_ids: 16 in config\.json'):
    resume.check_resume(tmp_path, changed)


def old_config():
  """Every old name."""
  return {
    'data': {'max_instances': 3},
    'model': {'picture': 'hidden', 'classifier': {'picture': 'latent'}},
    'task': {'name': 'completion'},
    'sample': {
      'grid': 'blocks',
      'grid_args': {'end': 0.1},
      'stepper': "dpm_singlestep(inner='grid')",
      'stepper_args': {'inner': 'grid'},
      'completion': 'repaint',
    },
  }


def test_all_names_and_values_are_migrated():
  old = old_config()
  assert old_names.migrate(old) == {
    'data': {'num_ids': 3},
    'model': {'image': 'hidden', 'classifier': {'image': 'latent'}},
    'task': {'name': 'inpainting'},
    'sample': {
      'timestep_spacing': 'blocks',
      'timestep_spacing_args': {'end': 0.1},
      'sampler': "dpm_singlestep(inner='timesteps')",
      'sampler_args': {'inner': 'timesteps'},
      'inpainting': 'repaint',
    },
  }
  assert old == old_config()  # a copy
  assert not old_names.find(old_names.migrate(old))
  named = old_names.find(old)
  assert len(named) == len(old_names.KEYS) + 1  # inner is below an old key


@pytest.mark.parametrize('old, new', old_names.KEYS.items())
def test_an_old_key_is_told_the_new_one(old, new):
  message = rf'config\.{old} is now config\.{new}(: rename it\.|;)'
  section, _, key = old.rpartition('.')
  config = pix2seq_d_shapes.get_config()
  if section == 'model.classifier':
    config.model.unlock()
    config.model.classifier = {}
  node = config
  for name in section.split('.'):
    node = node[name].unlock()
  node[key] = 'x'
  with pytest.raises(ValueError, match=message):
    build.Experiment(config)
  assert 'is now config.' in schema.unknown_key(key)
  faults = validate.faults(config)
  assert len(faults) == 1 and old in faults[0]


def test_an_old_value_and_an_override_are_told_too():
  config = pix2seq_d_shapes.get_config()
  config.task.name = 'completion'
  with pytest.raises(ValueError, match="'completion' is now 'inpainting'"):
    build.Experiment(config)
  config = flags.load_config(
    'configs/pix2seq_d_shapes.py', {'sample.stepper': 'ddim'}
  )
  with pytest.raises(ValueError, match=r'now config\.sample\.sampler'):
    build.Experiment(config)
