"""HSV: colorsys' values, its own inverse, alike on host and device."""

import colorsys

import jax.numpy as jnp
import numpy as np
import pytest

from pix2seqd_jax.encoding import hsv

COLORS = np.stack(np.meshgrid(*[np.linspace(0, 1, 6)] * 3), -1).reshape(-1, 3)


@pytest.mark.parametrize('xp', [np, jnp])
def test_values_and_inverse(xp):
  channels = [xp.asarray(COLORS[:, c], np.float32) for c in range(3)]
  found = hsv.from_rgb(*channels, xp)
  expected = np.array([colorsys.rgb_to_hsv(*color) for color in COLORS])
  np.testing.assert_allclose(np.stack(found, -1), expected, atol=1e-6)
  back = hsv.to_rgb(*found, xp)
  assert back.dtype == np.float32
  np.testing.assert_allclose(back, COLORS, atol=1e-6)
