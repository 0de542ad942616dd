"""The same loop in one process, in two, and after a kill."""

import json
import pathlib
import signal
import socket
import subprocess
import sys
import time

import numpy as np

WORKER = pathlib.Path(__file__).parent / 'worker.py'


STEPS = 40


def start(workdir, count=1, pause=0.0):
  with socket.socket() as free:
    free.bind(('127.0.0.1', 0))
    port = free.getsockname()[1]
  return [
    subprocess.Popen(
      [
        sys.executable,
        str(WORKER),
        *map(str, (i, count, port, workdir, STEPS, pause)),
      ],
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
    )
    for i in range(count)
  ]


def answers(processes):
  outputs = [p.communicate(timeout=240) for p in processes]
  for process, (_, errors) in zip(processes, outputs):
    assert process.returncode == 0, errors[-3000:]
  return [json.loads(out.splitlines()[-1]) for out, _ in outputs]


def killed(workdir, after):
  """Starts a run and kills it `after` seconds after its first checkpoint."""
  [process] = start(workdir, pause=0.05)
  deadline = time.time() + 200
  while not (workdir / 'checkpoints' / '3').is_dir():
    assert process.poll() is None and time.time() < deadline
    time.sleep(0.002)
  time.sleep(after)
  process.send_signal(signal.SIGKILL)
  process.communicate()
  assert process.returncode == -signal.SIGKILL


def test_two_processes_and_a_kill(tmp_path):
  [whole] = answers(start(tmp_path / 'one'))

  both = answers(start(tmp_path / 'two', count=2))
  assert both[0]['losses'] == both[1]['losses']
  np.testing.assert_allclose(
    list(whole['losses'].values()), list(both[0]['losses'].values()), rtol=2e-6
  )
  for answer in both:
    assert answer['eval']['count'] == whole['eval']['count'] == 19
    np.testing.assert_allclose(
      answer['eval']['mean'], whole['eval']['mean'], rtol=1e-4
    )

  killed(tmp_path / 'killed', after=0.4)
  [resumed] = answers(start(tmp_path / 'killed'))
  assert len(resumed['losses']) < STEPS
  assert resumed['digest'] == whole['digest']
