"""The one train loop; it knows no method, no data set and no task.

Everything in it is a function of (state, rng, position in the data = step), so
a run broken and resumed ends with the bytes of an unbroken one. Every interval
counts steps done; 0 means never; otherwise the last step is due as well.
"""

import collections
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh

from pix2seqd_jax import types
from pix2seqd_jax.train import log, prefetch, processes, sharding
from pix2seqd_jax.train.state import TrainState

# Steps that may be under way at once: enough to hide the host, few enough that
# the batches of steps to come do not pile up in the device's memory.
_IN_FLIGHT = 2


class NotFinite(ArithmeticError):
  """The loss, the gradients or the weights of `step` became NaN or Inf.

  Or its loss was above train.max_loss.
  """

  def __init__(self, message: str, step: int = 0):
    super().__init__(message)
    self.step = step


class _Stopped(Exception):
  """A signal came while the run could be left at once."""


class StopSignal:
  """Turns SIGTERM and Ctrl-C into a flag, read after each step.

  A second Ctrl-C aborts at once. Only the main thread can listen. With
  several processes nothing is caught here: `poll` asks jax's preemption
  service, so that SIGTERM to one makes all of them stop at the same step; a
  Ctrl-C ends them.
  """

  def __init__(self):
    self.name: str | None = None
    self._leave = False
    self._old: dict[int, Any] = {}

  def _handle(self, number, frame):
    if self.name is not None and number == signal.SIGINT:
      raise KeyboardInterrupt
    self.name = signal.Signals(number).name
    if self._leave:
      raise _Stopped

  def poll(self) -> str | None:
    """The signal, if one came; asked as often in each of several processes."""
    if self.name is None and processes.preempted():
      self.name = 'SIGTERM'
    return self.name

  def call(self, function: Callable, *args) -> Any:
    """function(*args), or None where a signal came meanwhile."""
    self._leave = True
    try:
      return None if self.name else function(*args)
    except _Stopped:
      return None
    except processes.Preempted:
      self.name = 'SIGTERM'
      return None
    finally:
      self._leave = False

  def __enter__(self):
    main = threading.current_thread() is threading.main_thread()
    if main and jax.process_count() == 1:
      numbers = (signal.SIGINT, signal.SIGTERM)
      self._old = {n: signal.signal(n, self._handle) for n in numbers}
    return self

  def __exit__(self, *_):
    for number, handler in self._old.items():
      signal.signal(number, handler)


def every(step: int, interval: int, last: int) -> bool:
  """Whether something with this interval is due after `step` steps.

  0 means never; otherwise the last step counts too.
  """
  return interval > 0 and (step % interval == 0 or step == last)


class _Meter:
  """Speed between log points."""

  def __init__(self, batches: prefetch.Prefetch, total: int):
    self._batches, self._total = batches, total
    self._steps = self._images = 0
    self.restart()

  def restart(self) -> None:
    """Forgets the time up to now: evaluation is no part of the speed."""
    self._steps = self._images = 0
    self._start = time.perf_counter()
    self._waited = self._batches.waited

  def add(self, images: int) -> None:
    self._steps += 1
    self._images += images

  def compute(self, step: int) -> dict[str, float]:
    seconds = max(time.perf_counter() - self._start, 1e-9)
    waited = self._batches.waited - self._waited
    steps_per_second = self._steps / seconds
    values = {
      'steps_per_second': steps_per_second,
      'images_per_second': self._images / seconds,
      'data_wait_fraction': min(waited / seconds, 1.0),
      'eta_seconds': (self._total - step) / max(steps_per_second, 1e-9),
    }
    self.restart()
    return values


class _Every(NamedTuple):
  """Intervals in steps; see `train`."""

  log: int
  save: int
  eval: int


def _check_numbers(steps: int, intervals: _Every, max_loss: float) -> None:
  named = {f'{k}_every': v for k, v in intervals._asdict().items()}
  for name, value in {'steps': steps, **named}.items():
    if not isinstance(value, int) or value < 0:
      raise ValueError(
        f'train.{name}={value!r} must be an integer of at least 0 (0 = never).'
      )
  if max_loss < 0:
    raise ValueError(f'train.max_loss={max_loss} must be >= 0 (0 = any loss).')


