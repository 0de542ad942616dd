"""Few places are convolved by patches on CPU: the same numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pix2seqd_jax.architectures import sd_layers

_STRIDES_AND_PADDING = [(1, (1, 1)), (2, (1, 1)), (2, (0, 1)), (1, (0, 0))]


def _values(x, kernel, strides, padding):
  def loss(x, kernel):
    out = sd_layers.convolve(x, kernel, strides, padding)
    return jnp.sum(jnp.sin(out)), out

  return jax.grad(loss, argnums=(0, 1), has_aux=True)(x, kernel)


@pytest.mark.parametrize(('strides', 'padding'), _STRIDES_AND_PADDING)
def test_patches_change_nothing(monkeypatch, strides, padding):
  size = 7, 4  # of an odd side a stride may lose a place
  with jax.enable_x64(True):
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.standard_normal((2, *size, 5)))
    kernel = jnp.asarray(rng.standard_normal((3, 3, 5, 7)))
    ours = _values(x, kernel, strides, padding)
    monkeypatch.setattr(sd_layers, '_FEW_PLACES', -1)
    theirs = _values(x, kernel, strides, padding)
  assert ours[1].dtype == np.float64
  for array, wanted in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs)):
    np.testing.assert_allclose(array, wanted, atol=1e-12)


@pytest.mark.parametrize(('side', 'is_by_patches'), [(16, True), (32, False)])
def test_only_few_places_go_by_patches(side, is_by_patches):
  x, kernel = jnp.zeros((1, side, side, 2)), jnp.zeros((3, 3, 2, 2))
  jaxpr = str(jax.make_jaxpr(sd_layers.convolve)(x, kernel))
  assert ('conv_general_dilated' not in jaxpr) == is_by_patches
