"""Importing the package registers every data set, and costs little."""

import pathlib
import re
import subprocess
import sys

from pix2seqd_jax import data
from pix2seqd_jax.registry import DATASETS


def test_no_data_set_was_forgotten():
  folder = pathlib.Path(data.__file__).parent
  names = set()
  for path in folder.rglob('*.py'):
    names |= set(re.findall(r"DATASETS\.register\('(\w+)'\)", path.read_text()))
  assert names and all(name in DATASETS for name in names)


def test_grain_is_imported_only_when_batches_are_made():
  code = (
    'import sys, pix2seqd_jax.data; import pix2seqd_jax.data.pipeline;'
    'import pix2seqd_jax.data.formats.writers;'
    'print([m for m in ("grain", "flax", "torch", "tensorflow", "matplotlib")'
    ' if m in sys.modules])'
  )
  done = subprocess.run(
    [sys.executable, '-c', code], capture_output=True, text=True, check=True
  )
  assert done.stdout.strip() == '[]'
