"""Cells of latents, and the fill of what is not given."""

import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from pix2seqd_jax.encoding import cells


def test_cells_of_two_by_two_pixels():
  given = np.zeros((1, 4, 4), bool)
  given[0, :2, :2] = given[0, 0, 2] = given[0, 3, 3] = True
  given = jnp.asarray(given)
  found = {kind: cells.cells_of(given, 2, kind)[0] for kind in cells.CELLS}
  np.testing.assert_array_equal(found['nearest'], [[1, 1], [0, 0]])
  np.testing.assert_array_equal(found['all'], [[1, 0], [0, 0]])
  np.testing.assert_array_equal(found['any'], [[1, 1], [0, 1]])


@pytest.mark.parametrize('fraction', [0.01, 0.1, 0.7])
@pytest.mark.parametrize('size', [(32, 48), (17, 5)])
def test_the_fill_is_that_by_the_nearest_pixel(size, fraction):
  rng = np.random.default_rng(0)
  given = rng.random((3, *size)) < fraction
  given[:, 2, 3] = True
  ids = rng.integers(0, 200, given.shape).astype(np.int32)
  filled = np.asarray(cells.fill(jnp.asarray(ids), jnp.asarray(given)))
  near = 0
  for one, known, found in zip(ids, given, filled, strict=True):
    assert (found[known] == one[known]).all()
    distance = ndimage.distance_transform_edt(~known)
    # Of several at one distance any will do: none of the ids is nearer.
    for y, x in np.ndindex(size):
      at = np.argwhere(known & (one == found[y, x]))
      near += np.hypot(*(at - (y, x)).T).min() <= distance[y, x] + 1e-6
  assert near / ids.size > 0.995


def test_nothing_given_changes_nothing():
  ids = jnp.arange(24).reshape(1, 4, 6)
  same = cells.fill(ids, jnp.zeros(ids.shape, bool))
  np.testing.assert_array_equal(same, ids)