def _check_finite(means: log.Means, max_loss: float = 0.0) -> None:
  bad = means.first_bad()
  if bad is None:
    return
  step, loss = bad
  what = 'the loss, its gradient or the updated weights became NaN or Inf'
  if max_loss and math.isfinite(loss) and loss > max_loss:
    what = f'the loss is {loss:.6g}, above train.max_loss={max_loss:g}'
  raise NotFinite(
    f'step {step}: {what}. The run stops; no checkpoint from this step on was '
    'written. Lower optimizer.learning_rate, lengthen optimizer.warmup_steps '
    'or set optimizer.clip_norm, then start again from the last checkpoint.',
    step,
  )


def _with_batch(error: NotFinite, batches_from, dump_fn) -> NotFinite:
  """The error, with where the batch of its step was written.

  A batch is a function of its position: none is kept on the way.
  """
  if dump_fn is None or not error.step:
    return error
  where = dump_fn(error.step, next(batches_from(error.step - 1)))
  message = f'{error} What the step was fed is in {where}.'
  return NotFinite(message, error.step)


def _next(batches: prefetch.Prefetch, step: int):
  try:
    return next(batches)
  except StopIteration:
    raise ValueError(
      f'the training data ended before step {step}; repeat them without end, '
      'or lower train.steps.'
    ) from None


class _Run:
  """One call of `train`: its pieces, and what happens between steps."""

  def __init__(
    self, num_steps, intervals, train_step, rng, writer, max_loss=0.0
  ):
    self.num_steps = num_steps
    self.every = intervals
    self.train_step = train_step
    self.rng = rng
    self.writer = writer or log.NullWriter()
    self.checkpointer = self.eval_fn = self.panel_fn = None
    self.ledger = None
    self.max_loss = max_loss
    self.means = log.Means(max_loss)
    self._under_way = collections.deque()

  def step(self, state: TrainState, batch: types.Batch, step: int):
    """Starts step number `step` (from 1); waits for an earlier one only."""
    key = jax.random.fold_in(self.rng, step - 1)
    state, scalars = self.train_step(state, batch, key)
    self.means.add(step, scalars)
    self._under_way.append(scalars['loss'])
    if len(self._under_way) > _IN_FLIGHT:
      jax.block_until_ready(self._under_way.popleft())
    return state

  def log(self, step: int, meter: _Meter, bar: log.Progress) -> None:
    """Means and speed; the only place of a plain step that waits."""
    _check_finite(self.means, self.max_loss)
    scalars = self.means.compute()
    self.writer.write_scalars(step, {**scalars, **meter.compute(step)})
    self.writer.flush()
    bar.note({k: v for k, v in scalars.items() if k == 'loss'})

  def evaluate(self, state: TrainState, step: int) -> dict[str, float]:
    """Metrics of this state, written down, with a panel of images."""
    _check_finite(self.means, self.max_loss)
    results = self.eval_fn(state, step)
    self.writer.write_scalars(
      step, {f'eval/{k}': v for k, v in results.items()}
    )
    if self.panel_fn is not None:
      self.writer.write_images(step, self.panel_fn(state, step))
    self.writer.flush()
    return results

  def report(
    self, state: TrainState, step: int, stop: StopSignal, reason: str | None
  ) -> tuple[bool, str | None]:
    """Evaluates and saves what is due.

    A stop is not the time to evaluate: it ends one that runs, and saves. An
    evaluation that fails costs no step of the training either.

    Returns:
      Whether that took time, and the reason to stop, if there is one now. (A
      signal that comes later still is for the next step, which saves.)
    """
    results = None
    if every(step, self.every.eval, self.num_steps) and reason is None:
      try:
        results = stop.call(self.evaluate, state, step)
      except NotFinite:
        raise  # no checkpoint may hold this state
      except Exception:
        # Of several processes one may have failed alone: the others would
        # not come to a save.
        if self.checkpointer is not None and jax.process_count() == 1:
          self.checkpointer.save(step, state, force=True)
          self.checkpointer.wait()
        raise
      reason = stop.name
    if self.checkpointer is None:
      return results is not None, reason
    by_metric = getattr(self.checkpointer, 'best_metric', None) is not None
    due = step == self.num_steps or reason is not None
    due = due or every(step, self.every.save, self.num_steps)
    due = due or (results is not None and by_metric)
    if due:
      # No checkpoint may hold a NaN: look at the steps since the last log.
      _check_finite(self.means, self.max_loss)
      self.checkpointer.save(step, state, metrics=results, force=True)
    return due or results is not None, reason

  def finish(self, step: int, reason: str | None) -> None:
    """Waits for what is being saved, and says how to go on after a stop."""
    if self.checkpointer is not None:
      self.checkpointer.wait()
    if reason is not None:
      saved = 'not saved' if self.checkpointer is None else 'saved'
      text = (
        f'stopped by {reason} after step {step} of {self.num_steps}, {saved}. '
        'The same command with the same workdir goes on from here.'
      )
      self.writer.write_texts(step, {'run': text})
      self.writer.flush()


