"""Several processes as one run: start, stop, failure.

  with processes.session(workdir, **config['distributed']):
    ...

Alone, nothing happens and jax is not asked. Among several, jax.distributed
brings them together and watches them: where one is gone, its coordination
service ends the others within two minutes and names it by number ("unhealthy
tasks", or for process 0 "the leader task"). SIGTERM to any of them stops all
after the same step.

Which process this is of how many is said by the config, by PIX2SEQD_*, by
jax's own JAX_* names, by SLURM's step or by the TPU's slice: of several
sources the first that says something counts, key by key.
"""

import contextlib
import glob
import importlib.util
import itertools
import os
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, TextIO

import jax
import numpy as np

from pix2seqd_jax.train.checkpoints import archive

MODES = ('auto', 'off', 'manual', 'slurm', 'tpu')
# Key of config.distributed -> the variables that may give it, first wins.
VARIABLES = {
  'coordinator': ('PIX2SEQD_COORDINATOR', 'JAX_COORDINATOR_ADDRESS'),
  'num_processes': ('PIX2SEQD_NUM_PROCESSES', 'JAX_NUM_PROCESSES'),
  'process_id': ('PIX2SEQD_PROCESS_ID', 'JAX_PROCESS_ID'),
}
# Seconds of silence after which jax takes a process for dead. One that fails
# a collective waits for that first, so that the dead one is named.
_HEARTBEAT = 60
_WAIT = _HEARTBEAT + 30
# What a collective says, by the codes of absl::Status, where another process
# is gone.
_ELSEWHERE = tuple(
  f'{code}: '
  for code in (
    *('UNKNOWN', 'UNAVAILABLE', 'INTERNAL', 'ABORTED', 'CANCELLED'),
    *('DEADLINE_EXCEEDED', 'FAILED_PRECONDITION'),
  )
)
# Errors that say what is wrong and how to mend it: no traceback.
_EXPECTED = (ValueError, OSError, ArithmeticError)

_started = False
_ticks = itertools.count(1)


class Preempted(SystemExit):
  """All processes were told to stop at this point; 143, as SIGTERM gives."""

  def __init__(self):
    super().__init__(128 + signal.SIGTERM)


class Place(NamedTuple):
  """One process among several; without values, as jax finds on a TPU.

  Attributes:
    coordinator: host:port where process 0 listens.
    num_processes: of the run.
    process_id: 0 .. num_processes - 1.
    local_device_ids: the GPUs of this process; None for all of the machine.
  """

  coordinator: str | None = None
  num_processes: int | None = None
  process_id: int | None = None
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


