"""Denoiser calls and compilations are counted exactly."""

import json

from benchmarks import sampling_cost


def test_calls_and_compilations(tmp_path):
  argv = ['--config', 'configs/pix2seq_d_shapes.py:smoke', '--steps', '3']
  # Times of so small a network tell nothing: any deviation passes.
  argv += ['--repeats', '2', '--bar', '1e9', '--out', str(tmp_path)]
  assert sampling_cost.main(argv) == 0
  found = json.loads((tmp_path / 'results.json').read_text())
  [row] = found['rows']
  assert row['denoiser_calls'] == row['steps'] == 3
  assert row['encoder_calls'] == row['compilations'] == 1
  assert row['predicted'] == found['encoder'] + 3 * found['denoiser']
  assert row['seconds'] > 0
