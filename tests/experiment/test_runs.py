"""Train, evaluate and predict as a whole: on, on again, and after a kill."""

import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
import types

import jax
import numpy as np
import pytest
from smoke import smoke_config

from pix2seqd_jax.cli import predict
from pix2seqd_jax.experiment import build, runs, schema, workdir
from pix2seqd_jax.train import ledger, sharding
from pix2seqd_jax.train.checkpoints import archive, resume, weights

REPO = pathlib.Path(__file__).resolve().parents[2]


@pytest.fixture
def copy(smoke_run, tmp_path):
  """The finished run, to be changed."""
  return shutil.copytree(smoke_run.workdir, tmp_path / 'run')


def drop_step(folder, step):
  shutil.rmtree(pathlib.Path(folder) / 'checkpoints' / str(step))


def saved(folder, step):
  """Every array of a checkpoint, by name."""
  found = {}
  for item in ('params', 'ema', 'optimizer'):
    path = pathlib.Path(folder) / 'checkpoints' / str(step) / item
    leaves = sharding.flat_paths(weights._read(path))
    found |= {f'{item}/{name}': leaf for name, leaf in leaves.items()}
  return found


def assert_same_bytes(one, two):
  assert set(one) == set(two) and one
  for name in one:
    ours, theirs = np.asarray(one[name]), np.asarray(two[name])
    assert ours.dtype == theirs.dtype
    assert ours.tobytes() == theirs.tobytes(), name


def test_a_work_directory_holds_what_it_should(smoke_run):
  names = {p.name for p in smoke_run.workdir.iterdir()}
  expected = {
    'config.json',
    'categories.json',
    'manifest.json',
    'checkpoints',
    'metrics.jsonl',
    'parameters.txt',
  }
  assert expected <= names
  assert any(name.startswith('events.') for name in names)
  found = schema.from_plain(resume.load_config(smoke_run.workdir))
  assert schema.plain(found) == schema.plain(smoke_run.config)


def test_a_finished_run_trains_no_further(copy):
  before = saved(copy, 6)
  done = runs.train(smoke_config(), copy)
  assert int(done.step) == 6
  assert_same_bytes(saved(copy, 6), before)


def test_a_run_goes_on_from_its_last_checkpoint(copy, smoke_run):
  drop_step(copy, 6)
  config = smoke_config()
  config.train.ledger = True
  done = runs.train(config, copy)
  assert int(done.step) == 6
  assert_same_bytes(saved(copy, 6), saved(smoke_run.workdir, 6))
  assert list(ledger.read(copy)) == [4, 5, 6]  # none was kept before


def test_a_longer_run_goes_on(copy):
  """Lengths and intervals may change; the weights are those that were there."""
  config = smoke_config()
  config.train.update({'steps': 70, 'save_every': 7, 'log_every': 7})
  config.eval.num_examples = 3
  experiment = build.Experiment(config)
  workdir.save(experiment, copy)
  with workdir.checkpointer(experiment, copy) as checkpointer:
    found, report = workdir.start(experiment, checkpointer)
  assert int(found.step) == 6 and 'step 6' in report
  theirs = weights.load_params(copy, ema=False)['net']
  jax.tree.map(np.testing.assert_array_equal, found.params['net'], theirs)


@pytest.mark.parametrize(
  ('section', 'key', 'value'),
  [
    ('data', 'id_order', 'random'),
    ('data', 'batch_size', 16),
    ('model', 'scale', 3.0),
    ('optimizer', 'learning_rate', 0.5),
    (None, 'seed', 1),
  ],
)
def test_a_resumed_run_may_not_change_what_it_is(copy, section, key, value):
  config = smoke_config()
  name = key if section is None else f'{section}.{key}'
  (config if section is None else config[section])[key] = value
  before = (copy / 'config.json').read_text()
  with pytest.raises(ValueError, match=f'{name}: .* in config.json, .* now'):
    runs.train(config, copy)
  assert (copy / 'config.json').read_text() == before


