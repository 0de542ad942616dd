"""A killed run ends with the bytes of the unbroken one."""

import json

import numpy as np
import pytest

from benchmarks import kills, short_runs


@pytest.mark.slow
@pytest.mark.timeout(1800)  # processes of its own, each compiles
def test_a_kill_changes_nothing(tmp_path, monkeypatch):
  # One device is quicker than eight.
  monkeypatch.setenv('XLA_FLAGS', '--xla_backend_optimization_level=0')
  argv = ['--steps', '5', '--save_every', '2', '--kills', '1', '--seed', '3']
  argv += ['--num', '3']
  assert kills.main([*argv, '--out', str(tmp_path)]) == 0
  found = json.loads((tmp_path / 'results.json').read_text())
  assert found['equal'] and found['arrays'] > 100
  [(_, killed, reached, resumed, redone)] = found['kills']
  assert killed and 0 <= redone == reached - resumed == found['redone']
  assert ': equal.' in (tmp_path / 'results.md').read_text()
  short = found['short_runs']
  assert sum(short['kills'].values()) == 3 and not short['wrong']


def test_differences_are_found():
  base = {'a': np.float32([0.0, 1.0]), 'b': np.int32(3)}
  assert kills.different(base, dict(base)) == []
  assert kills.different(base, {'a': base['a']}) == ['b']
  assert kills.different(base, {**base, 'b': np.int64(3)}) == ['b']
  # Equal as numbers, not as bytes.
  assert kills.different(base, {**base, 'a': np.float32([-0.0, 1.0])}) == ['a']
  assert (
    kills.different({'n': np.float32(np.nan)}, {'n': np.float32('nan')}) == []
  )


def test_the_last_step(tmp_path):
  assert kills.last_step(tmp_path) == -1
  (tmp_path / 'config.json').write_text('{}')
  assert kills.last_step(tmp_path) == 0
  (tmp_path / 'metrics.jsonl').write_text(
    '{"step": 7, "loss": 1.0}\n{"step": 7, "eval/pq": 1.0}\n'
  )
  assert kills.last_step(tmp_path) == 7


class Started:
  """What a start of a short run told."""

  def __init__(self, **events):
    self.events = {'start': [], 'step': [], 'end': [], **events}

  def told(self, kind):
    return self.events[kind]


def test_what_a_start_must_not_do():
  truth = {0: 'a', 2: 'b', 3: 'c'}

  def wrong(complete=2, **events):
    return short_runs.check_start(Started(**events), truth, complete)

  names = ['checkpoints', 'checkpoints/2', 'frozen', 'frozen/d']
  good = {'start': [(2, 'b', names)], 'step': [(3, 'c')], 'end': [(3, 'c')]}
  assert wrong(**good) == [] == wrong()
  assert wrong(3, **good) == ['went on from 2, not 3']
  assert 'restored at step 2' in wrong(start=[(2, 'x', names)])[0]
  assert wrong(step=[(3, 'x')]) == ['other bytes after step 3']
  assert wrong(end=[(3, 'x')]) == ['other bytes after step 3']
  for name in (
    'checkpoints/4.orbax-checkpoint-tmp',
    'frozen.orbax-checkpoint-tmp-3',
    'manifest.json.part',
    'checkpoints/unreadable-2',
    'checkpoints/1.deleting',
  ):
    assert 'left over' in wrong(start=[(2, 'b', [*names, name])])[0]
