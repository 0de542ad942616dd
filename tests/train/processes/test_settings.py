"""Who a process is: settings before variables before schedulers; its end."""

import io
import socket
import subprocess
import sys

import pytest

from pix2seqd_jax.experiment import schema
from pix2seqd_jax.train import processes

SLURM = {
  'SLURM_JOB_ID': '4097',
  'SLURM_STEP_ID': '2',
  'SLURM_STEP_NODELIST': 'node[007-010,12],other3',
  'SLURM_STEP_NUM_TASKS': '4',
  'SLURM_STEP_TASKS_PER_NODE': '1(x4)',
  'SLURM_PROCID': '3',
  'SLURM_LOCALID': '0',
}


def resolve(env=None, **settings):
  return processes.resolve(env=env or {}, **settings)


def test_alone_without_anything():
  assert resolve() is None
  assert resolve(mode='off', env=SLURM) is None
  assert resolve({'PIX2SEQD_NUM_PROCESSES': '1'}) is None
  assert resolve({**SLURM, 'SLURM_STEP_NUM_TASKS': '1'}) is None
  # In a batch script, outside of srun, one process must not wait for tasks.
  outside = {k: v for k, v in SLURM.items() if k != 'SLURM_STEP_NODELIST'}
  assert resolve(outside) is None


def test_settings_come_before_variables_key_by_key():
  env = {
    'PIX2SEQD_COORDINATOR': 'a:1',
    'JAX_COORDINATOR_ADDRESS': 'b:2',
    'JAX_NUM_PROCESSES': '4',
    'JAX_PROCESS_ID': '0',
  }
  assert resolve(env) == processes.Place('a:1', 4, 0)
  assert resolve(env, process_id=3) == processes.Place('a:1', 4, 3)
  assert resolve(
    env, mode='manual', coordinator='c:3', num_processes=2, process_id=1
  ) == processes.Place('c:3', 2, 1)
  # A scheduler's place gives way to what is said, and fills what is not.
  found = resolve({**SLURM, **env, 'JAX_PROCESS_ID': ''})
  assert found == processes.Place('a:1', 4, 3)


def test_a_slurm_step():
  found = resolve(SLURM)
  assert found == processes.Place(f'node007:{61440 + 3}', 4, 3)
  others = [resolve({**SLURM, 'SLURM_PROCID': str(i)}) for i in range(4)]
  assert [p.process_id for p in others] == [0, 1, 2, 3]
  assert len({p.coordinator for p in others}) == 1
  for nodes, first in (
    ('node001', 'node001'),
    ('node001,host2', 'node001'),
    ('node[001,007-015],host2', 'node001'),
    ('login,node[3-5]', 'login'),
  ):
    found = resolve({**SLURM, 'SLURM_STEP_NODELIST': nodes})
    assert found.coordinator.split(':')[0] == first


def test_tasks_that_share_a_machine_share_out_its_gpus():
  shared = {**SLURM, 'SLURM_STEP_TASKS_PER_NODE': '2(x2)', 'SLURM_LOCALID': '1'}
  both = {**shared, 'CUDA_VISIBLE_DEVICES': '0,1'}
  assert resolve(both).local_device_ids == (1,)
  # SLURM gave each its own already.
  own = {**shared, 'CUDA_VISIBLE_DEVICES': '1'}
  assert resolve(own).local_device_ids is None
  one_task = {**SLURM, 'CUDA_VISIBLE_DEVICES': '0,1'}
  assert resolve(one_task).local_device_ids is None


def test_on_a_tpu_jax_finds_the_place(monkeypatch):
  alone = processes.Place()
  assert resolve(mode='tpu') == alone
  assert resolve({'TPU_WORKER_HOSTNAMES': 'a,b'}) is None  # no chip here
  monkeypatch.setattr(processes, '_has_tpu', lambda env: True)
  assert resolve() == alone
  assert resolve(SLURM).num_processes == 4
  # What is said goes before what jax finds.
  assert resolve({'JAX_PROCESS_ID': '3'}, mode='tpu') == (None, None, 3, None)


