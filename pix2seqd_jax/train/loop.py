"""The one train loop; it knows no method, no data set and no task."""

import collections
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
from jax.sharding import Mesh

from pix2seqd_jax import types
from pix2seqd_jax.train import log, prefetch, sharding
from pix2seqd_jax.train.state import TrainState

# Steps that may be under way at once: enough to hide the host, few enough that
# the batches of steps to come do not pile up in the device's memory.
_IN_FLIGHT = 2


class NotFinite(ArithmeticError):
  """The loss, the gradients or the weights became NaN or Inf."""


class StopSignal:
  """Turns SIGTERM and Ctrl-C into a flag, read after each step.

  A second Ctrl-C aborts at once. Only the main thread can listen. With
  several processes SIGTERM is left to jax's preemption service, which makes
  all of them stop at the same step.
  """

  def __init__(self):
    self.name: str | None = None
    self._old: dict[int, Any] = {}

  def _handle(self, number, frame):
    if self.name is not None and number == signal.SIGINT:
      raise KeyboardInterrupt
    self.name = signal.Signals(number).name

  def __enter__(self):
    if threading.current_thread() is threading.main_thread():
      numbers = [signal.SIGINT]
      if jax.process_count() == 1:
        numbers.append(signal.SIGTERM)
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
      'data_wait_share': min(waited / seconds, 1.0),
      'eta_seconds': (self._total - step) / max(steps_per_second, 1e-9),
    }
    self.restart()
    return values


def _check_numbers(**intervals: int) -> None:
  for name, value in intervals.items():
    if not isinstance(value, int) or value < 0:
      raise ValueError(
        f'train.{name}={value!r} must be an integer of at least 0 (0 = never).'
      )


def _check_finite(means: log.Means) -> None:
  first_bad = means.first_bad()
  if first_bad is not None:
    raise NotFinite(
      f'step {first_bad}: the loss, its gradient or the updated weights became '
      'NaN or Inf. The run stops; no checkpoint from this step on was written. '
      'Lower optimizer.learning_rate, lengthen optimizer.warmup_steps or set '
      'optimizer.clip_norm, then start again from the last checkpoint.'
    )


def _next(batches: prefetch.Prefetch, step: int):
  try:
    return next(batches)
  except StopIteration:
    raise ValueError(
      f'the training data ended before step {step}; repeat them without end, '
      'or lower train.num_steps.'
    ) from None


def _preempted(checkpointer: Any, step: int) -> str | None:
  if checkpointer is not None and jax.process_count() > 1:
    return 'preemption' if checkpointer.reached_preemption(step) else None
  return None


class _Reports:
  """What happens between steps: logging, evaluation, saving."""

  def __init__(self, writer, checkpointer, eval_fn, panel_fn):
    self.writer = writer
    self.checkpointer = checkpointer
    self.eval_fn = eval_fn
    self.panel_fn = panel_fn
    self.means = log.Means()

  def log(self, step: int, meter: _Meter, bar: log.Progress) -> None:
    """Means and speed; the only place of a plain step that waits."""
    _check_finite(self.means)
    scalars = self.means.compute()
    self.writer.write_scalars(step, {**scalars, **meter.compute(step)})
    self.writer.flush()
    bar.note({k: v for k, v in scalars.items() if k == 'loss'})

  def evaluate(self, state: TrainState, step: int) -> dict[str, float]:
    """Metrics of this state, written down, with a panel of pictures."""
    _check_finite(self.means)
    results = self.eval_fn(state, step)
    self.writer.write_scalars(
      step, {f'eval/{k}': v for k, v in results.items()}
    )
    if self.panel_fn is not None:
      self.writer.write_images(step, self.panel_fn(state, step))
    self.writer.flush()
    return results

  def save(self, state: TrainState, step: int, metrics=None) -> None:
    """Saves, after a look that no step so far went bad."""
    _check_finite(self.means)
    self.checkpointer.save(step, state, metrics=metrics, force=True)

  def say(self, step: int, text: str) -> None:
    self.writer.write_texts(step, {'run': text})
    self.writer.flush()


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
  progress: bool = True,
) -> TrainState:
  """Runs from state.step to num_steps and returns the last state.

  Everything is a function of (state, rng, position in the data = step), so a
  run broken and resumed ends with the bytes of an unbroken one. The donated
  `state` that comes in is gone afterwards. Every interval counts steps done,
  0 means never, and the last step is always due. SIGTERM and Ctrl-C save and
  return early, with state.step < num_steps.

  Args:
    state: from create_state or Checkpointer.restore.
    train_step: from make_train_step.
    batches_from: position -> host batches of this process from there on.
    num_steps: of the whole run, the restored ones counted in.
    rng: key of the run; the step after i steps uses fold_in(rng, i).
    mesh: of the state and of the batches.
    checkpointer: a checkpoint.Checkpointer, or None. It is saved to at the
      end and on a stop, whatever save_every is; and at each evaluation if it
      has a best_metric.
    writer: where scalars and pictures go.
    log_every: steps between log lines; only there is the device waited for.
    save_every: steps between checkpoints.
    eval_every: steps between calls of eval_fn and panel_fn.
    eval_fn: (state, step) -> metrics.
    panel_fn: (state, step) -> {name: pictures}.
    progress: a bar, where standard error is a terminal.

  Raises:
    NotFinite: naming the first step that was not finite.
    ValueError: on negative intervals, or when the data end early.
  """
  _check_numbers(
    num_steps=num_steps,
    log_every=log_every,
    save_every=save_every,
    eval_every=eval_every,
  )
  start = int(state.step)
  if start >= num_steps:
    return state
  eval_every = eval_every if eval_fn is not None else 0
  by_metric = getattr(checkpointer, 'best_metric', None) is not None
  reports = _Reports(
    writer or log.NullWriter(), checkpointer, eval_fn, panel_fn
  )
  under_way = collections.deque()

  def put(batch):
    return sharding.put_batch(batch, mesh)

  with (
    StopSignal() as stop,
    prefetch.Prefetch(batches_from(start), put) as batches,
    log.Progress(num_steps, start, enabled=progress) as bar,
  ):
    meter = _Meter(batches, num_steps)
    for step in range(start + 1, num_steps + 1):
      batch = _next(batches, step)
      key = jax.random.fold_in(rng, step - 1)
      state, scalars = train_step(state, batch, key)
      reports.means.add(step, scalars)
      under_way.append(scalars['loss'])
      if len(under_way) > _IN_FLIGHT:
        jax.block_until_ready(under_way.popleft())
      meter.add(jax.tree.leaves(batch)[0].shape[0])
      bar.update()

      reason = stop.name or _preempted(checkpointer, step)
      last = num_steps if reason is None else step
      if every(step, log_every, last):
        reports.log(step, meter, bar)
      results = None
      if every(step, eval_every, num_steps) and reason is None:
        results = reports.evaluate(state, step)
      due = every(step, save_every, last) or step == last
      if checkpointer is not None and (due or (results and by_metric)):
        reports.save(state, step, results)
      if results is not None or due:
        meter.restart()
      if reason is not None:
        break
    if checkpointer is not None:
      checkpointer.wait()
    if reason is not None:
      saved = 'saved' if checkpointer is not None else 'nothing was saved'
      reports.say(
        step,
        f'stopped by {reason} after step {step} of {num_steps}; {saved}. The '
        'same command, with the same workdir, goes on from here.',
      )
  return state
