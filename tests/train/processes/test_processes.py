"""The same loop in one process and in two; and when one of two is gone."""

import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

from pix2seqd_jax.train import ledger
from pix2seqd_jax.train.checkpoints import archive

WORKER = pathlib.Path(__file__).parent / 'worker.py'
STEPS = 40


def start(workdir, count=1, pause=0.0):
  with socket.create_server(('127.0.0.1', 0)) as free:
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
  try:
    outputs = [p.communicate(timeout=240) for p in processes]
  finally:
    for process in processes:
      process.kill()
  for process, (_, errors) in zip(processes, outputs):
    assert process.returncode == 0, errors[-3000:]
  return [json.loads(out.splitlines()[-1]) for out, _ in outputs]


def newest(workdir):
  """The newest step that is complete, or 0."""
  return max([0, *archive.steps_in(workdir / 'checkpoints')])


def broken(workdir, number, pause, victim=1):
  """Starts two, and signals one once they have saved a step or two."""
  step = newest(workdir) + 6
  processes = start(workdir, count=2, pause=pause)
  deadline = time.time() + 200
  try:
    while newest(workdir) < step:
      for process in processes:
        assert process.poll() is None, process.communicate()[1][-3000:]
      assert time.time() < deadline
      time.sleep(0.002)
    processes[victim].send_signal(number)
  except BaseException:
    for process in processes:
      process.kill()
    raise
  return processes


def close(ours, theirs):
  assert ours
  theirs = [theirs[step] for step in ours]
  np.testing.assert_allclose(list(ours.values()), theirs, rtol=2e-6)


@pytest.mark.slow
def test_one_process_two_and_two_that_break(tmp_path):
  [whole] = answers(start(tmp_path / 'one'))

  both = answers(start(tmp_path / 'two', count=2))
  assert both[0]['losses'] == both[1]['losses']
  close(both[0]['losses'], whole['losses'])
  assert sorted(both[0]['seen'] + both[1]['seen']) == sorted(whole['seen'])
  assert len(whole['seen']) == len({*whole['seen']}) == 19
  for answer in both:
    assert answer['eval']['count'] == whole['eval']['count'] == 19
    np.testing.assert_allclose(
      answer['eval']['mean'], whole['eval']['mean'], rtol=1e-4
    )
    synthesis = answer['synthesis']
    assert synthesis.keys() == whole['synthesis'].keys()
    for name in synthesis.keys() - {'images_per_second'}:
      np.testing.assert_allclose(
        synthesis[name], whole['synthesis'][name], rtol=1e-4, err_msg=name
      )
  assert whole['synthesis']['fid'] > 0 < whole['synthesis']['lpips_diversity']

  # One is killed, then the coordinator: the other ends soon, and says why.
  folder = tmp_path / 'broken'
  for victim, named in (
    (1, r'unhealthy \(stopped sending heartbeats\):\n1\n|Task 1 heartbeat'),
    (0, 'the leader task was preempted/died'),
  ):
    processes = broken(folder, signal.SIGKILL, 0.05, victim)
    killed_at = time.monotonic()
    errors = processes[1 - victim].communicate(timeout=120)[1]
    print(f'{victim}: {time.monotonic() - killed_at:.1f} s')
    assert processes[1 - victim].returncode not in (0, None)
    assert processes[victim].wait() == -signal.SIGKILL
    assert re.search(named, errors), errors[-3000:]
    # Where it was not the coordinator, jax leaves time to say how to go on.
    if victim:
      assert '[process 0] Another process is gone' in errors
      assert 'goes on from the checkpoint of step ' in errors

  # One is told to stop: both save the same step, off the interval or on it.
  # Steps slow enough for the second that jax takes to see the signal.
  stopped = answers(broken(folder, signal.SIGTERM, 0.2))
  assert stopped[0]['step'] == stopped[1]['step'] < STEPS
  assert stopped[0]['digest'] == stopped[1]['digest']

  # One process goes on, with what two would have been fed.
  [last] = answers(start(folder))
  assert min(map(int, last['losses'])) == stopped[0]['step'] + 1
  close(last['losses'], whole['losses'])
  fed = ledger.read(tmp_path / 'one')
  assert len(fed) == STEPS
  for name in ('two', 'broken'):
    assert not ledger.differences(ledger.read(tmp_path / name), fed)


_JOIN = """
import sys
from pix2seqd_jax.train import processes
where, count, index = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
with processes.session(
  coordinator=where, num_processes=count, process_id=index, timeout_s=15
):
  raise OSError('a.png is cut off')
"""


def join(where, count, index):
  return subprocess.Popen(
    [sys.executable, '-c', _JOIN, where, str(count), str(index)],
    env={**os.environ, 'JAX_PLATFORMS': 'cpu'},
    stderr=subprocess.PIPE,
    text=True,
  )


@pytest.mark.slow
def test_processes_that_do_not_meet_say_so():
  with socket.create_server(('127.0.0.1', 0)) as free:
    where = f'127.0.0.1:{free.getsockname()[1]}'
  lonely = join(where, 4, 1)
  errors = lonely.communicate(timeout=100)[1]
  assert lonely.returncode == 1
  assert f'process 1 of 4 did not meet all others at {where} within 15 s' in (
    errors
  )
  # Told other numbers, process 1 is accepted by jax all the same.
  pair = [join(where, count, i) for i, count in enumerate((2, 3))]
  errors = [p.communicate(timeout=200)[1] for p in pair]
  assert (
    'num_processes=3 in this process, but process 0 was started as'
    in (errors[1])
  )


@pytest.mark.slow
def test_an_own_error_ends_a_process_at_once():
  with socket.create_server(('127.0.0.1', 0)) as free:
    where = f'127.0.0.1:{free.getsockname()[1]}'
  pair = [join(where, 2, i) for i in range(2)]
  errors = [p.communicate(timeout=100)[1] for p in pair]
  for i, process in enumerate(pair):
    assert process.returncode in (1, -signal.SIGABRT), errors[i]
  assert '[process 0] OSError: a.png is cut off' in errors[0]
