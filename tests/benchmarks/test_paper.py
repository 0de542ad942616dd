"""Tables of trained runs, and of steps x td x area from one checkpoint."""

import json
import shutil
import types

import numpy as np
import pytest

from benchmarks import common, ldmseg_tables, paper, paper_tables

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
  # The same checkpoint, steps and images: the same evaluation.
  for key in ('pq', 'pq_things', 'pq_stuff', 'miou', 'pixel_accuracy'):
    assert ours[key] == smoke_run.results[key]
  assert nothing['pq'] == 0  # no segment is that large
  assert 0 < ours['seconds'] == nothing['seconds']
  assert noise['pixel_accuracy'] != ours['pixel_accuracy']
  assert 'With noise for images' in (tmp_path / 'sampling.md').read_text()


def test_a_trained_table(smoke_run, tmp_path, monkeypatch):
  # The row that changes nothing; its run is the shared one, and finished.
  table = paper_tables.TRAINED['codes']
  table = table._replace(rows=table.rows[:1])
  monkeypatch.setitem(paper_tables.TRAINED, 'codes', table)
  folder = tmp_path / 'runs' / 'base-6'
  shutil.copytree(smoke_run.workdir, folder)
  log = (folder / 'metrics.jsonl').read_text()
  argv = ['--table', 'codes', '--config', SMOKE, '--num_examples', '12']
  argv += ['--workdir', str(tmp_path / 'runs'), '--out', str(tmp_path)]
  assert paper.main(argv) == 0
  [row] = result(tmp_path, 'codes')['rows']
  assert row['label'] == 'binary' and row['paper_pq'] is None
  assert row['metrics']['pq'] == smoke_run.results['pq']
  assert (folder / 'metrics.jsonl').read_text() == log


def test_autoencoders_are_handed_their_masks(tmp_path, monkeypatch):
  table = paper.tables()['ldmseg_upscalers']
  table = table._replace(rows=table.rows[:1])
  monkeypatch.setitem(ldmseg_tables.TRAINED, 'ldmseg_upscalers', table)
  argv = ['--table', 'ldmseg_upscalers', '--steps', '3', '--num_examples', '8']
  argv += ['--config', 'configs/ldmseg_autoencoder_shapes.py:smoke']
  argv += ['--workdir', str(tmp_path / 'runs'), '--out', str(tmp_path)]
  assert paper.main(argv) == 0
  [row] = result(tmp_path, 'ldmseg_upscalers')['rows']
  assert row['label'] == '1' and 0 <= row['metrics']['pq'] <= 1


@pytest.fixture
def trained(monkeypatch):
  """Takes the place of training: {folder: config}, and where runs stop."""
  runs = {'stop': None}

  def train(config, folder):
    runs[folder.name] = config
    print('for people')
    return types.SimpleNamespace(step=runs['stop'] or config.train.steps)

  monkeypatch.setattr(paper.runs, 'train', train)
  monkeypatch.setattr(
    paper.workdirs, 'load_params', lambda e, folder, *_, **__: folder
  )
  return runs


def test_variants_have_folders_and_equal_budgets(trained, tmp_path, capsys):
  config = common.load_config(SMOKE, ['model.scale=0.1'])
  for name in ('input_scaling', 'loss'):
    for row in paper_tables.TRAINED[name].rows:
      experiment, folder, _ = paper.train(config, row.overrides, 4, tmp_path)
      assert experiment.loop.steps == 4 and experiment.loop.eval_every == 0
      found = trained[folder.name]
      for key, value in row.overrides.items():
        section, field = key.split('.')
        assert found[section][field] == value
        name = f'{key}={value}-4'
        assert folder.name in (name, 'base-4')
      assert found.seed == config.seed and found.data == config.data
  # b = 0.1 and the softmax change nothing: one run serves both tables.
  assert len(trained) - 1 == 4 + 2 - 1
  assert capsys.readouterr().out == ''  # standard output is for the result


def test_a_run_that_stops_early_is_no_result(trained, tmp_path):
  trained['stop'] = 3
  with pytest.raises(KeyboardInterrupt, match='stopped at step 3'):
    paper.train(common.load_config(SMOKE), {}, 4, tmp_path)


def test_sampling_needs_a_checkpoint(capsys):
  with pytest.raises(SystemExit):
    paper.main(['--table', 'sampling'])
  assert '--checkpoint' in capsys.readouterr().err


def test_noise_takes_the_image_and_leaves_the_truth():
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


def test_postprocesss_share_a_sampling():
  task = paper.ReadOuts({'a': Adds(1), 'b': Adds(10)})
  states = [task.metrics(task.refine(s), meta) for s, meta in ((5, 0), (7, 1))]
  assert states[0].merge(states[1]).compute() == {
    'a': {'total': 15},
    'b': {'total': 33},
  }
