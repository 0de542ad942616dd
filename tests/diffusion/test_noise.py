import gaussian
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pix2seqd_jax.diffusion import noise


def test_an_examples_noise_is_its_own():
  keys = gaussian.keys(6)
  shape = lambda b: jax.ShapeDtypeStruct((b, 3, 4), jnp.float32)
  every = noise.noise_like(keys, shape(6))
  some = noise.noise_like(keys[jnp.asarray([4, 1])], shape(2))
  np.testing.assert_array_equal(some, every[jnp.asarray([4, 1])])
  assert len(np.unique(every)) == every.size


def test_leaves_and_steps_do_not_share_noise():
  keys = gaussian.keys(2)
  x = jnp.zeros((2, 5))
  draws = noise.noise_like(keys, {'a': x, 'b': x})
  later = noise.noise_like(noise.fold_step(keys, 1), {'a': x, 'b': x})
  first = noise.noise_like(noise.fold_step(keys, 0), {'a': x, 'b': x})
  values = np.concatenate(
    [np.ravel(v) for v in jax.tree.leaves((draws, first, later))]
  )
  assert len(np.unique(values)) == values.size


def test_noise_is_standard_normal():
  draws = noise.noise_like(gaussian.keys(4), jnp.zeros((4, 50, 50)))
  assert abs(float(draws.mean())) < 0.04
  assert float(draws.std()) == pytest.approx(1, abs=0.03)


def test_noise_is_at_least_float32():
  draws = noise.noise_like(gaussian.keys(2), jnp.zeros((2, 3), jnp.bfloat16))
  assert draws.dtype == jnp.float32


def test_one_key_an_example():
  with pytest.raises(ValueError, match='3 keys'):
    noise.noise_like(gaussian.keys(3), jnp.zeros((2, 5)))
