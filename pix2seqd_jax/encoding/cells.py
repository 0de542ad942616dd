"""Which cells of a latent are given, where some pixels of a mask are."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Int


def _blocks(given, factor):
  b, h, w = given.shape
  return given.reshape(b, h // factor, factor, w // factor, factor)


# By name; each is called with (pixels [b, h, w], pixels along a cell's side).
CELLS = {
  'nearest': lambda given, factor: given[:, ::factor, ::factor],
  'all': lambda given, factor: _blocks(given, factor).all((2, 4)),
  'any': lambda given, factor: _blocks(given, factor).any((2, 4)),
}


def cells_of(
  given: Bool[Array, 'b h w'], factor: int, kind: str = 'nearest'
) -> Bool[Array, 'b H W']:
  """Cells of factor x factor pixels that are given.

  Args:
    given: True for pixels that are; both sides divisible by the factor.
    factor: of the autoencoder.
    kind: 'nearest', the cell's top left pixel is (arXiv 2401.10227 reduces all
      masks so); 'all' or 'any' of its pixels are.
  """
  return CELLS[kind](given, factor)


def fill(
  ids: Int[Array, 'b h w'], given: Bool[Array, 'b h w']
) -> Int[Array, 'b h w']:
  """Each pixel gets the id of the nearest one that is given.

  By jump flooding (Rong & Tan 2006, "Jump Flooding in GPU"): the nearest but
  for a few ties and corners. Where nothing is given, ids stay.
  """
  h, w = ids.shape[1:]
  y, x = jnp.arange(h)[:, None], jnp.arange(w)
  # Of each pixel the place of the nearest one so far; far away where unknown.
  far = 4 * (h + w)
  rows = jnp.where(given, y, far)
  columns = jnp.where(given, x, far)
  step = 1 << (max(h, w) - 1).bit_length() >> 1
  steps = [step >> i for i in range(step.bit_length())]
  for step in (*steps, 1):
    for dy, dx in ((-1, 0), (1, 0), (0, -1), (0, 1), *_DIAGONALS):
      other = [_moved(at, dy * step, dx * step, far) for at in (rows, columns)]
      is_nearer = _square(other, y, x) < _square((rows, columns), y, x)
      rows, columns = (
        jnp.where(is_nearer, new, old)
        for new, old in zip(other, (rows, columns))
      )
  found = jnp.take_along_axis(
    ids.reshape(len(ids), -1),
    jnp.clip(rows * w + columns, 0, h * w - 1).reshape(len(ids), -1),
    1,
  )
  return jnp.where(rows < far, found.reshape(ids.shape), ids)


_DIAGONALS = ((-1, -1), (-1, 1), (1, -1), (1, 1))


def _square(at, y, x):
  return (at[0] - y) ** 2 + (at[1] - x) ** 2


def _moved(at, dy, dx, fill):
  """What stands dy rows and dx columns away; `fill` beyond the edges."""
  h, w = at.shape[1:]
  pad = ((0, 0), (max(-dy, 0), max(dy, 0)), (max(-dx, 0), max(dx, 0)))
  padded = jnp.pad(at, pad, constant_values=fill)
  top, left = max(dy, 0), max(dx, 0)
  return padded[:, top : top + h, left : left + w]
