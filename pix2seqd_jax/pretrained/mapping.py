"""A conversion before it is made: their name, our path, the shape."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from flax import traverse_util

# How their array lies against ours. A linear layer may be a convolution of
# size 1 in theirs; both kinds of 4-D kernels (a convolution's OIHW -> HWIO, a
# transposed one's IOHW -> HWOI, which flax takes with transpose_kernel) are
# reversed in the same way.
SAME, LINEAR, CONV = 'same', 'linear', 'conv'


class Row(NamedTuple):
  """One array: what they call it, where it goes in our tree.

  Attributes:
    theirs: its name in the file.
    path: of our array.
    shape: of our array, or of one layer of it.
    index: which layer of a stack it is, if it is one.
    layout: SAME, LINEAR or CONV.
  """

  theirs: str
  path: tuple[str, ...]
  shape: tuple[int, ...]
  index: int | None = None
  layout: str = SAME

  def __str__(self):
    index = '' if self.index is None else f'[{self.index}]'
    return f'{self.theirs} -> {"/".join(self.path)}{index} {self.shape}'


def to_ours(value: np.ndarray, layout: str) -> np.ndarray:
  """Their array as ours: [out, in, ...] -> [..., in, out]; a view."""
  if layout == LINEAR:
    return value.reshape(value.shape[:2]).T
  return value.transpose(2, 3, 1, 0) if layout == CONV else value


def to_theirs(
  value: np.ndarray, layout: str, shape: tuple[int, ...]
) -> np.ndarray:
  """The inverse of `to_ours`, for their shape; a copy."""
  if layout == LINEAR:
    value = value.T
  elif layout == CONV:
    value = value.transpose(3, 2, 0, 1)
  return np.ascontiguousarray(value).reshape(shape)


class Plan(NamedTuple):
  """What is taken, and {what it is: how many} of all that is passed over."""

  rows: tuple[Row, ...]
  passed_over: Mapping[str, int]

  def tree(
    self, variables: Mapping[str, Any], dtype: Any = None
  ) -> dict[str, Any]:
    """Reads the values, one at a time: a tree of NumPy arrays.

    At no time are there two copies of more than one of their arrays.

    Args:
      variables: {their name: anything that NumPy can read}.
      dtype: what floating arrays become; None leaves them.
    """
    depths: dict[tuple[str, ...], int] = {}
    for row in self.rows:
      if row.index is not None:
        depths[row.path] = max(depths.get(row.path, 0), row.index + 1)
    flat: dict[tuple[str, ...], np.ndarray] = {}
    for row in self.rows:
      value = to_ours(np.asarray(variables[row.theirs]), row.layout)
      into = _floating(value, dtype)
      if row.index is None:
        flat[row.path] = np.ascontiguousarray(value, into).reshape(row.shape)
        continue
      if row.path not in flat:
        flat[row.path] = np.empty((depths[row.path], *row.shape), into)
      flat[row.path][row.index] = value
    return traverse_util.unflatten_dict(flat)

  def lines(self) -> list[str]:
    """A line an array, then one that counts them, then what is left out."""
    size = sum(int(np.prod(row.shape)) for row in self.rows)
    return [
      *map(str, self.rows),
      f'{len(self.rows)} arrays, {size:,} numbers',
      *(f'passed over: {n} x {what}' for what, n in self.passed_over.items()),
    ]


def _floating(value: np.ndarray, dtype: Any) -> Any:
  """The type to store: `dtype` for real numbers of any width."""
  # bfloat16 is no np.floating: its kind is 'V'.
  is_real = value.dtype.kind == 'f' or value.dtype.name == 'bfloat16'
  return dtype if dtype is not None and is_real else value.dtype
