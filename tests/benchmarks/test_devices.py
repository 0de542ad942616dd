"""One device and eight agree within the bars."""

import json

import numpy as np
import pytest

from benchmarks import devices


@pytest.mark.timeout(1800)  # processes of its own, each compiles
def test_one_and_eight(tmp_path):
  assert devices.main(['--steps', '3', '--out', str(tmp_path)]) == 0
  found = json.loads((tmp_path / 'results.json').read_text())
  assert found['passed']
  # Kernels are split over fsdp, and heads over tensor.
  assert 0.1 < found['share_per_device'] < 0.9
  assert [row[-1] for row in found['rows']] == [True, True, True, None, None]


def folder_of(path, loss=2.0, x_0=0.5, pq=0.25):
  """What a worker of one device and one of eight leave."""
  for n, values in ((1, (2.0, 0.5, 0.25)), (8, (loss, x_0, pq))):
    (path / str(n)).mkdir()
    row = {'step': 1, 'loss': values[0]}
    (path / str(n) / 'metrics.jsonl').write_text(json.dumps(row) + '\n')
    for name in ('same', 'own'):
      np.save(path / f'{n}-{name}.npy', np.full((2, 3), values[1]))
    both = {k: {'pq': values[2], 'share': 0.5} for k in ('same', 'own')}
    (path / f'{n}.json').write_text(json.dumps(both))
  return path


def test_each_bar_can_fail(tmp_path):
  cases = {
    'fine': ({}, [True, True, True]),
    'loss': ({'loss': 2.00001}, [False, True, True]),
    'sample': ({'x_0': 0.501}, [True, False, True]),
    'pq': ({'pq': 0.252}, [True, True, False]),
  }
  for name, (values, passed) in cases.items():
    (tmp_path / name).mkdir()
    folder = folder_of(tmp_path / name, **values)
    rows, fraction = devices.compare(folder, devices.Bars())
    assert [row[-1] for row in rows] == [*passed, None, None]
    assert fraction == 0.5
