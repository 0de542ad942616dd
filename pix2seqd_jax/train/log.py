"""What a run writes down: scalars, images, texts; progress; means.

The writers have the method names of clu.metric_writers, whose package needs
TensorFlow; ours do not. Only process 0 should be given writers.
"""

import json
import os
import pathlib
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TextIO, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np

from pix2seqd_jax import types

_SECONDS_A_LINE = 10.0


@runtime_checkable
class MetricWriter(Protocol):
  """clu's names; `images` are uint8 or [0, 1] float [n, h, w, c]."""

  def write_scalars(self, step: int, scalars: Mapping[str, Any]) -> None: ...

  def write_images(self, step: int, images: Mapping[str, Any]) -> None: ...

  def write_texts(self, step: int, texts: Mapping[str, str]) -> None: ...

  def write_hparams(self, hparams: Mapping[str, Any]) -> None: ...

  def flush(self) -> None: ...

  def close(self) -> None: ...


class NullWriter:
  """Writes nothing; the base of writers that leave something out."""

  def write_scalars(self, step: int, scalars: Mapping[str, Any]) -> None:
    del step, scalars

  def write_images(self, step: int, images: Mapping[str, Any]) -> None:
    del step, images

  def write_texts(self, step: int, texts: Mapping[str, str]) -> None:
    del step, texts

  def write_hparams(self, hparams: Mapping[str, Any]) -> None:
    del hparams

  def flush(self) -> None:
    pass

  def close(self) -> None:
    self.flush()


_SHORT = {
  'learning_rate': 'lr',
  'steps_per_second': 'steps/s',
  'images_per_second': 'images/s',
  'data_wait_fraction': 'wait',
  'eta_seconds': 'eta',
}


def _shown(name: str, value: Any) -> str:
  if name == 'eta_seconds':
    return f'eta {eta(float(value))}'
  return f'{_SHORT.get(name, name)} {float(value):<8.4g}'


class StdoutWriter(NullWriter):
  """One aligned line a call: `step     100  loss 1.234  lr 0.0001  ...`."""

  def __init__(self, stream: TextIO | None = None):
    self._stream = stream

  def _print(self, line: str) -> None:
    from tqdm import tqdm

    tqdm.write(line, file=self._stream or sys.stdout)

  def write_scalars(self, step: int, scalars: Mapping[str, Any]) -> None:
    # Scores of single classes are for the files; a line holds a dozen numbers.
    shown = '  '.join(
      _shown(k, v) for k, v in scalars.items() if '_class/' not in k
    )
    self._print(f'step {step:>7}  {shown}'.rstrip())

  def write_texts(self, step: int, texts: Mapping[str, str]) -> None:
    for name, text in texts.items():
      self._print(f'step {step:>7}  {name}: {text}')

  def flush(self) -> None:
    (self._stream or sys.stdout).flush()


class JsonlWriter(NullWriter):
  """One JSON object a line, {'step', 'time', name: number}; appended to.

  A resumed run repeats the steps after its checkpoint: of two lines of a step
  the later one counts. NaN and Inf are written as strings, so that every line
  is JSON.
  """

  def __init__(self, path: str | os.PathLike):
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    self._file = path.open('a', encoding='utf-8')

  def write_scalars(self, step: int, scalars: Mapping[str, Any]) -> None:
    values = {k: float(v) for k, v in scalars.items()}
    values = {k: v if np.isfinite(v) else str(v) for k, v in values.items()}
    row = {'step': int(step), 'time': round(time.time(), 3), **values}
    self._file.write(json.dumps(row) + '\n')
    self._file.flush()

  def flush(self) -> None:
    self._file.flush()

  def close(self) -> None:
    self._file.close()


def _as_images(images: Any) -> np.ndarray:
  images = np.asarray(images)
  images = images[None] if images.ndim == 3 else images
  if images.ndim != 4 or images.shape[-1] not in (1, 3, 4):
    raise ValueError(
      f'images has shape {images.shape}; write_images takes [n, h, w, c] or '
      '[h, w, c] with 1, 3 or 4 channels.'
    )
  if images.dtype != np.uint8:
    images = (np.clip(images, 0, 1) * 255 + 0.5).astype(np.uint8)
  return images


class TensorBoardWriter(NullWriter):
  """Event files, by tensorboardX: no TensorFlow."""

  def __init__(self, directory: str | os.PathLike):
    from tensorboardX import SummaryWriter

    # Its names have host and second alone: a run and who watches it would
    # truncate each other's file.
    self._writer = SummaryWriter(
      str(directory), filename_suffix=f'.{os.getpid()}'
    )

  def write_scalars(self, step: int, scalars: Mapping[str, Any]) -> None:
    for name, value in scalars.items():
      self._writer.add_scalar(name, float(value), int(step))

  def write_images(self, step: int, images: Mapping[str, Any]) -> None:
    for name, value in images.items():
      self._writer.add_images(
        name, _as_images(value), int(step), dataformats='NHWC'
      )

  def write_texts(self, step: int, texts: Mapping[str, str]) -> None:
    for name, text in texts.items():
      self._writer.add_text(name, text, int(step))

  def write_hparams(self, hparams: Mapping[str, Any]) -> None:
    rows = [f'| {k} | {v} |' for k, v in hparams.items()]
    table = '\n'.join(['| name | value |', '| --- | --- |', *rows])
    self._writer.add_text('hparams', table, 0)

  def flush(self) -> None:
    self._writer.flush()

  def close(self) -> None:
    self._writer.close()