def _slurm(env: Mapping[str, str]) -> dict[str, Any]:
  """What srun tells its tasks; {} outside of a step.

  Not by jax: it gives each task one GPU, by its number on the machine, be the
  task alone there or one to which SLURM showed its own GPU only. The port is a
  function of job and step, from 61440 on, where no system takes ports for
  outgoing connections.
  """
  names = ('SLURM_JOB_ID', 'SLURM_STEP_NODELIST', 'SLURM_PROCID')
  if not all(env.get(k) for k in names):
    return {}
  counts = [k for k in ('SLURM_STEP_NUM_TASKS', 'SLURM_NTASKS') if env.get(k)]
  step = env.get('SLURM_STEP_ID', '0')
  salt = _number(env, 'SLURM_JOB_ID') + (int(step) if step.isdigit() else 0)
  # 'node[007-010,12],other' -> 'node007', as SLURM writes lists of hosts.
  host, bracket, rest = env['SLURM_STEP_NODELIST'].partition('[')
  if not bracket or ',' in host:
    host, rest = host.split(',')[0], ''
  host += rest.replace(']', ',').replace('-', ',').split(',')[0]
  found = {
    'coordinator': f'{host}:{61440 + salt % 4096}',
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


def _has_tpu(env: Mapping[str, str]) -> bool:
  """Whether jax may be asked which machine of a slice this is.

  It asks the metadata server, for minutes where there is none.
  """
  platforms = env.get('JAX_PLATFORMS', '')
  return (
    (not platforms or 'tpu' in platforms)
    and not env.get('TPU_SKIP_MDS_QUERY')
    and bool(glob.glob('/dev/accel[0-9]*') or glob.glob('/dev/vfio/[0-9]*'))
    and importlib.util.find_spec('libtpu') is not None
  )


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
  """The place of this process, or None where it is alone; asks no device.

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
  found = _slurm(env) if mode in ('auto', 'slurm') and not known else {}
  if mode == 'slurm' and not found:
    raise ValueError(
      "distributed.mode='slurm' but this is no task of a SLURM step "
      '(SLURM_JOB_ID, SLURM_STEP_NODELIST, SLURM_PROCID); start it by srun, or '
      "set distributed.mode='auto'."
    )
  if mode == 'auto' and not given and found.get('num_processes', 1) < 2:
    return Place() if _has_tpu(env) else None
  if mode == 'tpu':
    return Place(**given)
  found |= given
  _check(found)
  return Place(**found) if found['num_processes'] > 1 else None


class _Prefixed:
  """A stream that begins each line with the process."""

  def __init__(self, stream: TextIO, prefix: str):
    self._stream, self._prefix = stream, prefix
    self._fresh = True

  def write(self, text: str) -> int:
    lines = text.splitlines(keepends=True)
    for line in lines:
      self._stream.write(f'{self._prefix * self._fresh}{line}')
      self._fresh = line.endswith('\n')
    return len(text)

  def __getattr__(self, name):
    return getattr(self._stream, name)


def _speak(process_id: int) -> None:
  """Process 0 alone has a standard output; errors say whose they are."""
  if process_id:
    sys.stdout = open(os.devnull, 'w')  # noqa: SIM115 for good
  sys.stderr = _Prefixed(sys.stderr, f'[process {process_id}] ')


def _end(text: str, status: int = 1) -> None:
  """Prints and ends this process at once: its threads may hang for ever."""
  with contextlib.suppress(Exception):
    sys.stdout.flush()
    print(text, file=sys.stderr, flush=True)
  os._exit(status)


@contextlib.contextmanager
def _deadline(place: Place, seconds: float) -> Iterator[None]:
  """Ends this process where it met no others: jax would abort without a word
  of what to do."""
  who = 'this process'
  if place.process_id is not None:
    who = f'process {place.process_id} of {place.num_processes}'
  where = place.coordinator or "the coordinator of the TPU's slice"
  text = (
    f'ConnectionError: {who} did not meet all others at {where} within '
    f'{seconds:g} s; see their output, start all of them with one '
    'num_processes and numbers of their own, let the port through, or mend '
    'distributed.coordinator (PIX2SEQD_COORDINATOR).'
  )
  timer = threading.Timer(seconds, _end, [text])
  timer.daemon = True
  timer.start()
  try:
    yield
  finally:
    timer.cancel()


def _is_loopback(coordinator: str | None) -> bool:
  host = (coordinator or '').rpartition(':')[0].strip('[]')
  return host in ('localhost', '::1') or host.startswith('127.')


def _check_port(place: Place) -> None:
  """Raises ConnectionError where process 0 cannot listen."""
  if place.process_id != 0:
    return
  host, _, port = place.coordinator.rpartition(':')
  host = '127.0.0.1' if _is_loopback(place.coordinator) else ''
  try:
    socket.create_server((host, int(port))).close()
  except OSError as error:
    raise ConnectionError(
      f'process 0 cannot listen at {place.coordinator} ({error}); end what '
      'uses that port, or choose another in distributed.coordinator.'
    ) from error


def start(
  mode: str = 'auto',
  coordinator: str = '',
  num_processes: int = 0,
  process_id: int = -1,
  timeout_s: float = 300,
) -> bool:
  """Joins the other processes, if there are any; the first call alone counts.

  To be called before anything that asks jax for devices. Where not all come
  together in time, it prints a line and ends this process.

  Args:
    mode, coordinator, num_processes, process_id: see `resolve`.
    timeout_s: how long to wait for the others.

  Returns:
    Whether there are others.

  Raises:
    ValueError: the values are half given, out of range, or not the same in
      all processes; or mode='tpu' on no TPU.
    ConnectionError: process 0 cannot listen.
  """
  global _started
  if jax.distributed.is_initialized():
    return True
  if isinstance(timeout_s, bool) or not timeout_s > 0:
    raise ValueError(
      f'distributed.timeout_s={timeout_s!r} must be above 0 seconds.'
    )
  place = resolve(
    mode=mode,
    coordinator=coordinator,
    num_processes=num_processes,
    process_id=process_id,
  )
  if place is None:
    return False
  by_jax = None in place[:3]
  if not by_jax:
    _check_port(place)
  local = _is_loopback(place.coordinator)
  try:
    with _deadline(place, timeout_s):
      jax.distributed.initialize(
        *place,
        cluster_detection_method=None if by_jax else 'deactivate',
        initialization_timeout=int(timeout_s) + 60,  # ours comes first
        coordinator_bind_address=place.coordinator if local else None,
        heartbeat_timeout_seconds=_HEARTBEAT,
      )
  except (ValueError, OSError) as error:
    if not by_jax:
      raise
    if mode == 'auto':
      return False
    raise ValueError(
      f"distributed.mode='tpu' but jax found no slice of TPUs here ({error}); "
      "set distributed.mode='auto', or 'manual' with the three other keys."
    ) from error
  count = jax.process_count()
  if not by_jax and count != place.num_processes:
    raise ValueError(
      f'distributed.num_processes={place.num_processes} in this process, but '
      f'process 0 was started as one of {count}; give all the same number.'
    )
  _started = count > 1
  if _started:
    _speak(jax.process_index())
  return _started


def _how_to_go_on(workdir: str | os.PathLike | None) -> str:
  steps = [] if workdir is None else archive.steps_in(workdir)
  if steps:
    return (
      f'The run goes on from the checkpoint of step {steps[-1]} when all its '
      'processes are started again.'
    )
  return 'Start all processes again; no checkpoint was saved yet.'


def _is_elsewhere(error: BaseException | None) -> bool:
  """Whether an error, or what led to it, is a collective's that lost another
  process."""
  while error is not None:
    if str(error).startswith(_ELSEWHERE):
      return True
    error = error.__cause__ or error.__context__
  return False


def _fail(error: BaseException, workdir: str | os.PathLike | None) -> None:
  """Ends this process for an error; does not return.

  The interpreter's own end would wait for processes that wait for this one.
  These end when they miss its heartbeats.
  """
  text = f'{type(error).__name__}: {error}'
  with contextlib.suppress(Exception):
    if _is_elsewhere(error):
      print(
        f'{text}\nAnother process is gone, it seems: it was killed, failed, '
        'ran out of memory, or its machine is lost. jax names it here, as the '
        f'unhealthy task, within {_HEARTBEAT} s. {_how_to_go_on(workdir)}',
        file=sys.stderr,
        flush=True,
      )
      time.sleep(_WAIT)
    elif isinstance(error, KeyboardInterrupt):
      _end('KeyboardInterrupt: it was interrupted', 128 + signal.SIGINT)
  known = isinstance(error, _EXPECTED) and not _is_elsewhere(error)
  if not known or os.environ.get('PIX2SEQD_TRACEBACK'):
    traceback.print_exception(error)
  _end(text)


@contextlib.contextmanager
def session(workdir: str | os.PathLike | None = None, **settings):
  """What several processes do together; `start` with these settings first.

  An error in one of them ends all. Alone, it is merely raised.

  Args:
    workdir: the folder of the run, to say from where it goes on.
    **settings: see `start`.
  """
  start(**settings)
  if not _started:
    yield
    return
  try:
    yield
  except Preempted:
    raise
  except BaseException as error:
    _fail(error, workdir)


def preempted() -> bool:
  """Whether SIGTERM came to any of several processes; the same answer in all.

  By jax's preemption service, which agrees on a point that no process has
  reached yet. So all must ask equally often; the points are counted, and not
  the steps, as evaluations ask as well, and as a resumed run starts late.
  """
  if jax.process_count() == 1:
    return False
  from jax.experimental import multihost_utils

  try:
    return multihost_utils.reached_preemption_sync_point(next(_ticks))
  except RuntimeError:  # the service was switched off: SIGTERM kills
    return False


def all_true(value: bool) -> bool:
  """Whether it is true in all processes; the same answer in all."""
  if jax.process_count() == 1:
    return value
  from jax.experimental import multihost_utils

  return bool(multihost_utils.process_allgather(np.int32(value)).all())


def of_first(number: int | None) -> int | None:
  """Process 0's number, in all: what each sees of a folder may differ."""
  if jax.process_count() == 1:
    return number
  from jax.experimental import multihost_utils

  value = np.int32(-1 if number is None else number)
  first = int(multihost_utils.broadcast_one_to_all(value))
  return None if first < 0 else first
