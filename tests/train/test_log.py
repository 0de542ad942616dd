"""Writers, means, progress."""

import io
import json
import os
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy import Toy

from pix2seqd_jax.train import log


def test_event_files_are_read_by_tensorboard(tmp_path):
  accumulator = pytest.importorskip(
    'tensorboard.backend.event_processing.event_accumulator'
  )
  writer = log.default_writer(tmp_path, stdout=False)
  assert isinstance(writer, log.MetricWriter)
  for step in (1, 2):
    writer.write_scalars(step, {'loss': 0.5 * step})
  writer.write_images(2, {'panel': np.zeros((2, 4, 6, 3), np.uint8)})
  writer.write_images(2, {'one': np.zeros((4, 6, 3))})
  writer.write_texts(2, {'run': 'hello'})
  writer.write_hparams({'optimizer.learning_rate': 1e-3})
  writer.close()
  events = accumulator.EventAccumulator(str(tmp_path))
  events.Reload()
  assert [(e.step, e.value) for e in events.Scalars('loss')] == [
    (1, 0.5),
    (2, 1),
  ]
  tags = events.Tags()
  assert any('panel' in tag for tag in tags['images'])
  assert any('run' in tag for tag in tags['tensors'])
  rows = [json.loads(x) for x in (tmp_path / 'metrics.jsonl').open()]
  assert [(r['step'], r['loss']) for r in rows] == [(1, 0.5), (2, 1.0)]


def test_lines_that_are_not_finite_are_still_json(tmp_path):
  writer = log.JsonlWriter(tmp_path / 'deep' / 'metrics.jsonl')
  writer.write_scalars(3, {'loss': float('nan'), 'x': jnp.float32(2)})
  writer.close()
  row = json.loads((tmp_path / 'deep' / 'metrics.jsonl').read_text())
  assert (row['step'], row['loss'], row['x']) == (3, 'nan', 2.0)


def test_stdout_lines_are_aligned():
  stream = io.StringIO()
  writer = log.StdoutWriter(stream)
  writer.write_scalars(5, {'loss': 1.0, 'eta_seconds': 3725.0})
  writer.write_scalars(5000, {'loss': 0.123456, 'eta_seconds': 5.0})
  writer.flush()
  first, second = stream.getvalue().splitlines()
  assert first.index('eta') == second.index('eta')
  assert first.endswith('1:02:05') and '0.1235' in second


def test_images_of_another_shape_are_refused(tmp_path):
  writer = log.TensorBoardWriter(tmp_path)
  with pytest.raises(ValueError, match='1, 3 or 4 channels'):
    writer.write_images(0, {'x': np.zeros((4, 4))})
  writer.close()
  [events] = tmp_path.iterdir()
  assert events.suffix == f'.{os.getpid()}'  # not that of another process


def test_progress_is_lines_where_there_is_no_terminal(monkeypatch, capsys):
  clock = types.SimpleNamespace(now=0.0)
  clock.monotonic = lambda: clock.now
  monkeypatch.setattr(log, 'time', clock)
  for total, lines in ((30, True), (None, True), (30, False)):
    with log.Progress(total, 10, 'mask', lines=lines) as bar:
      for _ in range(10):
        clock.now += 3
        bar.update()
  assert capsys.readouterr().err.splitlines() == [
    '14/30 masks  0.333/s  eta 0:00:48',
    '18/30 masks  0.333/s  eta 0:00:36',
    '14 masks  0.333/s',
    '18 masks  0.333/s',
  ]


def test_means_average_and_start_again():
  means = log.Means()
  for step, loss in enumerate([1.0, 2.0, 6.0], 1):
    means.add(step, {'loss': jnp.float32(loss), 'is_finite': jnp.float32(1)})
  assert means.first_bad() is None
  assert means.compute() == {'loss': 3.0}
  assert means.compute() == {}
  means.add(4, {'loss': jnp.float32(5)})
  assert means.compute() == {'loss': 5.0}


def test_means_name_the_first_bad_step():
  means = log.Means()
  for step, fine in enumerate([1, 0, 1, 0], 10):
    means.add(step, {'is_finite': jnp.float32(fine)})
  assert means.first_bad()[0] == 11


def test_the_table_names_every_parameter():
  table = log.parameter_table(Toy().init(jax.random.key(0), {}))
  assert 'one/kernel' in table and '58' in table  # 4*8 + 8 + 8*2 + 2


def test_progress_is_silent_elsewhere(capsys):
  with log.Progress(3) as bar:
    bar.update()
    bar.note({'loss': 1.0})
  assert capsys.readouterr().err == ''


def test_progress_goes_on_after_what_was_there(capsys, monkeypatch):
  clock = types.SimpleNamespace(now=0.0)
  clock.monotonic = lambda: clock.now
  monkeypatch.setattr(log, 'time', clock)
  monkeypatch.setattr(log.sys.stderr, 'isatty', lambda: False, raising=False)
  with log.Progress(None, unit='example') as bar:
    bar.start(10)
    bar.total = 30  # known later
    for _ in range(5):
      clock.now += 3
      bar.update()
  assert capsys.readouterr().err == '14/30 examples  0.333/s  eta 0:00:48\n'
