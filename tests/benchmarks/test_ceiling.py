"""The truth sent through a mask."""

import json

import numpy as np
import pytest

from benchmarks import ceiling, common


def test_nothing_is_lost_at_the_images_own_size():
  # Scenes of 64 x 64 through a mask of 64 x 64: PQ of the truth is 1.
  config = common.load_config('configs/pix2seq_d_shapes.py')
  found = [
    ceiling.ceiling(experiment, experiment.source('eval'), 4)
    for experiment in (
      ceiling.experiment_of(config, ceiling.Setting(mask, 1, ids), 0)
      for mask, ids in ((64, 64), (16, 64), (64, 3))
    )
  ]
  assert found[0]['pq'] == pytest.approx(1)
  assert found[1]['pq'] < 1  # too small a mask
  assert found[2]['pq'] < 1  # two ids for every scene
  assert np.isfinite(list(found[1].values())).all()


def test_nuclei(shared, tmp_path):
  root = shared / 'data' / 'nuclei'
  argv = ['--set', f'data.root={root}', '--mask', '64', '256']
  argv += ['--image_factor', '1', '--num_examples', '4']
  assert ceiling.main([*argv, '--out', str(tmp_path)]) == 0
  small, large = json.loads((tmp_path / 'results.json').read_text())['rows']
  assert (small['mask'], large['mask']) == (64, 256)
  key = 'pq_class/nucleus'
  assert 0 < small['metrics'][key] < large['metrics'][key] <= 1
  assert '| nucleus |' in (tmp_path / 'results.md').read_text()