def _steps(run: _Run, state: TrainState, start: int, stop, batches, bar):
  """The loop itself."""
  meter = _Meter(batches, run.num_steps)
  for step in range(start + 1, run.num_steps + 1):
    batch, rows = _next(batches, step)
    if run.ledger is not None:
      run.ledger.write(step, rows)
    state = run.step(state, batch, step)
    meter.add(jax.tree.leaves(batch)[0].shape[0])
    bar.update()
    if step == start + 1:
      meter.restart()  # the first step compiles
    reason = stop.poll()
    if every(step, run.every.log, run.num_steps if reason is None else step):
      run.log(step, meter, bar)
    took_time, reason = run.report(state, step, stop, reason)
    if took_time:
      meter.restart()
    if reason is not None or step == run.num_steps:
      run.finish(step, reason)
      break
  if reason == 'SIGINT' and step < run.num_steps:
    raise KeyboardInterrupt  # the caller's next lines are not to run
  return state


def train(
  *,
  state: TrainState,
  train_step: Callable,
  batches_from: Callable[[int], Iterator[types.Batch]],
  num_steps: int,
  rng: types.Array,
  mesh: Mesh,
  checkpointer: Any = None,
  writer: log.MetricWriter | None = None,
  log_every: int = 50,
  save_every: int = 0,
  eval_every: int = 0,
  eval_fn: Callable[[TrainState, int], dict[str, float]] | None = None,
  panel_fn: Callable[[TrainState, int], dict[str, Any]] | None = None,
  ledger: Any = None,
  max_loss: float = 0.0,
  dump_fn: Callable[[int, types.Batch], Any] | None = None,
  progress: bool = True,
) -> TrainState:
  """Runs from state.step to num_steps and returns the last state.

  Step i + 1 uses fold_in(rng, i) and batch i of `batches_from(0)`, whose
  argument is the position to start from. `state` is donated: gone afterwards.
  `eval_fn` and `panel_fn` (images by name) take (state, step). The
  checkpointer is saved to at the end and on a stop, and after each evaluation
  if it has a best_metric. SIGTERM saves and returns early, with state.step <
  num_steps; Ctrl-C saves and raises KeyboardInterrupt, a second one aborts. A
  `ledger.Ledger` notes what each step is fed. When a step is not finite, or its
  loss is above `max_loss` (0: any), its batch is made again, and
  `dump_fn(step, batch)` writes it down and returns where.

  Raises:
    NotFinite: naming the first step that was not finite, or above max_loss.
    ValueError: on negative intervals, or when the data end early.
    KeyboardInterrupt: after Ctrl-C, when all is saved.
  """
  intervals = _Every(log_every, save_every, eval_every if eval_fn else 0)
  _check_numbers(num_steps, intervals, max_loss)
  start = int(state.step)
  if start >= num_steps:
    return state
  run = _Run(num_steps, intervals, train_step, rng, writer, max_loss)
  run.checkpointer, run.eval_fn, run.panel_fn = checkpointer, eval_fn, panel_fn
  run.ledger = ledger

  def put(batch):
    rows = None if ledger is None else ledger.hash(batch)
    return sharding.put_batch(batch, mesh), rows

  try:
    with (
      StopSignal() as stop,
      prefetch.Prefetch(batches_from(start), put) as batches,
      log.Progress(num_steps, start, enabled=progress, lines=False) as bar,
    ):
      return _steps(run, state, start, stop, batches, bar)
  except NotFinite as error:
    raise _with_batch(error, batches_from, dump_fn) from None
