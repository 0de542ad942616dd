"""Files of random numbers without memory, peaks of processes, the bars."""

import jax
import numpy as np

from benchmarks import weights_memory


def test_peaks_are_of_the_process():
  small = weights_memory.peak('pass')
  large = weights_memory.peak(f'held = b"x" * {10**8}')
  assert 0.9e8 < large - small < 1.1e8


def test_bars():
  size = 1000
  peaks = {
    weights_memory.IMPORTS: 200,
    'load': 1310,
    'convert': 2190,
    'convert back': 2210,
  }
  rows = weights_memory.judge(peaks, size)
  # Loading counts what imports take, conversions do not.
  assert [row[-1] for row in rows] == [True, False, True, False]
  assert [row[3] for row in rows] == [0, 1.11, 1.99, 2.01]
  peaks['load'] = 1290
  assert weights_memory.judge(peaks, size)[1][-1]


def test_arrays_drawn_when_read():
  array = weights_memory._Random(jax.ShapeDtypeStruct((3, 2, 5), 'float32'))
  assert np.asarray(array).shape == array.shape
  assert np.asarray(array[1]).shape == (2, 5)
  assert np.asarray(array).dtype == array.dtype
