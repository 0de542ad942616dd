"""The batch at which a run broke, written down for whoever looks into it."""

import os
import pathlib
from collections.abc import Callable, Sequence

import jax
import numpy as np

from pix2seqd_jax import types


def dump(
  workdir: str | os.PathLike,
  step: int,
  batch: types.Batch,
  files_of: Callable[[Sequence[int]], Sequence[str]] | None = None,
) -> pathlib.Path:
  """Writes this process's rows to WORKDIR/bad_batch_<step>.npz.

  With several processes, each writes bad_batch_<step>_process_<p>.npz.

  Args:
    workdir: the run's folder.
    step: that was fed with the batch, from 1.
    batch: of the host: its arrays are written, under their names.
    files_of: indices of examples -> their files, written as `files`.

  Returns:
    The path; np.load(path, allow_pickle=False) reads it.
  """
  arrays = {
    k: np.asarray(v) for k, v in batch.items() if k not in types.HOST_KEYS
  }
  if files_of is not None and 'index' in arrays:
    arrays['files'] = np.array(
      [str(f) for f in files_of(arrays['index'].tolist())], np.str_
    )
  name = f'bad_batch_{step}'
  if jax.process_count() > 1:
    name += f'_process_{jax.process_index()}'
  path = pathlib.Path(workdir) / f'{name}.npz'
  path.parent.mkdir(parents=True, exist_ok=True)
  # Arrays of objects could only be read by pickle.
  plain = {k: v for k, v in arrays.items() if v.dtype.kind != 'O'}
  np.savez_compressed(path, **plain)
  return path