def test_a_start_that_failed_can_be_mended(tmp_path):
  """Nothing is written by a config that is wrong."""
  config = smoke_config()
  config.data.mask_size = (33, 33)
  with pytest.raises(ValueError, match='mask_size'):
    runs.train(config, tmp_path / 'run')
  assert not (tmp_path / 'run').exists()


def test_a_checkpoint_of_another_model_is_refused(copy):
  config = smoke_config()
  config.model.encoder.dim = 64
  with pytest.raises(ValueError, match=r'model\.encoder\.dim: 32 .* 64 now'):
    runs.evaluate(copy, config)
  # Even where config.json itself was changed.
  resume.save_config(copy, schema.plain(config))
  with pytest.raises(ValueError, match=r'config\.json: .* remove .*manifest'):
    runs.evaluate(copy)
  (copy / 'manifest.json').unlink()
  with pytest.raises(ValueError, match=r'does not fit config\.model') as error:
    runs.evaluate(copy)
  wrong = 'self_attention/out/bias: (64,) by the config, (32,) in the checkp'
  assert wrong in str(error.value)


def test_a_damaged_newest_checkpoint_is_passed_over(copy):
  path = copy / 'checkpoints' / '6' / 'ema' / '_METADATA'
  path.write_bytes(path.read_bytes()[:-1])
  with pytest.warns(UserWarning, match=r'checkpoint 6 .*ema/_METADATA.*passed'):
    assert workdir.find_step(copy) == 3
  assert workdir.find_step(copy, wait=True) == 6  # verified when loaded
  with pytest.raises(ValueError, match=r'checkpoint 6 .* is damaged'):
    workdir.load_params(workdir.load(copy), copy, 6)


def test_a_work_directory_that_is_not_there(tmp_path):
  for call in (
    lambda: runs.evaluate(tmp_path / 'nowhere'),
    lambda: predict.predict(tmp_path / 'nowhere', [tmp_path]),
  ):
    with pytest.raises(ValueError, match=r'config\.json does not exist'):
      call()
  assert not (tmp_path / 'nowhere').exists()


def test_a_step_that_is_not_there(smoke_run):
  with pytest.raises(ValueError, match=r'its steps are \[3, 6\]'):
    runs.evaluate(smoke_run.workdir, step=4)
  assert workdir.find_step(smoke_run.workdir) == 6
  assert workdir.find_step(smoke_run.workdir, 3) == 3


def test_evaluation_is_the_same_each_time(smoke_run):
  again = runs.evaluate(smoke_run.workdir)
  for key, value in smoke_run.results.items():
    if key != 'images_per_second':
      np.testing.assert_equal(again[key], value)


def test_watch_evaluates_each_checkpoint_and_ends(copy, monkeypatch):
  monkeypatch.setattr(runs, '_POLL_SECONDS', 0.05)
  last = copy / 'checkpoints' / '6'
  aside = last.rename(copy / 'aside')
  seen, real = [], runs.evaluate_params

  def evaluate_params(*args, step, **kwargs):
    seen.append(step)
    if step == 3:  # the training goes on meanwhile
      threading.Timer(0.3, lambda: aside.rename(last)).start()
    return real(*args, step=step, **kwargs)

  monkeypatch.setattr(runs, 'evaluate_params', evaluate_params)
  results = runs.evaluate(copy, watch=True)
  assert seen == [3, 6]
  assert 0 <= results['pq'] <= 1


def damage(step_dir):
  path = max(
    (step_dir / 'ema').rglob('d/*'), key=lambda path: path.stat().st_size
  )
  path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.parametrize('spoil', [damage, shutil.rmtree])
def test_watch_passes_over_what_it_cannot_read(copy, monkeypatch, spoil):
  """A damaged step; one that the run removes once it has been found."""
  monkeypatch.setattr(runs, '_POLL_SECONDS', 0.01)
  last = copy / 'checkpoints' / '6'
  aside = last.rename(copy / 'aside')
  read = runs.workdirs.read_params

  def read_params(*args, **kwargs):
    if aside.exists():
      spoil(copy / 'checkpoints' / '3')
      aside.rename(last)  # the training goes on
    return read(*args, **kwargs)

  monkeypatch.setattr(runs.workdirs, 'read_params', read_params)
  with pytest.warns(UserWarning, match=r'step 3 cannot be read.*passed over'):
    results = runs.evaluate(copy, watch=True)
  assert 0 <= results['pq'] <= 1


