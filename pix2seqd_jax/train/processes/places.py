"""Which process this is of how many, by config, environment or scheduler.

Pure functions of the settings and the environment; nothing here asks jax, so
that no backend starts before the processes have met. Of several sources the
first that says something counts, key by key: the config, PIX2SEQD_*, jax's own
JAX_* names, then SLURM's step or the TPU's slice.
"""

import glob
import importlib.util
import os
import urllib.request
from collections.abc import Mapping
from typing import Any, NamedTuple

MODES = ('auto', 'off', 'manual', 'slurm', 'tpu')
# Key of config.distributed -> the variables that may give it, first wins.
VARIABLES = {
  'coordinator': ('PIX2SEQD_COORDINATOR', 'JAX_COORDINATOR_ADDRESS'),
  'num_processes': ('PIX2SEQD_NUM_PROCESSES', 'JAX_NUM_PROCESSES'),
  'process_id': ('PIX2SEQD_PROCESS_ID', 'JAX_PROCESS_ID'),
}
_TPU_PORT = 8482  # jax's own choice on pods


class Place(NamedTuple):
  """One process among several.

  Attributes:
    coordinator: host:port where process 0 listens.
    num_processes: of the run.
    process_id: 0 .. num_processes - 1.
    local_device_ids: the GPUs of this process; None for all of the machine.
  """

  coordinator: str
  num_processes: int
  process_id: int
  local_device_ids: tuple[int, ...] | None = None


def _number(env: Mapping[str, str], name: str) -> int:
  try:
    return int(env[name])
  except ValueError:
    raise ValueError(
      f'{name}={env[name]!r} must be a whole number; unset or mend it.'
    ) from None


def _given(settings: Mapping[str, Any], env: Mapping[str, str]):
  """What config.distributed and the variables say, without what is unset."""
  unset = {'coordinator': '', 'num_processes': 0, 'process_id': -1}
  found = {k: v for k, v in settings.items() if v != unset[k]}
  for key, names in VARIABLES.items():
    name = next((n for n in names if env.get(n)), None)
    if key not in found and name is not None:
      found[key] = env[name] if key == 'coordinator' else _number(env, name)
  return found


def _first_host(nodes: str) -> str:
  """'node[007-010,12],other' -> 'node007', as SLURM writes lists of hosts."""
  head, bracket, rest = nodes.partition('[')
  if not bracket or ',' in head:
    return head.split(',')[0]
  return head + rest.replace(']', ',').replace('-', ',').split(',')[0]


def slurm(env: Mapping[str, str]) -> dict[str, Any]:
  """What srun tells its tasks; {} outside of a step.

  The port is a function of job and step, from 61440 on, where no system takes
  ports for outgoing connections.
  """
  if not all(
    env.get(k) for k in ('SLURM_JOB_ID', 'SLURM_STEP_NODELIST', 'SLURM_PROCID')
  ):
    return {}
  counts = [k for k in ('SLURM_STEP_NUM_TASKS', 'SLURM_NTASKS') if env.get(k)]
  step = env.get('SLURM_STEP_ID', '0')
  salt = _number(env, 'SLURM_JOB_ID') + (int(step) if step.isdigit() else 0)
  found = {
    'coordinator': f'{_first_host(env["SLURM_STEP_NODELIST"])}:'
    f'{61440 + salt % 4096}',
    'num_processes': _number(env, counts[0]) if counts else 1,
    'process_id': _number(env, 'SLURM_PROCID'),
  }
  # Tasks that share a machine share out its GPUs, unless SLURM did.
  tasks = env.get('SLURM_STEP_TASKS_PER_NODE', '1')
  shared = tasks.replace('(', ',').split(',')[0] != '1'
  visible = env.get('CUDA_VISIBLE_DEVICES', '')
  if shared and env.get('SLURM_LOCALID') and ',' in visible:
    found['local_device_ids'] = (_number(env, 'SLURM_LOCALID'),)
  return found


def _metadata(env: Mapping[str, str], key: str) -> str:
  """An attribute of a Google Cloud machine; '' where there is no answer."""
  host = env.get('GCE_METADATA_IP', 'metadata.google.internal')
  request = urllib.request.Request(
    f'http://{host}/computeMetadata/v1/instance/attributes/{key}',
    headers={'Metadata-Flavor': 'Google'},
  )
  try:
    with urllib.request.urlopen(request, timeout=2) as answer:
      return answer.read().decode().strip()
  except OSError:
    return ''


def _has_tpu(env: Mapping[str, str]) -> bool:
  platforms = env.get('JAX_PLATFORMS', '')
  return (
    (not platforms or 'tpu' in platforms)
    and not env.get('TPU_SKIP_MDS_QUERY')
    and bool(glob.glob('/dev/accel[0-9]*') or glob.glob('/dev/vfio/[0-9]*'))
    and importlib.util.find_spec('libtpu') is not None
  )


