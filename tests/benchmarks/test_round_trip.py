"""True masks through SemFlow's autoencoder."""

import dataclasses
import json

import oracles
import pytest

from benchmarks import common, round_trip
from pix2seqd_jax.experiment import build

CONFIG = 'configs/semflow_shapes.py:smoke'
SMALL = {
  'data.image_size': (32, 32),
  'data.mask_size': (32, 32),
  'eval.num_examples': 4,
  'eval.batch_size': 4,
}


@pytest.fixture(scope='module', params=['smoke', 'dsm,smoke'])
def experiment(request):
  name = f'configs/semflow_shapes.py:{request.param}'
  return build.Experiment(common.load_config(name, SMALL))


def test_a_perfect_autoencoder_loses_what_resizing_loses(
  experiment, monkeypatch
):
  """Until the noise is as wide as the way to the next anchor."""
  model = type(experiment.model)
  monkeypatch.setattr(model, 'latents', lambda self, params, images: images)

  def decode(self, params, x_0, batch):
    semantic, score = self.palette.nearest(x_0)
    found = {'semantic': semantic, 'score': score}
    return {'colors': x_0} if self.resize == 'colors' else found

  monkeypatch.setattr(model, 'decode', decode)
  params = {'frozen': {}}

  def miou(trip=None, perturbation=0):
    found = round_trip.score(experiment, params, trip, perturbation)
    return found['miou']

  alone = miou()
  assert 0.7 < alone < 1  # scenes of 64 x 64, masks of 32 x 32
  spacing = experiment.model.palette.spacing
  trip = round_trip.Trip(experiment.model)
  assert miou(trip, 0.49 * spacing) == alone
  assert miou(trip, spacing) < alone
  colors = dataclasses.replace(experiment.model, resize='colors')
  assert 0.7 < miou(round_trip.Trip(colors)) <= 1


def test_the_command(tmp_path, monkeypatch):
  """An autoencoder that learnt nothing: its own weights are read."""

  def init_from(shapes, entries):
    assert [entry[:3] for entry in entries] == [
      ('runs/vae', 'net/autoencoder', 'frozen/image')
    ]
    image = oracles.random_variables(Drawn(shapes['frozen']['image']))
    return {**shapes, 'frozen': {'image': image}}, ''

  monkeypatch.setattr(round_trip.weights, 'init_from', init_from)
  monkeypatch.setattr(round_trip.weights, 'check_entries', lambda entries: None)
  settings = [f'{key}={value}' for key, value in SMALL.items()]
  argv = ['--config', CONFIG, '--autoencoder', 'runs/vae', '--set', *settings]
  argv += ['--resize', 'labels', '--perturbation', '3', '--out', str(tmp_path)]
  assert round_trip.main(argv) == 0
  alone, row = json.loads((tmp_path / 'results.json').read_text())['rows']
  assert alone['metrics']['miou'] > 0.7 > row['metrics']['miou']
  assert (alone['perturbation'], row['perturbation']) == (None, 3)
  assert '| circle |' in (tmp_path / 'results.md').read_text()


class Drawn:
  """Stands for a module whose parameters have these shapes."""

  def __init__(self, shapes):
    self.init = lambda key: shapes


def test_refusals():
  with pytest.raises(ValueError, match='whose autoencoder'):
    round_trip.main(['--config', CONFIG])
  with pytest.raises(ValueError, match=r"model\.name='pix2seq_d' paints no"):
    round_trip.main(['--config', 'configs/pix2seq_d_shapes.py:smoke'])
