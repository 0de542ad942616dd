"""TensorFlow's checkpoints (format V2) as arrays by name; the extra `tf`."""

import os
from typing import Any

import numpy as np

_FIX = (
  'name the folder, or a prefix such as FOLDER/ckpt-400000, of which there '
  'are PREFIX.index and PREFIX.data-00000-of-00001'
)


class Variable:
  """An array in a checkpoint: its shape is known, its values are read late."""

  def __init__(self, reader: Any, name: str, shape: tuple[int, ...]):
    self._reader, self._name = reader, name
    self.shape = shape

  def __array__(self, dtype=None, copy=None):
    try:
      value = self._reader.get_tensor(self._name)
    except Exception as error:  # TensorFlow's have no common class
      raise ValueError(
        f'{self._name} cannot be read, the checkpoint is damaged: '
        f'{_brief(error)}. Fetch it again.'
      ) from error
    return np.asarray(value, dtype)


def read(path: str | os.PathLike) -> dict[str, Variable]:
  """{name in the graph of objects: array} of a checkpoint.

  Args:
    path: a prefix (`ckpt-7`), its `.index` file, or a folder, which means the
      newest checkpoint in it. What TensorFlow can open (gs://...) will do.

  Raises:
    ValueError: TensorFlow is not installed, or this is no checkpoint.
  """
  try:
    import tensorflow as tf
  except ImportError as error:
    raise ValueError(
      'a TensorFlow checkpoint is read by TensorFlow, which is not installed: '
      "pip install 'pix2seqd_jax[tf]' (the extra `tf`)."
    ) from error
  path = os.fspath(path).removesuffix('.index')
  try:
    reader = tf.train.load_checkpoint(path)
    shapes = reader.get_variable_to_shape_map()
  except Exception as error:
    raise ValueError(
      f'{path} is no TensorFlow checkpoint: {_brief(error)}; {_FIX}.'
    ) from error
  return {n: Variable(reader, n, tuple(shapes[n])) for n in sorted(shapes)}


def _brief(error: Exception) -> str:
  return ' '.join(str(error).split())[:300].rstrip('.')
