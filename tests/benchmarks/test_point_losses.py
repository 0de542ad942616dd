"""Peaks above what was there, plans of the program, the bar."""

import subprocess
import sys

import numpy as np

from benchmarks import point_losses


def test_peaks_are_above_what_was_there():
  """In a process of its own: a peak is the highest since its start."""
  code = """
import numpy as np
from benchmarks import point_losses
held = np.ones(10**7)  # 80 MB, in memory before
print(point_losses.peak_of(lambda: np.ones(5 * 10**6).sum()))
print(point_losses.resident('VmRSS') - held.nbytes)
"""
  command = [sys.executable, '-c', code]
  told = subprocess.run(command, capture_output=True, text=True, check=True)
  most, rest = map(float, told.stdout.split())
  assert 3.5e7 < most < 6e7 and rest > 0


def test_every_id_shows():
  ids = point_losses.scenes(8, 16, 3)
  assert ids.shape == (3, 16, 16)
  assert all((np.unique(one) == np.arange(8)).all() for one in ids)
  assert (ids[0] != ids[1]).any()


def test_the_plan_has_the_gradient():
  made = point_losses.compiled(8, labels=16, num_ids=4, batch=2, points=16)
  plan = point_losses.planned(made)
  size = 2 * 8 * 8 * 4 * 4
  assert size <= plan['gradient'] < size + 64
  assert plan['temporary'] > 0


def test_the_bar():
  plans = {side: {'gradient': 2**29, 'temporary': 2**30} for side in (256, 512)}
  rows = point_losses.judge(plans, {256: 3 * 2**30 - 1})
  assert rows[0] == ['256 x 256', 512, 1024, 1536, 3072, 2560, True]
  assert rows[1][3:] == [1536, None, None, None]
  assert point_losses.judge(plans, {256: 3 * 2**30})[0][-1] is False
