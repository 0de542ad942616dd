import json

from benchmarks import fid_memory


def test_two_processes_are_compared(tmp_path, monkeypatch):
  """Small ones: nothing is measured here."""
  argv = ['--images', '6', '--width', '4', '--out', str(tmp_path)]
  assert fid_memory.main(argv) == 0
  peaks = json.loads((tmp_path / 'results.json').read_text())['peaks']
  assert min(peaks.values()) > 10 * 2**20
  taken = iter([0, fid_memory.LIMIT])
  monkeypatch.setattr(fid_memory, 'peak', lambda script: next(taken))
  assert fid_memory.main(argv) == 1
  assert 'NOT below 2 GiB' in (tmp_path / 'results.md').read_text()
