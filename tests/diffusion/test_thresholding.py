import gaussian
import jax.numpy as jnp
import numpy as np
import pytest

from pix2seqd_jax.diffusion import process, schedules, thresholding


def by_numpy(x, quantile, max_value, bound):
  """pdm.md 5.4, example by example."""
  out = []
  for one in np.asarray(x, np.float64):
    s = max(np.quantile(np.abs(one), quantile), max_value)
    out.append(np.clip(one, -s, s) / s * bound)
  return np.stack(out)


@pytest.mark.parametrize(
  'args', [(0.995, 1.0, 1.0), (0.9, 0.5, 1.0), (0.8, 0.1, 0.1), (1.0, 2.0, 2.0)]
)
def test_dynamic_is_the_formula(args):
  x = (
    3
    * gaussian.normal(0, (4, 8, 8, 3))
    * np.array([0.01, 0.3, 1, 4]).reshape(4, 1, 1, 1).astype(np.float32)
  )
  ours = thresholding.threshold(thresholding.Dynamic(*args), jnp.asarray(x))
  np.testing.assert_allclose(ours, by_numpy(x, *args), rtol=2e-6, atol=1e-7)
  assert np.abs(ours).max() <= args[2] * (1 + 1e-6)


def test_small_estimates_are_left_alone():
  x = jnp.asarray(gaussian.normal(0, (2, 50)) * 0.1)
  ours = thresholding.threshold(thresholding.Dynamic(), x)
  np.testing.assert_array_equal(ours, x)


def test_an_example_does_not_depend_on_its_batch():
  x = jnp.asarray(gaussian.normal(0, (3, 50)) * 4)
  rule = thresholding.Dynamic(0.9)
  every = thresholding.threshold(rule, x)
  np.testing.assert_array_equal(
    thresholding.threshold(rule, x[1:2])[0], every[1]
  )


def test_a_setting_for_each_leaf_and_equation_1_holds_after_it():
  p = process.Process(
    schedules.Cosine(),
    'v',
    {'a': thresholding.Dynamic(0.9), 'b': (-0.1, 0.1), 'c': None},
  )
  t = jnp.full(2, 0.4)
  x = {k: jnp.asarray(gaussian.normal(i, (2, 40))) for i, k in enumerate('abc')}
  value = {k: 3 * v[:, ::-1] for k, v in x.items()}
  ends = p.endpoints(x, value, t)
  free = process.Process(p.schedule, 'v').endpoints(x, value, t)
  expected = by_numpy(free.x_0['a'], 0.9, 1.0, 1.0)
  np.testing.assert_allclose(ends.x_0['a'], expected, rtol=1e-5, atol=1e-6)
  np.testing.assert_allclose(
    ends.x_0['b'], np.clip(free.x_0['b'], -0.1, 0.1), atol=1e-6
  )
  np.testing.assert_array_equal(ends.x_0['c'], free.x_0['c'])
  again = p.mix(*ends, t)
  for key in x:
    np.testing.assert_allclose(again[key], x[key], atol=2e-5)


@pytest.mark.parametrize('bad', [(1.0, -1.0), (1.0,)])
def test_what_is_no_threshold(bad):
  with pytest.raises(ValueError, match='clip_x0'):
    process.Process(schedules.Cosine(), clip_x0=bad)


@pytest.mark.parametrize('kwargs', [{'quantile': 0.0}, {'max_value': 0.0}])
def test_impossible_dynamic_settings(kwargs):
  with pytest.raises(ValueError, match='dynamic thresholding'):
    thresholding.Dynamic(**kwargs)
