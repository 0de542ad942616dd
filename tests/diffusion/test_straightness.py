"""The measure of straightness on paths that are known."""

import numpy as np
import pytest

from pix2seqd_jax.diffusion import straightness


def ends(seed=0):
  return np.random.default_rng(seed).normal(size=(2, 3, 4, 5))


def test_straight_lines_at_constant_speed_have_none():
  start, end = ends()
  t = np.linspace(0, 1, 8).reshape(-1, 1, 1, 1)
  found = straightness.straightness((1 - t) * start + t * end)
  assert found.value == pytest.approx(0, abs=1e-20) and found.relative < 1e-20
  assert found.length == pytest.approx(
    np.square(end - start).sum((1, 2)).mean()
  )


@pytest.mark.parametrize('steps', [2, 5, 400])
def test_a_parabola_has_what_the_integral_says(steps):
  """x_t = x_0 + t^2 d: |d - 2 t d|^2 integrates to |d|^2 / 3; in n steps the
  speed is that at the middle of each, which leaves out 1 / n^2 of it."""
  start, step = ends(1)
  t = np.linspace(0, 1, steps + 1).reshape(-1, 1, 1, 1)
  found = straightness.straightness(start + t**2 * step)
  expected = (1 - 1 / steps**2) / 3
  assert found.relative == pytest.approx(expected, rel=1e-9)
  np.testing.assert_allclose(found.curve, (1 - 2 * found.times) ** 2, atol=1e-9)
  assert found.value == pytest.approx(found.relative * found.length)


def test_the_way_back_is_as_straight():
  states = np.random.default_rng(2).normal(size=(6, 3, 4))
  there = straightness.straightness(states)
  back = straightness.straightness(states[::-1])
  assert there.value == pytest.approx(back.value)
  np.testing.assert_allclose(there.curve, back.curve[::-1])


def test_paths_that_end_where_they_began_have_no_relative_measure():
  states = np.zeros((4, 2, 3))
  states[1:3] = 1
  found = straightness.straightness(states)
  assert found.length == 0 == found.relative and found.value > 0
  assert np.isfinite(found.curve).all()


@pytest.mark.parametrize('count', [1, 2])
def test_one_step_says_nothing(count):
  with pytest.raises(ValueError, match='at least 2 steps'):
    straightness.straightness(np.zeros((count, 1, 2)))
