"""Tables of trained runs, and of steps x td x area from one checkpoint."""

import json

import numpy as np
import pytest

from benchmarks import common, paper, paper_tables

SMOKE = 'configs/pix2seq_d_shapes.py:smoke'


def result(folder, name):
  assert (folder / f'{name}.md').read_text().startswith('### ')
  return json.loads((folder / f'{name}.json').read_text())


def test_sampling_from_one_checkpoint(smoke_run, tmp_path):
  sample, usual = smoke_run.config.sample, smoke_run.config.task.min_pixels
  argv = ['--table', 'sampling', '--checkpoint', str(smoke_run.workdir)]
  argv += ['--sample_steps', str(sample.steps), '--td', str(sample.td)]
  argv += ['--min_pixels', '100000', str(usual)]
  argv += ['--num_examples', '12', '--out', str(tmp_path)]
  assert paper.main(argv) == 0
  rows = result(tmp_path, 'sampling')['rows']
  assert [(r['min_pixels'], r['noise']) for r in rows] == [
    (usual, False),
    (100000, False),
    (usual, True),
  ]
  ours, nothing, noise = (row['metrics'] for row in rows)
  # The same checkpoint, steps and pictures: the same evaluation.
  for key in ('pq', 'pq_things', 'pq_stuff', 'miou', 'pixel_accuracy'):
    assert ours[key] == smoke_run.results[key]
  assert nothing['pq'] == 0  # no segment is that large
  assert 0 < ours['seconds'] == nothing['seconds']
  assert noise['pixel_accuracy'] != ours['pixel_accuracy']
  assert 'With noise for pictures' in (tmp_path / 'sampling.md').read_text()


def test_a_trained_table(tmp_path, monkeypatch):
  # The row that changes nothing, so that its program is the shared run's.
  table = paper_tables.TRAINED['codes']
  table = table._replace(rows=table.rows[:1])
  monkeypatch.setitem(paper_tables.TRAINED, 'codes', table)
  argv = ['--table', 'codes', '--config', SMOKE, '--num_examples', '8']
  argv += ['--workdir', str(tmp_path / 'runs'), '--out', str(tmp_path)]
  assert paper.main(argv) == 0
  [row] = result(tmp_path, 'codes')['rows']
  assert row['label'] == 'binary' and row['paper_pq'] is None
  assert 0 <= row['metrics']['pq'] <= 1
  [folder] = (tmp_path / 'runs').iterdir()
  assert folder.name == 'base-6'
  log = (folder / 'metrics.jsonl').read_text()
  assert paper.main(argv) == 0  # finished: used again
  assert (folder / 'metrics.jsonl').read_text() == log
  [again] = result(tmp_path, 'codes')['rows']
  for metrics in (row['metrics'], again['metrics']):
    metrics.pop('seconds')
    metrics.pop('images_per_second', None)
  assert again == row


def test_sampling_needs_a_checkpoint(capsys):
  with pytest.raises(SystemExit):
    paper.main(['--table', 'sampling'])
  assert '--checkpoint' in capsys.readouterr().err


def test_noise_takes_the_picture_and_leaves_the_truth():
  image = np.zeros((2, 4, 4, 3), np.uint8)
  batch = {
    'image': image,
    'valid': np.ones((2, 4, 4), bool),
    'meta': ['x', 'y'],
  }
  [noisy] = paper.with_noise(iter([batch]), seed=0)
  assert noisy['image'].shape == image.shape
  assert noisy['image'].dtype == np.uint8 and noisy['image'].std() > 50
  assert noisy['valid'] is batch['valid'] and noisy['meta'] is batch['meta']
  assert not image.any()


class Adds:
  """A task that adds its number to what it is given."""

  def __init__(self, number):
    self.number = number

  def refine(self, segmentation):
    return segmentation + self.number

  def metrics(self, segmentation, meta):
    return Total(segmentation + meta)


class Total:
  def __init__(self, value):
    self.value = value

  def merge(self, other):
    return Total(self.value + other.value)

  def compute(self):
    return {'total': self.value}


def test_read_outs_share_a_sampling():
  task = paper.ReadOuts({'a': Adds(1), 'b': Adds(10)})
  states = [task.metrics(task.refine(s), meta) for s, meta in ((5, 0), (7, 1))]
  assert states[0].merge(states[1]).compute() == {
    'a': {'total': 15},
    'b': {'total': 33},
  }


def test_changes_are_told_from_the_model_where_the_config_is_silent():
  config = common.load_config(SMOKE)
  experiment = paper.build.Experiment(config)
  assert 'bits_kind' not in config.model
  assert paper._current(experiment, 'model.bits_kind') == 'binary'
  assert paper._current(experiment, 'model.scale') == config.model.scale
