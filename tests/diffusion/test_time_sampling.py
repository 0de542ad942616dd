import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pix2seqd_jax.diffusion import time_sampling


def test_uniform_times_fill_their_interval():
  for make in (time_sampling.Uniform, time_sampling.Discrete):
    t = make(low=0.25, high=0.75).sample(jax.random.key(0), 4000)
    assert t.shape == (4000,) and t.dtype == jnp.float32
    assert 0.25 <= float(t.min()) < 0.26 and 0.74 < float(t.max()) <= 0.75
    counts, _ = np.histogram(t, 10)
    assert counts.min() > 320


def test_the_key_decides():
  one, again, other = (
    time_sampling.Uniform().sample(jax.random.key(s), 5) for s in (1, 1, 2)
  )
  np.testing.assert_array_equal(one, again)
  assert (one != other).all()


def test_impossible_intervals():
  with pytest.raises(ValueError, match=r'low=0\.5'):
    time_sampling.Uniform(0.5, 0.5)


@pytest.mark.parametrize(('a', 'b'), [(2, 1), (1, 3.0), (0.5, 0.5)])
def test_beta(a, b):
  t = time_sampling.Beta(a, b).sample(jax.random.key(0), 20_000)
  assert t.shape == (20_000,) and t.dtype == jnp.float32
  assert float(t.min()) >= 0 and float(t.max()) <= 1
  np.testing.assert_allclose(t.mean(), a / (a + b), atol=0.01)
  expected = a * b / ((a + b) ** 2 * (a + b + 1))
  np.testing.assert_allclose(t.var(), expected, rtol=0.03)


@pytest.mark.parametrize(('a', 'b'), [(0, 1), (1, -1.0)])
def test_impossible_beta(a, b):
  with pytest.raises(ValueError, match=f'a={a}, b={b}'):
    time_sampling.Beta(a, b)
