"""Ratios are PyTorch's time over ours; the same weights give the same."""

import numpy as np
import pytest

from benchmarks import networks


def _found(ours, theirs, difference=0.0):
  seconds = {'ours': ours, 'theirs': theirs}
  return {'what': 'net', 'difference': difference, 'seconds': seconds}


def test_ratios():
  line = networks.row(_found([2.0, 5.0, 4.0], [3.0, 1.0, 2.0]), 0.5)
  assert line[3] == '0.50'  # 1 / 2
  assert line[6] == '0.50'  # 2 / 4
  assert line[-1]


@pytest.mark.parametrize(
  ('theirs', 'difference'), [(0.4, 0), (1.0, 1e-4), (1.0, np.nan)]
)
def test_slow_or_different_fails(theirs, difference):
  assert not networks.row(_found([1.0], [theirs], difference), 0.5)[-1]


def test_a_small_pair():
  pytest.importorskip('diffusers')
  torch = pytest.importorskip('torch')
  pair = networks.unet(
    sample_size=8,
    block_out_channels=(32, 64),
    down_block_types=('CrossAttnDownBlock2D', 'DownBlock2D'),
    up_block_types=('UpBlock2D', 'CrossAttnUpBlock2D'),
    layers_per_block=1,
  )
  with torch.no_grad():
    found = networks.measure(pair, repeats=2)
  assert found['difference'] < networks.MOST_DIFFERENCE
  assert all(len(times) == 2 for times in found['seconds'].values())
