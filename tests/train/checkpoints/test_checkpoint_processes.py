"""Two processes save, and agree on what to restore."""

import json
import pathlib
import socket
import subprocess
import sys

import numpy as np
import pytest

from pix2seqd_jax.train.checkpoints import weights

WORKER = pathlib.Path(__file__).parent / 'checkpoint_worker.py'


@pytest.mark.slow
def test_both_restore_the_step_that_one_found_good(tmp_path):
  with socket.socket() as free:
    free.bind(('127.0.0.1', 0))
    port = free.getsockname()[1]
  processes = [
    subprocess.Popen(
      [sys.executable, str(WORKER), str(i), str(port), str(tmp_path)],
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
    )
    for i in range(2)
  ]
  try:
    outputs = [p.communicate(timeout=240) for p in processes]
  finally:
    for process in processes:
      process.kill()
  for process, (_, errors) in zip(processes, outputs):
    assert process.returncode == 0, errors[-3000:]
  answers = [json.loads(out.splitlines()[-1]) for out, _ in outputs]
  lines = [answer.pop('lines') for answer in answers]
  assert answers[0] == answers[1]
  # One for what was cleared away, one for the step quarantined, by process 0.
  assert lines == [2, 0]
  found = answers[0]
  assert found['complete'] == [True, True] and found['steps'] == [2, 3]
  assert found['restored'] == 1 and found['known'] == [2]
  assert found['again'] == [2, 3] and found['names'] == ['2', '3']
  assert found['damage'] == []
  assert found['evaluated'] == [[False, 1], [True, 0]]
  # Without the processes, and without knowing the tree.
  kernel = weights.load_params(tmp_path, 2)['net']['one']['kernel']
  np.testing.assert_array_equal(kernel, np.float32(found['kernel']))
