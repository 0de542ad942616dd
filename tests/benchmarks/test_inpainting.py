"""Inpainting over blocks and rates, by a model that has learnt nothing."""

import json

import numpy as np
import pytest
from toy_inpainting import toy_experiment

from benchmarks import inpainting


def test_nearest_fill_is_that_of_brute_force():
  rng = np.random.default_rng(0)
  ids = rng.integers(1, 6, (9, 11))
  known = rng.random(ids.shape) < 0.2
  found = inpainting.nearest_fill(np.where(known, ids, 0), known)
  places = np.argwhere(known)
  for y, x in np.ndindex(ids.shape):
    far = ((places - (y, x)) ** 2).sum(1)
    nearest = {ids[tuple(p)] for p in places[far == far.min()]}
    assert found[y, x] in nearest
  np.testing.assert_array_equal(found[known], ids[known])
  assert not inpainting.nearest_fill(0 * ids, ids < 0).any()


@pytest.fixture(scope='module')
def rows():
  experiment = toy_experiment()
  scorer = inpainting.Scorer(experiment, {}, num_examples=6, steps=2)
  found = inpainting.sweep(scorer, [0.25], [0.0, 0.5, 1.0], ['x0', 'repaint'])
  assert scorer.seconds > 0 and scorer.images > 0
  return found


def test_what_each_method_must_score(rows):
  everything, half, nothing = (row['pq'] for row in rows)
  assert [row['pixels'] for row in rows] == [8] * 3
  # The mask has half of the image's side: not quite 1.
  ceiling = everything['nearest']
  assert ceiling > 0.8
  for how in ('drawn', 'pasted'):
    for variant in ('x0', 'repaint'):
      name = f'{variant}, {how}'
      assert everything[name] == pytest.approx(ceiling, abs=0.05)
      assert nothing[name] == nothing['plain'] == half['plain']
  assert nothing['nearest'] == 0 < half['nearest'] < ceiling


def test_the_verdict_is_of_one_cell(rows):
  said = inpainting.verdict(rows, ['x0', 'repaint'])
  assert 'blocks of a quarter of the side' in said
  pq = {'plain': 0.2, 'nearest': 0.3, 'x0, drawn': 0.4, 'x0, pasted': 0.5}
  row = {'block': 0.25, 'rate': 0.5, 'pq': pq}
  assert '40.0: above' in inpainting.verdict([row], ['x0'])
  pq['nearest'] = 0.5
  assert '40.0: NOT above' in inpainting.verdict([row], ['x0'])
  assert inpainting.verdict([{**row, 'rate': 0.4}], ['x0']) == ''


def test_the_command_writes_a_table_and_a_plot(tmp_path, monkeypatch):
  monkeypatch.setattr(
    inpainting.workdirs, 'load', lambda folder: toy_experiment()
  )
  monkeypatch.setattr(inpainting.workdirs, 'find_step', lambda *args: 7)
  monkeypatch.setattr(
    inpainting.workdirs, 'load_params', lambda *args: {'net': {}}
  )
  argv = ['--workdir', 'runs/toy', '--num', '2', '--steps', '1']
  argv += ['--blocks', '0.5', '--rates', '0.5', '--variants', 'x0']
  assert inpainting.main([*argv, '--out', str(tmp_path)]) == 0
  text = (tmp_path / 'results.md').read_text()
  assert '| block | pixels | dropped | plain | nearest |' in text
  [row] = json.loads((tmp_path / 'results.json').read_text())['rows']
  assert row['pixels'] == 16 and set(row['pq']) == {
    *('plain', 'nearest', 'x0, drawn', 'x0, pasted')
  }
  assert (tmp_path / 'results.png').stat().st_size > 1000
