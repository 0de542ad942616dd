"""Samplers that are compiled first and then timed at every call."""

import time
from typing import Any

import jax


class Timed:
  """A sampler whose compilation is not counted.

  Attributes:
    seconds, images: of all calls.
  """

  def __init__(self, sample_fn):
    self._sample_fn, self._compiled = sample_fn, {}
    self.seconds, self.images = 0.0, 0

  def __call__(self, params: Any, batch: Any, keys: Any) -> Any:
    """Samples; one program for each set of inputs and each shape."""
    leaves, structure = jax.tree.flatten(batch)
    kind = structure, tuple(leaf.shape for leaf in leaves)
    if kind not in self._compiled:
      lowered = self._sample_fn.lower(params, batch, keys)
      self._compiled[kind] = lowered.compile()
    start = time.perf_counter()
    raw = jax.block_until_ready(self._compiled[kind](params, batch, keys))
    self.seconds += time.perf_counter() - start
    self.images += keys.shape[0]
    return raw
