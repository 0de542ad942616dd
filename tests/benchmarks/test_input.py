"""The benchmark of the input pipeline: its pieces, and that it can fail."""

import pytest

from benchmarks import input as input_


@pytest.mark.parametrize('bar, status', [(0.01, 0), (100.0, 1)])
def test_a_bar_is_met_or_missed(shared, tmp_path, capsys, bar, status):
  assert shared.is_dir()
  arguments = ['--rounds', '1', '--steps', '1', '--bar', str(bar)]
  arguments += ['--root', str(shared / 'data' / 'coco_mini')]
  # So slow a consumer never waits; so fast a one always does.
  assert input_.main([*arguments, '--out', str(tmp_path)]) == status
  assert 'pillow' in capsys.readouterr().out
  assert (tmp_path / 'results.json').is_file()
