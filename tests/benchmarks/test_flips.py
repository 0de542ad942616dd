"""No damage to a checkpoint is silent; what it costs to know."""

import jax.numpy as jnp
import pytest

from benchmarks import flips
from pix2seqd_jax.train import state
from pix2seqd_jax.train.checkpoints import archive


@pytest.fixture(scope='module')
def saved(tmp_path_factory):
  weights = {'net': {'kernel': jnp.arange(600.0).reshape(20, 30)}, 'stats': {}}
  made = state.TrainState(
    step=jnp.int32(0),
    params={**weights, 'frozen': {'scale': jnp.ones(3)}},
    ema=weights,
    opt_state={'mu': weights['net']},
  )
  return flips.save_run(made, tmp_path_factory.mktemp('flips'))


def test_no_damage_is_silent(saved):
  counts = flips.damage_all(saved, 20, seed=1, starts=1)
  assert set(counts) == set(flips.KINDS) and counts['flipped']['cases'] == 20
  for row in counts.values():
    assert row['found'] == row['cases'] > 0 == row['silent'] + row['failed']
    assert row['starts'] == 1


def test_damage_that_is_not_found_is_counted(saved, monkeypatch, capfd):
  """Without the manifest's word, flips are silent: the counts can tell."""
  files = [p for p in saved.files() if 'd' in p.parts and 'params' in p.parts]
  largest = max(files, key=lambda path: path.stat().st_size)
  case = flips.Case('flipped', largest, largest.stat().st_size // 2, 1)
  monkeypatch.setattr(flips, 'cases', lambda *_: [case])
  monkeypatch.setattr(flips, 'is_found', lambda *_: False)
  monkeypatch.setattr(flips, 'harmless', lambda *_: False)
  monkeypatch.setattr(flips, 'start', lambda *_: 'no start')
  row = flips.damage_all(saved, 1, seed=0)['flipped']
  assert row['silent'] == row['failed'] == 1 and row['found'] == 0
  assert 'SILENT' in capfd.readouterr().err
  assert archive.damage(saved.newest) == []  # mended


def test_the_time_of_a_manifest_is_measured(tmp_path):
  seconds = flips.time_saves(tmp_path / 'timed', megabytes=2, repeats=1)
  assert set(seconds) == {'with', 'without', 'save', 'manifest'}
  assert seconds['manifest'] > 0 and 0 < seconds['with'] < seconds['save']
