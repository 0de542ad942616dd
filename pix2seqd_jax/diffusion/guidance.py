"""Classifier-free guidance: Ho and Salimans, arXiv 2207.12598."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from pix2seqd_jax.types import Prediction


def guide(
  denoise: Callable,
  condition: Any,
  null: Any,
  scale: float | int,
) -> Callable:
  """(x_t, t, previous) -> Prediction, at `scale` times the condition's pull.

      value = value(null) + scale (value(condition) - value(null))

  scale = 1 is the condition alone, as in diffusers: no doubled batch, and
  `null` is not looked at. 0 is the unconditional answer. (PDM's gamma and the
  paper's w count from there: scale = 1 + gamma.) Else each call of the network
  is one call on 2 b examples, whatever the trees. What is combined is the
  prediction; endpoints and clipping follow, in sampling.sample.

  Args:
    denoise: (x_t, t, condition, previous) -> Prediction.
    condition: a tree of [b, ...].
    null: the same tree without the condition; leaves [b, ...] or [1, ...].
    scale: of guidance.

  Raises:
    ValueError: there is no null, or it is another tree than the condition.
  """
  if scale == 1:
    return lambda x_t, t, previous: denoise(x_t, t, condition, previous)
  both = _pair(condition, _null_like(condition, null, scale))

  def guided(x_t, t, previous):
    pair = lambda tree: _pair(tree, tree)
    value = denoise(pair(x_t), pair(t), both, pair(previous)).value

    def combine(v):
      given, none = v[0::2], v[1::2]
      return none + scale * (given - none)

    return Prediction(jax.tree.map(combine, value))

  return guided


def check_null(null: Any, scale: float | int) -> None:
  """Raises ValueError where guidance has nothing to start from."""
  if null is None:
    raise ValueError(
      f'sample.guidance={scale} needs an answer without the condition, which '
      'this model does not have (encode gives no null); set it to 1.0.'
    )


def _pair(one, other):
  """[b, ...] twice -> [2 b, ...], side by side: a batch that is split over
  devices stays where it is."""

  def leaf(a, b):
    return jnp.stack([a, b], 1).reshape(-1, *a.shape[1:])

  return jax.tree.map(leaf, one, other)


def _null_like(condition, null, scale):
  """The null for each example."""
  check_null(null, scale)
  trees = [jax.tree.structure(t) for t in (condition, null)]
  if trees[0] != trees[1]:
    raise ValueError(
      f'guidance: condition {trees[0]} and null {trees[1]} must be alike.'
    )
  return jax.tree.map(
    lambda c, n: jnp.broadcast_to(n, c.shape).astype(c.dtype), condition, null
  )
