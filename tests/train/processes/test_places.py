"""Who a process is: settings before variables before schedulers."""

import http.server
import threading

import pytest

from pix2seqd_jax.train.processes import places

SLURM = {
  'SLURM_JOB_ID': '4097',
  'SLURM_STEP_ID': '2',
  'SLURM_STEP_NODELIST': 'node[007-010,12],other3',
  'SLURM_STEP_NUM_TASKS': '4',
  'SLURM_STEP_TASKS_PER_NODE': '1(x4)',
  'SLURM_PROCID': '3',
  'SLURM_LOCALID': '0',
}
POD = {
  'TPU_WORKER_HOSTNAMES': 'a,b',
  'TPU_WORKER_ID': '1',
  'TPU_SKIP_MDS_QUERY': '1',
}


def resolve(env=None, **settings):
  return places.resolve(env=env or {}, **settings)


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
  assert resolve(env) == places.Place('a:1', 4, 0)
  assert resolve(env, process_id=3) == places.Place('a:1', 4, 3)
  assert resolve(
    env, mode='manual', coordinator='c:3', num_processes=2, process_id=1
  ) == places.Place('c:3', 2, 1)
  # A scheduler's place gives way to what is said, and fills what is not.
  found = resolve({**SLURM, **env, 'JAX_PROCESS_ID': ''})
  assert found == places.Place('a:1', 4, 3)


def test_a_slurm_step():
  found = resolve(SLURM)
  assert found == places.Place(f'node007:{61440 + 3}', 4, 3)
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


def test_tpu_hosts_by_name():
  assert resolve(POD) == places.Place('a:8482', 2, 1)
  slices = {
    'MEGASCALE_NUM_SLICES': '3',
    'MEGASCALE_SLICE_ID': '2',
    'MEGASCALE_COORDINATOR_ADDRESS': 'first:99',
  }
  assert resolve({**POD, **slices}) == places.Place('first:8482', 6, 5)
  alone = {**POD, 'TPU_WORKER_HOSTNAMES': 'localhost', 'TPU_WORKER_ID': '0'}
  assert resolve(alone) is None


def test_tpu_hosts_by_the_metadata_server():
  answers = {
    'worker-network-endpoints': 'x:y:10.0.0.5,x:y:10.0.0.6',
    'agent-worker-number': '1',
  }

  class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
      assert self.headers['Metadata-Flavor'] == 'Google'
      self.send_response(200)
      self.end_headers()
      self.wfile.write(answers[self.path.rsplit('/', 1)[-1]].encode())

    def log_message(self, *_):
      pass

  with http.server.HTTPServer(('127.0.0.1', 0), Handler) as server:
    threading.Thread(target=server.serve_forever, daemon=True).start()
    host = f'127.0.0.1:{server.server_port}'
    found = resolve({'GCE_METADATA_IP': host}, mode='tpu')
    server.shutdown()
  assert found == places.Place('10.0.0.5:8482', 2, 1)


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
    ({'mode': 'tpu'}, {'GCE_METADATA_IP': '127.0.0.1:1'}, 'TPU_WORKER_ID'),
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
