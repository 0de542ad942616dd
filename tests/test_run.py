"""The command line: flags, errors without a traceback, exit status."""

import os
import pathlib
import subprocess
import sys

import pytest
from absl import flags

from pix2seqd_jax import commands, run

REPO = pathlib.Path(__file__).resolve().parents[1]


@pytest.fixture
def call(monkeypatch):
  """Calls main with flags; returns what reached the commands."""

  def fake(name):
    def record(*args, **kwargs):
      return seen.append((name, args, kwargs))

    return record

  seen = []
  for name in ('train', 'evaluate', 'predict'):
    monkeypatch.setattr(commands, name, fake(name))

  def invoke(*arguments):
    seen.clear()
    rest = flags.FLAGS(['run.py', *arguments])
    try:
      run.main(rest)
    finally:
      flags.FLAGS.unparse_flags()
      for name in ('config', 'workdir', 'mode', 'watch', 'step', 'output'):
        flags.FLAGS[name].unparse()
      flags.FLAGS['inputs'].unparse()
    return seen[0]

  return invoke


CONFIG = f'--config={REPO}/configs/pix2seq_d_shapes.py:smoke'


def test_train_takes_config_and_overrides(call):
  name, (config, workdir), _ = call(
    CONFIG, '--workdir=w', '--config.sample.steps=9', '--config.model.scale=.5'
  )
  assert (name, workdir) == ('train', 'w')
  assert (config.sample.steps, config.model.scale) == (9, 0.5)


def test_eval_and_predict_take_the_config_of_the_folder(call):
  assert call('--workdir=w', '--mode=eval', '--watch', '--step=best') == (
    'evaluate',
    ('w', None),
    {'step': 'best', 'watch': True},
  )
  found = call('--workdir=w', '--mode=predict', '--inputs=a', '--inputs=b')
  assert found == (
    'predict',
    ('w', ['a', 'b']),
    {'output': '', 'config': None, 'step': ''},
  )


def test_train_needs_a_config(call):
  with pytest.raises(SystemExit, match='--mode=train needs --config'):
    call('--workdir=w')


def test_a_wrong_key_is_refused(call):
  with pytest.raises((AttributeError, KeyError), match='learning_rat'):
    call(CONFIG, '--workdir=w', '--config.optimizer.learning_rat=1')


def python(*arguments):
  return subprocess.run(
    [sys.executable, '-m', *arguments],
    cwd=REPO,
    env={k: v for k, v in os.environ.items() if k != 'XLA_FLAGS'},
    capture_output=True,
    text=True,
  )


def test_errors_come_without_a_traceback(tmp_path):
  done = python(
    'pix2seqd_jax.run', '--mode=eval', f'--workdir={tmp_path}/nowhere'
  )
  assert done.returncode == 1
  assert 'nowhere/config.json does not exist' in done.stderr
  assert 'Traceback' not in done.stderr


def test_the_work_directory_is_required():
  done = python('pix2seqd_jax.run', '--mode=eval')
  assert done.returncode != 0 and 'workdir' in done.stderr
  assert 'Traceback' not in done.stderr
