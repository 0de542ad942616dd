"""The command line: flags, errors without a traceback, exit status."""

import json
import os
import pathlib
import subprocess
import sys

REPO = pathlib.Path(__file__).resolve().parents[1]
CONFIG = f'--config={REPO}/configs/pix2seq_d_shapes.py:smoke'

# Stands in for the commands, and prints what reaches them.
_STUB = """
import json, os, types
from pix2seqd_jax import run
from pix2seqd_jax.cli import predict
from pix2seqd_jax.experiment import runs

def record(name):
  def stub(*args, **kwargs):
    shown = [
      a.to_dict() if hasattr(a, 'to_dict') else a for a in args
    ]
    print(json.dumps([name, shown, kwargs]))
    if 'INTERRUPT' in os.environ:
      raise KeyboardInterrupt
    return types.SimpleNamespace(step=5)  # of 6, as after SIGTERM
  return stub

runs.train, runs.evaluate = record('train'), record('evaluate')
predict.predict = record('predict')
run.run()
"""


def python(*arguments, **variables):
  env = os.environ | {'XLA_FLAGS': '--xla_backend_optimization_level=0'}
  return subprocess.run(
    [sys.executable, *arguments],
    cwd=REPO,
    env=env | variables,
    capture_output=True,
    text=True,
  )


def call(*arguments):
  """Which command is called with what."""
  done = python('-c', _STUB, *arguments)
  assert done.returncode == 0, done.stderr
  return json.loads(done.stdout)


def test_train_takes_config_and_overrides():
  name, (config, workdir), _ = call(
    CONFIG, '--workdir=w', '--config.sample.steps=9', '--config.model.scale=.5'
  )
  assert (name, workdir) == ('train', 'w')
  assert (config['sample']['steps'], config['model']['scale']) == (9, 0.5)


def test_ctrl_c_ends_a_script_and_a_pre_empted_run_has_not_failed():
  """Else a script would evaluate what is half trained."""
  done = python('-c', _STUB, CONFIG, '--workdir=w', INTERRUPT='1')
  assert done.returncode == 130 and 'Traceback' not in done.stderr
  assert call(CONFIG, '--workdir=w')[0] == 'train'  # with status 0


def test_eval_takes_the_config_of_the_folder():
  found = call('--workdir=w', '--mode=eval', '--watch', '--step=best')
  assert found == ['evaluate', ['w', None], {'step': 'best', 'watch': True}]


def test_predict_takes_several_inputs():
  found = call('--workdir=w', '--mode=predict', '--inputs=a', '--inputs=b')
  kwargs = {'output': '', 'config': None, 'step': ''}
  usual = {'formats': ['panoptic', 'overlay'], 'tile': None}
  assert found == ['predict', ['w', ['a', 'b']], kwargs | usual]
  found = call(
    '--workdir=w', '--mode=predict', '--formats=rle,labels', '--tile=9'
  )
  assert found[2] == kwargs | {'formats': ['rle', 'labels'], 'tile': 9}


def failure(*arguments):
  """What is said of a command line that is wrong."""
  done = python('-m', 'pix2seqd_jax.run', *arguments)
  assert done.returncode != 0
  return done.stderr


def test_errors_come_without_a_traceback(tmp_path):
  for arguments, message in (
    (
      ('--mode=eval', f'--workdir={tmp_path}/nowhere'),
      'nowhere/config.json does not exist',
    ),
    (('--mode=eval',), 'workdir'),
    (('--workdir=w',), '--mode=train needs --config'),
    (('--workdir=w', '--mode=trian'), 'trian'),
    (('--workdir=w', '--mode=eval', 'image.png'), 'unexpected arguments'),
  ):
    said = failure(*arguments)
    assert message in said
    assert 'Traceback' not in said


def test_a_wrong_key_is_refused_with_a_suggestion():
  said = failure(CONFIG, '--workdir=w', '--config.optimizer.learning_rat=1')
  assert 'learning_rat' in said and "Did you mean 'learning_rate'" in said


def test_a_coordinator_that_is_not_there_is_named():
  """In our words: jax alone aborts with a stack of C++."""
  values = ('coordinator=127.0.0.1:1', 'num_processes=2', 'process_id=1')
  flags = [f'--config.distributed.{v}' for v in (*values, 'timeout_s=1')]
  said = failure(CONFIG, '--workdir=w', *flags)
  assert 'process 1 of 2 did not meet all others at 127.0.0.1:1' in said
  assert 'Traceback' not in said
