"""Several processes as one run: start, stop, failure.

  with distributed.session(workdir, **config['distributed']):
    ...

Alone, nothing happens and jax is not asked. Among several, the processes meet
(watch.py), jax.distributed is initialized, and where one dies or fails all end
within a minute, with a line that says which one, and from where the run goes
on. SIGTERM to any of them stops all after the same step.
"""

import atexit
import contextlib
import itertools
import os
import pathlib
import signal
import sys
import time
import traceback
from collections.abc import Callable
from typing import TextIO

import jax
import numpy as np

from pix2seqd_jax.train.checkpoints import archive
from pix2seqd_jax.train.processes import places, watch

# jax's own detection, should ours be cut off: below a minute as well.
_HEARTBEAT = 50
# Where a process dies the others often fail in a collective first; until then
# the watch may say what the reason was.
_GRACE = 3.0
# Errors that say what is wrong and how to mend it: no traceback.
_EXPECTED = (ValueError, OSError, ArithmeticError)

_watch: watch.Watch | None = None
_ticks = itertools.count(1)


class Preempted(SystemExit):
  """All processes were told to stop at this point; 143, as SIGTERM gives."""

  def __init__(self):
    super().__init__(128 + signal.SIGTERM)


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


def _speak(place: places.Place) -> None:
  """Process 0 alone has a standard output; errors say whose they are."""
  if place.process_id:
    sys.stdout = open(os.devnull, 'w')  # noqa: SIM115 for good
  sys.stderr = _Prefixed(sys.stderr, f'[process {place.process_id}] ')


def start(
  mode: str = 'auto',
  coordinator: str = '',
  num_processes: int = 0,
  process_id: int = -1,
  timeout_s: float = 300,
) -> bool:
  """Joins the other processes, if there are any; the first call alone counts.

  To be called before anything that asks jax for devices.

  Args:
    mode, coordinator, num_processes, process_id: see `places.resolve`.
    timeout_s: how long to wait for the others.

  Returns:
    Whether there are others.

  Raises:
    ValueError: the values are half given, out of range, or not the same in
      all processes.
    ConnectionError: not all came together in time, naming host:port.
  """
  global _watch
  if _watch is not None or jax.distributed.is_initialized():
    return True
  if isinstance(timeout_s, bool) or not timeout_s > 0:
    raise ValueError(
      f'distributed.timeout_s={timeout_s!r} must be above 0 seconds.'
    )
  place = places.resolve(
    mode=mode,
    coordinator=coordinator,
    num_processes=num_processes,
    process_id=process_id,
  )
  if place is None:
    return False
  met = watch.Watch(place, timeout_s)
  local = watch.is_loopback(met.address.rpartition(':')[0].strip('[]'))
  jax.distributed.initialize(
    met.address,
    num_processes=place.num_processes,
    process_id=place.process_id,
    local_device_ids=place.local_device_ids,
    cluster_detection_method='deactivate',
    initialization_timeout=int(max(timeout_s, 60)),
    coordinator_bind_address=met.address if local else None,
    heartbeat_timeout_seconds=_HEARTBEAT,
  )
  _watch = met
  _speak(place)
  atexit.register(met.leave)  # before jax's own end, which waits for all
  return True


def _how_to_go_on(workdir: str | os.PathLike | None) -> str:
  steps = [] if workdir is None else archive.steps_in(workdir)
  if steps:
    return (
      f'The run goes on from the checkpoint of step {steps[-1]} when all its '
      'processes are started again.'
    )
  return 'Start all processes again; no checkpoint was saved yet.'


def _lost(workdir: str | os.PathLike | None) -> Callable[[str], None]:
  """What the watch does when another process is gone."""

  def end(text: str) -> None:
    with contextlib.suppress(Exception):
      text = f'{text} {_how_to_go_on(workdir)}'
    watch.end(text)

  return end


def _fail(error: BaseException) -> None:
  """Ends all processes for an error in this one; does not return.

  The interpreter's own end would wait for processes that wait for this one.
  """
  time.sleep(_GRACE)
  known = isinstance(error, (*_EXPECTED, KeyboardInterrupt))
  if not known or os.environ.get('PIX2SEQD_TRACEBACK'):
    traceback.print_exception(error)
  text = f'{type(error).__name__}: {error}'
  if isinstance(error, KeyboardInterrupt):
    text = 'it was interrupted'
  with contextlib.suppress(Exception):
    sys.stdout.flush()
    print(text, file=sys.stderr, flush=True)
  _watch.fail(text)
  os._exit(128 + signal.SIGINT if isinstance(error, KeyboardInterrupt) else 1)


@contextlib.contextmanager
def session(workdir: str | os.PathLike | None = None, **settings):
  """What several processes do together; `start` with these settings first.

  An error in one of them ends all, at once. Alone, it is merely raised.

  Args:
    workdir: the folder of the run, to say from where it goes on.
    **settings: see `start`.
  """
  start(**settings)
  if _watch is None:
    yield
    return
  _watch.lost = _lost(None if workdir is None else pathlib.Path(workdir))
  try:
    yield
  except Preempted:
    raise
  except BaseException as error:
    _fail(error)


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
