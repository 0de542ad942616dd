import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pix2seqd_jax.architectures import positions


def test_halves_encode_y_and_x():
  table = positions.table_2d(3, 5, 8).reshape(3, 5, 8)
  y, x = table[..., :4], table[..., 4:]
  assert (y == y[:, :1]).all()
  assert (x == x[:1]).all()
  np.testing.assert_allclose(
    table[..., :2] ** 2 + table[..., 2:4] ** 2, 1
  )  # sine and cosine of the same angle


@pytest.mark.parametrize('size', [(16, 16), (64, 48), (3, 2)])
def test_corners_have_the_same_code_at_any_resolution(size):
  table = positions.table_2d(*size, 16)
  reference = positions.table_2d(4, 4, 16)
  corners = [0, size[1] - 1, -size[1], -1]
  np.testing.assert_allclose(table[corners], reference[[0, 3, -4, -1]])


def test_one_row_one_column_and_one_place():
  line = positions.table_1d(9, 8)
  assert (positions.table_2d(1, 9, 8) == line).all()
  assert (positions.table_2d(9, 1, 8) == line).all()
  assert np.isfinite(positions.table_2d(1, 1, 8)).all()


@pytest.mark.parametrize('dim', [0, 7])
def test_odd_width(dim):
  with pytest.raises(ValueError, match='needs an even width'):
    positions.table_1d(4, dim)


def test_time_is_embedded_in_float32():
  module = positions.TimeEmbedding(dim=8, scaling=1000.0, dtype=jnp.bfloat16)
  # Two times that bfloat16 cannot tell apart.
  time = jnp.asarray([0.5, 0.5005])
  variables = module.init(jax.random.key(0), time)
  first, second = module.apply(variables, time)
  assert first.dtype == jnp.float32
  assert jnp.abs(first - second).max() > 1e-3
