"""The benchmark runs, and its loops over segments count what ours counts."""

import json
import os
import pathlib
import subprocess
import sys

REPO = pathlib.Path(__file__).resolve().parents[2]


def test_loops_over_segments_agree():
  # The command compares all counts of each image to 1e-12 while it times.
  arguments = '--size 48 64 --images 4 --repeats 1 --noise 0 0.1 --bar 1e9'
  done = subprocess.run(
    [sys.executable, 'benchmarks/panoptic_quality.py', *arguments.split()],
    cwd=REPO,
    env={**os.environ, 'PYTHONPATH': str(REPO)},
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, done.stderr
  rows = [json.loads(line) for line in done.stdout.splitlines()]
  assert [row['noise'] for row in rows] == [0, 0.1]
  assert all(row['ours_ms'] > 0 and row['reference_ms'] > 0 for row in rows)
