"""Noise that belongs to an example, not to its place in a batch."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Key

from pix2seqd_jax.types import FIRST_SAMPLE


def noise_like(keys: Key[Array, 'b'], tree: Any) -> Any:
  """Standard normal noise in the shape of a tree of [b, ...].

  Example i's noise depends on keys[i] and the leaf alone: not on the batch
  size, the position or the devices. Leaf number j draws from fold_in(key, j).

  Args:
    keys: one typed PRNG key an example.
    tree: arrays or `jax.ShapeDtypeStruct`s [b, ...]; the noise has their
      type, at least float32.

  Raises:
    ValueError: a leaf has another number of examples than there are keys.
  """
  leaves, structure = jax.tree.flatten(tree)
  draws = []
  for j, leaf in enumerate(leaves):
    if leaf.shape[:1] != keys.shape:
      raise ValueError(
        f'{keys.shape[0]} keys for a state of shape {leaf.shape}; give one '
        'key for each example.'
      )
    dtype = jnp.promote_types(leaf.dtype, jnp.float32)

    def draw(key, j=j, shape=leaf.shape[1:], dtype=dtype):
      return jax.random.normal(jax.random.fold_in(key, j), shape, dtype)

    draws.append(jax.vmap(draw)(keys))
  return jax.tree.unflatten(structure, draws)


def normal(keys: Key[Array, 'b'], shape: tuple[int, ...]) -> Any:
  """noise_like for an array [b, *shape], float32."""
  like = jax.ShapeDtypeStruct((*keys.shape, *shape), jnp.float32)
  return noise_like(keys, like)


def fold_sample(keys: Key[Array, 'b'], sample: int) -> Key[Array, 'b']:
  """The keys of one of several samples of each example.

  Those of the first are the examples' own: alone or the first of many, it is
  the same sample.
  """
  if not sample:
    return keys
  number = jnp.uint32(FIRST_SAMPLE + sample)
  return jax.vmap(jax.random.fold_in, (0, None))(keys, number)


def fold_step(keys: Key[Array, 'b'], step: Any) -> Key[Array, 'b']:
  """The keys of one step of a sampler, apart from those of all others."""
  return jax.vmap(jax.random.fold_in, (0, None))(keys, step)