def test_watch_ends_where_the_last_step_is_damaged(copy):
  damage(copy / 'checkpoints' / '6')
  with pytest.raises(ValueError, match=r'checkpoint 6 .* is damaged'):
    runs.evaluate(copy, watch=True)


def test_sigterm_ends_a_watch_of_several_processes(tmp_path, monkeypatch):
  """Theirs is caught by jax's service: who never asks goes on for ever."""
  monkeypatch.setattr(runs.processes, 'preempted', lambda: True)
  monkeypatch.setattr(runs, '_POLL_SECONDS', 0)
  experiment = types.SimpleNamespace(
    note_bad_examples=lambda folder: None, loop=types.SimpleNamespace(steps=6)
  )
  with pytest.raises(runs.processes.Preempted):
    runs._evaluate(experiment, tmp_path, '', watch=True)


class Run:
  """A process of its own, on one device; killed at the end of its block."""

  def __init__(self, folder):
    self.folder = folder

  def __enter__(self):
    env = os.environ | {'XLA_FLAGS': '--xla_backend_optimization_level=0'}
    command = (
      *(sys.executable, '-m', 'pix2seqd_jax.run', '--mode', 'train'),
      *('--config', 'configs/pix2seq_d_shapes.py:smoke'),
      *('--workdir', str(self.folder), '--config.train.steps=12'),
      *('--config.train.eval_every=0', '--config.train.save_every=2'),
      '--config.model.denoiser.multipliers=(1,)',  # less to compile
      '--config.model.denoiser.num_res_blocks=(1,)',
    )
    with open(f'{self.folder}.log', 'ab') as log:  # the child keeps it open
      self.process = subprocess.Popen(
        command, cwd=REPO, env=env, stdout=log, stderr=log
      )
    return self

  def __exit__(self, *_):
    self.process.send_signal(signal.SIGKILL)
    self.process.wait()

  def wait_for_a_checkpoint(self):
    while not archive.steps_in(self.folder):
      assert self.process.poll() is None, self.log
      time.sleep(0.02)

  @property
  def log(self):
    return pathlib.Path(f'{self.folder}.log').read_text()


def test_a_killed_run_ends_with_the_bytes_of_an_unbroken_one(tmp_path):
  """SIGKILL at a moment of chance after the first checkpoint."""
  assert smoke_config().model.encoder.dropout > 0
  whole, broken = tmp_path / 'whole', tmp_path / 'broken'
  with Run(whole) as run:
    assert run.process.wait() == 0, run.log
  with Run(broken) as run:
    run.wait_for_a_checkpoint()
    time.sleep(random.random() / 2)
  with Run(broken) as run:
    assert run.process.wait() == 0, run.log
  assert_same_bytes(saved(broken, 12), saved(whole, 12))


def test_weights_of_another_run_start_a_new_one(copy, tmp_path):
  """config.init_from: a part by its name; the rest is initialised."""
  config = smoke_config()
  config.seed = 7
  config.init_from = ((str(copy), 'encoder', 'encoder', 'exact'),)
  experiment = build.Experiment(config)
  with workdir.checkpointer(experiment, tmp_path) as checkpointer:
    new, report = workdir.start(experiment, checkpointer)
  assert int(new.step) == 0 and "'encoder' -> 'encoder' (exact)" in report
  theirs = weights.load_params(copy)
  for tree in (new.params, new.ema):
    for part in ('net', 'stats'):
      jax.tree.map(
        np.testing.assert_array_equal,
        tree[part]['encoder'],
        theirs[part]['encoder'],
      )
  ours = new.params['net']['denoiser']['conv_in']['kernel']
  assert (ours != theirs['net']['denoiser']['conv_in']['kernel']).any()
