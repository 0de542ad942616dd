"""A killed run ends with the bytes of the unbroken one."""

import json

import numpy as np
import pytest

from benchmarks import kills


@pytest.mark.timeout(1800)  # processes of its own, each compiles
def test_a_kill_changes_nothing(tmp_path, monkeypatch):
  monkeypatch.setenv('XLA_FLAGS', '')  # one device is quicker than eight
  argv = ['--steps', '5', '--save_every', '2', '--kills', '1', '--seed', '3']
  assert kills.main([*argv, '--out', str(tmp_path)]) == 0
  found = json.loads((tmp_path / 'results.json').read_text())
  assert found['equal'] and found['arrays'] > 100
  [(_, killed, reached, resumed, redone)] = found['kills']
  assert killed and 0 <= redone == reached - resumed == found['redone']
  assert ': equal.' in (tmp_path / 'results.md').read_text()


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
