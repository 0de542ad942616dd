"""A conversion before it is made: their name, our path, the shape."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from flax import traverse_util


class Row(NamedTuple):
  """One array: what they call it, where it goes in our tree."""

  theirs: str
  path: tuple[str, ...]
  shape: tuple[int, ...]


class Plan(NamedTuple):
  """What is taken, and {what it is: how many} of all that is passed over."""

  rows: tuple[Row, ...]
  passed_over: Mapping[str, int]

  def tree(self, variables: Mapping[str, Any]) -> dict[str, Any]:
    """Reads the values: {'net': {...}, 'stats': {...}} of NumPy arrays."""
    return traverse_util.unflatten_dict(
      {row.path: np.asarray(variables[row.theirs]) for row in self.rows}
    )

  def lines(self) -> list[str]:
    """A line an array, then one that counts them, then what is left out."""
    size = sum(int(np.prod(row.shape)) for row in self.rows)
    return [
      *(
        f'{row.theirs} -> {"/".join(row.path)} {row.shape}' for row in self.rows
      ),
      f'{len(self.rows)} arrays, {size:,} numbers',
      *(f'passed over: {n} x {what}' for what, n in self.passed_over.items()),
    ]