def tpu(env: Mapping[str, str], ask: bool) -> dict[str, Any]:
  """The slice or slices of TPU machines that this one is part of; {} if none.

  GKE names the hosts by TPU_WORKER_HOSTNAMES and TPU_WORKER_ID; a machine of a
  Cloud TPU asks its metadata server.

  Args:
    env: the environment.
    ask: whether the metadata server is asked (seconds, where there is none).
  """
  hosts = [h for h in env.get('TPU_WORKER_HOSTNAMES', '').split(',') if h]
  if hosts and env.get('TPU_WORKER_ID'):
    worker = _number(env, 'TPU_WORKER_ID')
  elif ask:
    ends = _metadata(env, 'worker-network-endpoints')
    hosts = [e.split(':')[2] for e in ends.split(',') if e.count(':') >= 2]
    number = _metadata(env, 'agent-worker-number')
    if not hosts or not number.isdigit():
      return {}
    worker = int(number)
  else:
    return {}
  slices = int(env.get('MEGASCALE_NUM_SLICES') or 1)
  first = env.get('MEGASCALE_COORDINATOR_ADDRESS') or hosts[0]
  return {
    'coordinator': f'{first.split(":")[0]}:{_TPU_PORT}',
    'num_processes': len(hosts) * slices,
    'process_id': worker + len(hosts) * int(env.get('MEGASCALE_SLICE_ID') or 0),
  }


def _found(mode: str, env: Mapping[str, str]) -> dict[str, Any]:
  """What the scheduler says of this process, if it speaks of several."""
  found: dict[str, Any] = {}
  if mode in ('auto', 'slurm'):
    found = slurm(env)
  if mode == 'slurm' and not found:
    raise ValueError(
      "distributed.mode='slurm' but this is no task of a SLURM step "
      '(SLURM_JOB_ID, SLURM_STEP_NODELIST, SLURM_PROCID); start it by srun, or '
      "set distributed.mode='auto'."
    )
  if mode == 'tpu' or (mode == 'auto' and found.get('num_processes', 1) < 2):
    found = tpu(env, ask=mode == 'tpu' or _has_tpu(env)) or found
  if mode == 'tpu' and not found:
    raise ValueError(
      "distributed.mode='tpu' but neither TPU_WORKER_HOSTNAMES and "
      'TPU_WORKER_ID nor the metadata server name the hosts of a TPU; set '
      "distributed.mode='auto', or 'manual' with the three other keys."
    )
  return found


def _check(found: Mapping[str, Any]) -> None:
  """Raises ValueError unless the three values make sense."""
  missing = [key for key in VARIABLES if key not in found]
  if missing:
    given = ', '.join(f'{k}={found[k]!r}' for k in VARIABLES if k in found)
    ways = '; '.join(
      f'set config.distributed.{key} or {VARIABLES[key][0]}' for key in missing
    )
    raise ValueError(
      f'distributed: {given or "nothing"} is given but not '
      f'{" and ".join(missing)}: several processes need all three; {ways}.'
    )
  count, index = found['num_processes'], found['process_id']
  for key, least in (('num_processes', 1), ('process_id', 0)):
    value = found[key]
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
      raise ValueError(
        f'distributed.{key}={value!r} must be an integer of at least {least}.'
      )
  if index >= count:
    raise ValueError(
      f'distributed.process_id={index} must lie in 0..{count - 1}, as there '
      f'are num_processes={count}; number the processes from 0.'
    )
  host, colon, port = str(found['coordinator']).rpartition(':')
  if not (host and colon and port.isdigit() and 0 < int(port) < 65536):
    raise ValueError(
      f'distributed.coordinator={found["coordinator"]!r} must read host:port, '
      "such as '10.0.0.1:8476': where process 0 can be reached by all."
    )


def resolve(
  *,
  mode: str = 'auto',
  coordinator: str = '',
  num_processes: int = 0,
  process_id: int = -1,
  env: Mapping[str, str] | None = None,
) -> Place | None:
  """The place of this process, or None where it is alone.

  Args:
    mode: 'auto' takes what it finds; 'off' is always alone; 'manual', 'slurm'
      and 'tpu' fail where that source does not say who this process is, in
      place of many runs that overwrite each other.
    coordinator: host:port of process 0; empty leaves it to the environment.
    num_processes: of the run; 0 leaves it to the environment.
    process_id: of this process; -1 leaves it to the environment.
    env: the environment; None is os.environ.

  Raises:
    ValueError: values that are half given or out of range, or a bad mode.
  """
  env = os.environ if env is None else env
  if mode not in MODES:
    raise ValueError(
      f'distributed.mode={mode!r} is unknown; use one of {", ".join(MODES)}.'
    )
  if mode == 'off':
    return None
  given = _given(
    {
      'coordinator': coordinator,
      'num_processes': num_processes,
      'process_id': process_id,
    },
    env,
  )
  if mode == 'auto' and given.get('num_processes') == 1:
    return None
  # Three given values need no scheduler, and no question to the network.
  known = mode == 'manual' or (mode == 'auto' and len(given) == 3)
  found = {**({} if known else _found(mode, env)), **given}
  if mode == 'auto' and not given and found.get('num_processes', 1) < 2:
    return None
  _check(found)
  return Place(**found) if found['num_processes'] > 1 else None