def test_jax_is_asked_where_there_is_a_tpu_alone():
  # In a process of its own: jax joins others only before its first computation.
  code = 'from pix2seqd_jax.train import processes; processes.start(mode="tpu")'
  ended = subprocess.run(
    [sys.executable, '-c', code], capture_output=True, text=True
  )
  assert 'ValueError: distributed.mode=' in ended.stderr
  assert 'jax found no slice of TPUs' in ended.stderr


@pytest.mark.parametrize(
  'settings, env, message',
  [
    ({'mode': 'pod'}, {}, r"distributed\.mode='pod' is unknown"),
    ({'num_processes': 2}, {}, 'given but not coordinator and process_id'),
    (
      {'mode': 'manual'},
      {'PIX2SEQD_COORDINATOR': 'a:1', 'PIX2SEQD_PROCESS_ID': '0'},
      'set config.distributed.num_processes or PIX2SEQD_NUM_PROCESSES',
    ),
    ({'mode': 'manual'}, {}, 'nothing is given but not'),
    ({}, {'JAX_PROCESS_ID': 'two'}, "JAX_PROCESS_ID='two' must be a whole"),
    ({'mode': 'slurm'}, {}, 'start it by srun'),
    (
      {'coordinator': 'a:1', 'num_processes': 2, 'process_id': 2},
      {},
      r'process_id=2 must lie in 0\.\.1',
    ),
    (
      {'coordinator': 'a:1', 'num_processes': 2, 'process_id': -2},
      {},
      'process_id=-2 must be an integer of at least 0',
    ),
    (
      {'coordinator': 'a', 'num_processes': 2, 'process_id': 1},
      {},
      "coordinator='a' must read host:port",
    ),
  ],
)
def test_what_is_wrong_is_named(settings, env, message):
  with pytest.raises(ValueError, match=message):
    resolve(env, **settings)


def test_alone_a_session_is_nothing(monkeypatch, tmp_path):
  for names in processes.VARIABLES.values():
    for name in names:
      monkeypatch.delenv(name, raising=False)
  settings = schema.DEFAULTS['distributed']
  with (
    pytest.raises(KeyError, match='its own'),
    processes.session(tmp_path, **settings),
  ):
    raise KeyError('its own')
  assert not processes.start(mode='off')
  assert not processes.preempted()
  assert processes.all_true(True) and not processes.all_true(False)
  assert processes.of_first(7) == 7 and processes.of_first(None) is None


@pytest.mark.parametrize(
  'settings, message',
  [
    ({'timeout_s': 0}, r'distributed\.timeout_s=0 must be above 0'),
    ({'num_processes': 2}, 'is given but not coordinator and process_id'),
  ],
)
def test_wrong_settings_fail_before_anything_starts(settings, message):
  with pytest.raises(ValueError, match=message):
    processes.start(**settings)


def test_a_stream_says_whose_it_is():
  stream = io.StringIO()
  prefixed = processes._Prefixed(stream, '[process 3] ')
  for text in ('one', ' line\n', '\n', 'two\nthree'):
    assert prefixed.write(text) == len(text)
  assert stream.getvalue() == (
    '[process 3] one line\n[process 3] \n[process 3] two\n[process 3] three'
  )
  assert prefixed.isatty() is False


def test_preempted_ends_like_sigterm():
  assert processes.Preempted().code == 143


def test_how_to_go_on_names_the_newest_whole_checkpoint(smoke_run, tmp_path):
  said = processes._how_to_go_on(smoke_run.workdir)
  assert 'the checkpoint of step 6 ' in said
  assert 'no checkpoint was saved yet' in processes._how_to_go_on(tmp_path)


def test_a_taken_port_is_named_before_jax_starts():
  with socket.create_server(('127.0.0.1', 0)) as taken:
    where = f'127.0.0.1:{taken.getsockname()[1]}'
    with pytest.raises(ConnectionError, match=f'cannot listen at {where}'):
      processes.start(coordinator=where, num_processes=2, process_id=0)


def test_whose_error_it_is():
  own = ValueError('a.png is no image')
  lost = RuntimeError('UNKNOWN: Gloo AllGather failed: Connection reset')
  assert not processes._is_elsewhere(own)
  assert not processes._is_elsewhere(RuntimeError('RESOURCE_EXHAUSTED: Out'))
  assert processes._is_elsewhere(lost)
  own.__cause__ = lost
  assert processes._is_elsewhere(own)
