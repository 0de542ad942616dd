"""The benchmark of exports: small, and able to fail."""

import json

from benchmarks import exports


def test_a_small_image(tmp_path, monkeypatch):
  # Times of so small an image say nothing; memory does.
  monkeypatch.setattr(exports, 'LEAST_SPEEDUP', 0)
  argv = ['--megapixels', '0.3', '--segments', '5', '60', '--repeats', '1']
  assert exports.main([*argv, '--out', str(tmp_path)]) == 0
  found = json.loads((tmp_path / 'results.json').read_text())
  assert found['missed'] == [] and len(found['rows']) == 8


def test_a_stack_of_masks_is_a_miss():
  rows = {exports._SORTING: (1.0, 30.0), exports._OVERLAY: (0.5, 10.0)}
  many = rows | {exports._OVERLAY: (0.5, 400.0)}
  missed = exports.misses({5: rows, 400: many}, 5, 400)
  assert len(missed) == 3
