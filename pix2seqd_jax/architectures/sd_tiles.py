"""An autoencoder on images too large for it: overlapping tiles, blended.

All tiles have one size and go through the network one after another, so it is
compiled once and its memory is that of one tile; only the result is whole.
The network sees no further than a tile: its normalisation and its attention
are those of a tile, hence an approximation.

  @jax.jit  # else it is compiled again at each call
  def decode(variables, z):
    def tile(z):
      return vae.apply(variables, z, 0.18215, method='decode')

    return sd_tiles.decode_tiled(tile, z)
"""

import math
from collections.abc import Callable
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, PyTree

from pix2seqd_jax.architectures import layers


def decode_tiled(
  decode_fn: Callable[[Array], PyTree],
  z: Float[Array, 'b h w c'],
  tile: int = 64,
  overlap: int = 16,
) -> PyTree:
  """Decodes tiles of latents and blends the images linearly.

  Tiles are spread evenly, as few as cover the latent. A latent that is no
  larger than a tile is decoded as it is; a side that is shorter than a tile
  shortens the tiles.

  Args:
    decode_fn: latents [b, h, w, c] -> an array [b, f h, f w, d], or a tree of
      such, for some whole f.
    z: latents of any height and width.
    tile: side of a tile, in places of the latent.
    overlap: of neighbours, at least: 0 to tile / 2.

  Returns:
    What `decode_fn` would, up to what it sees beyond a tile.

  Raises:
    ValueError: a tile or an overlap out of range; a result of another size, or
      of numbers that cannot be blended.
  """
  return _tiled(decode_fn, z, tile, overlap)


def encode_tiled(
  encode_fn: Callable[[Array], PyTree],
  x: Float[Array, 'b h w c'],
  tile: int = 512,
  overlap: int = 128,
) -> PyTree:
  """The same for an encoder, which makes [b, h / f, w / f, d].

  The moments are blended: means, and logarithms of variances. `tile`,
  `overlap` and the sides of `x` are pixels, and divisible by f.
  """
  return _tiled(encode_fn, x, tile, overlap)


def _tiled(fn, x, tile, overlap):
  if tile < 1 or not 0 <= 2 * overlap <= tile:
    raise ValueError(
      f'tile={tile}, overlap={overlap}: a tile must be at least 1, and the '
      'overlap from 0 to half of it.'
    )
  b, *size, c = x.shape
  sides = [min(tile, side) for side in size]
  if sides == size:
    return fn(x)
  shapes = jax.eval_shape(fn, jax.ShapeDtypeStruct((b, *sides, c), x.dtype))
  ratio = _ratio(shapes, b, sides)
  for name, value in (('overlap', overlap), *(('side', n) for n in size)):
    if value % ratio.denominator:
      raise ValueError(
        f'{name} {value} must be divisible by {ratio.denominator}, the pixels '
        'of an image along one side of a latent.'
      )
  rows, columns = (
    _axis(length, side, overlap, ratio) for length, side in zip(size, sides)
  )
  i, j = np.indices((len(rows[0]), len(columns[0]))).reshape(2, -1)
  steps = [a[i] for a in rows], [a[j] for a in columns]

  def add(whole, step):
    (top, y, row_weights), (left, u, column_weights) = step
    piece = fn(lax.dynamic_slice(x, (0, top, left, 0), (b, *sides, c)))
    weights = row_weights[:, None, None] * column_weights[:, None]

    def blend(canvas, values):
      at = (0, y, u, 0)
      before = lax.dynamic_slice(canvas, at, values.shape)
      after = before + values * weights.astype(canvas.dtype)
      return lax.dynamic_update_slice(canvas, after, at)

    return jax.tree.map(blend, whole, piece), None

  def canvas(leaf):
    height, width = (int(side * ratio) for side in size)
    shape = (b, height, width, leaf.shape[-1])
    return jnp.zeros(shape, layers.wide(leaf.dtype))

  whole, _ = lax.scan(add, jax.tree.map(canvas, shapes), steps)
  return jax.tree.map(lambda a, leaf: a.astype(leaf.dtype), whole, shapes)


def _ratio(shapes, b, sides) -> Fraction:
  """Side of the result over side of the tile; one for all leaves."""
  found = {
    (leaf.shape[0], *(Fraction(n, m) for n, m in zip(leaf.shape[1:3], sides)))
    for leaf in jax.tree.leaves(shapes)
    if len(leaf.shape) == 4
  }
  kinds = {leaf.dtype.name for leaf in jax.tree.leaves(shapes)}
  if not all(jnp.issubdtype(kind, jnp.floating) for kind in kinds):
    raise ValueError(
      f'tiles of {", ".join(sorted(kinds))} cannot be blended: return real '
      'numbers, and round them or take their argmax afterwards.'
    )
  flat = [leaf.shape for leaf in jax.tree.leaves(shapes)]
  if len(found) == 1 and all(len(shape) == 4 for shape in flat):
    ((batch, ratio, other),) = found
    if batch == b and ratio == other and 1 in ratio.as_integer_ratio():
      return ratio
  raise ValueError(
    f'a tile of {sides} became {flat}: it must become [b, height, width, c] '
    'of sides multiplied, or divided, by one whole number.'
  )


def _axis(length, side, overlap, ratio):
  """Of each tile along one axis: its start, that of its result, weights.

  The weights fall to an edge as a straight line over the overlap; at each
  place they are divided by their sum over all tiles, so that they sum to 1.
  """
  unit = ratio.denominator
  free, step = (length - side) // unit, (side - overlap) // unit
  count = 1 + math.ceil(free / step) if free else 1
  starts = [i * free // max(count - 1, 1) * unit for i in range(count)]
  results = [int(start * ratio) for start in starts]
  n, ramp = int(side * ratio), max(1, int(overlap * ratio))
  edge = np.minimum(np.arange(n), np.arange(n)[::-1]) + 0.5
  raw = np.minimum(edge / ramp, 1.0)
  total = np.zeros(int(length * ratio))
  for start in results:
    total[start : start + n] += raw
  weights = [raw / total[start : start + n] for start in results]
  return np.array(starts), np.array(results), np.array(weights)