class MultiWriter:
  """Hands every call to all of its writers."""

  def __init__(self, writers: Sequence[MetricWriter] = ()):
    self._writers = tuple(writers)

  def write_scalars(self, step: int, scalars: Mapping[str, Any]) -> None:
    for writer in self._writers:
      writer.write_scalars(step, scalars)

  def write_images(self, step: int, images: Mapping[str, Any]) -> None:
    for writer in self._writers:
      writer.write_images(step, images)

  def write_texts(self, step: int, texts: Mapping[str, str]) -> None:
    for writer in self._writers:
      writer.write_texts(step, texts)

  def write_hparams(self, hparams: Mapping[str, Any]) -> None:
    for writer in self._writers:
      writer.write_hparams(hparams)

  def flush(self) -> None:
    for writer in self._writers:
      writer.flush()

  def close(self) -> None:
    for writer in self._writers:
      writer.close()


def default_writer(
  workdir: str | os.PathLike, stdout: bool = True
) -> MetricWriter:
  """metrics.jsonl, event files and lines on stdout; nothing past process 0."""
  if jax.process_index() != 0:
    return NullWriter()
  workdir = pathlib.Path(workdir)
  writers: list[MetricWriter] = [
    JsonlWriter(workdir / 'metrics.jsonl'),
    TensorBoardWriter(workdir),
  ]
  return MultiWriter([*writers, *([StdoutWriter()] if stdout else [])])


class Means:
  """Means of the scalars between log points, on the device, by clu.metrics.

  `add` is one dispatch and never waits for the device; it also remembers the
  first step whose `is_finite` was 0, or whose loss was above `max_loss` (0:
  any), so that the run can stop and name it.
  """

  def __init__(self, max_loss: float = 0.0):
    self._max_loss = max_loss
    self._totals = None
    self._add = jax.jit(self._merge)

  def _merge(self, totals, step, scalars):
    from clu import metrics

    means, first_bad, bad_loss = totals
    fine = scalars.get('is_finite', jnp.float32(1)) > 0
    loss = jnp.asarray(scalars.get('loss', 0), jnp.float32)
    if self._max_loss:
      fine &= loss <= self._max_loss
    is_first = (first_bad < 0) & ~fine
    first_bad = jnp.where(is_first, step, first_bad)
    bad_loss = jnp.where(is_first, loss, bad_loss)
    new = {
      name: metrics.Average.from_model_output(jnp.asarray(value, jnp.float32))
      for name, value in scalars.items()
    }
    if means is not None:
      new = {name: means[name].merge(new[name]) for name in new}
    return new, first_bad, bad_loss

  def add(self, step: int, scalars: Mapping[str, Any]) -> None:
    """Adds the scalars of one step."""
    totals = self._totals or (None, np.int32(-1), np.float32(0))
    self._totals = self._add(totals, np.int32(step), dict(scalars))

  def first_bad(self) -> tuple[int, float] | None:
    """The first bad step and its loss, if any; waits for the device."""
    if self._totals is None:
      return None
    first_bad, loss = jax.device_get(self._totals[1:])
    return (int(first_bad), float(loss)) if first_bad >= 0 else None

  def compute(self) -> dict[str, float]:
    """The mean of each scalar since the last call."""
    if self._totals is None:
      return {}
    means = jax.device_get(self._totals[0])
    self._totals = None
    values = {k: float(m.total / m.count) for k, m in means.items()}
    values.pop('is_finite', None)
    return values


def parameter_table(params: types.Params) -> str:
  """Names, shapes and sizes of the parameters that are trained."""
  from clu import parameter_overview

  return parameter_overview.get_parameter_overview(
    params['net'], include_stats=False
  )


class Progress:
  """A tqdm bar with ETA on a terminal; elsewhere a line every ten seconds.

  Or no such line, where others are printed anyway: `lines`. Of several
  processes the first alone shows it; no device is asked for.
  """

  def __init__(
    self,
    total: int | None,
    start: int = 0,
    unit: str = 'step',
    enabled: bool = True,
    lines: bool = True,
  ):
    from tqdm import tqdm

    if jax.distributed.is_initialized():
      enabled = enabled and jax.process_index() == 0
    bar = sys.stderr.isatty()
    self._bar = tqdm(
      unit=unit, dynamic_ncols=True, disable=not (enabled and bar)
    )
    self._lines = enabled and lines and not bar
    self._unit, self.total = unit, total
    self.start(start)

  def start(self, done: int) -> None:
    """Counts from here, so many having been done before."""
    self._start = self.done = done
    self._began = self._told = time.monotonic()
    self._bar.reset(self.total)
    self._bar.initial = self._bar.n = self._bar.last_print_n = done

  def update(self, count: int = 1) -> None:
    """`count` more units are done, of `total`, which may be set meanwhile."""
    self._bar.total = self.total
    self._bar.update(count)
    self.done += count
    now = time.monotonic()
    if self._lines and now - self._told >= _SECONDS_A_LINE:
      self._told = now
      print(self._line(now - self._began), file=sys.stderr, flush=True)

  def _line(self, seconds: float) -> str:
    rate = (self.done - self._start) / seconds
    of = '' if self.total is None else f'/{self.total}'
    left = ''
    if self.total is not None and rate:  # 0 before the first is done
      left = f'  eta {eta((self.total - self.done) / rate)}'
    return f'{self.done}{of} {self._unit}s  {rate:.3g}/s{left}'

  def note(self, values: Mapping[str, float]) -> None:
    """Shows a few numbers beside the bar."""
    shown = {k: f'{v:.4g}' for k, v in values.items()}
    self._bar.set_postfix(shown, refresh=False)

  def close(self) -> None:
    self._bar.close()

  def __enter__(self):
    return self

  def __exit__(self, *_):
    self.close()


def eta(seconds: float) -> str:
  """3725 -> '1:02:05'."""
  minutes, seconds = divmod(round(max(seconds, 0)), 60)
  hours, minutes = divmod(minutes, 60)
  return f'{hours}:{minutes:02}:{seconds:02}'
