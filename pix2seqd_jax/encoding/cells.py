"""Which cells of a latent are given, where some pixels of a mask are."""

from jaxtyping import Array, Bool


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
