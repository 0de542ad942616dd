import numpy as np
import parity
import pytest

from pix2seqd_jax.diffusion import grids
from pix2seqd_jax.types import Grid


def test_without_td_every_step_lands_where_the_next_begins():
  for num_steps in (1, 2, 7, 20, 1000):
    now, after = grids.uniform(num_steps)
    assert now.dtype == after.dtype == np.float64
    assert now[0] == 1 and after[-1] == 0 and len(now) == num_steps
    np.testing.assert_array_equal(now[1:], after[:-1])


def test_the_papers_asymmetric_intervals():
  grid = grids.uniform(20, 2)
  np.testing.assert_allclose(grid.now[:3], [1, 0.95, 0.9])
  np.testing.assert_allclose(grid.next[:3], [0.85, 0.8, 0.75])
  np.testing.assert_allclose(grid.next[-4:], [0.05, 0, 0, 0], atol=1e-12)
  assert (grid.next[-3:] == 0).all()


def test_td_makes_steps_longer_and_leaves_the_network_alone():
  plain = grids.uniform(10)
  for td in (0.5, 1, 3.25, 40):
    grid = grids.uniform(10, td)
    np.testing.assert_array_equal(grid.now, plain.now)
    np.testing.assert_allclose(
      grid.next, np.maximum(plain.next - td / 10, 0), atol=1e-15
    )


@pytest.mark.parametrize('steps', [0, -1, 2.5])
def test_impossible_numbers_of_steps(steps):
  with pytest.raises((ValueError, TypeError), match='steps'):
    grids.uniform(steps)


@pytest.mark.parametrize('td', [-1.0, float('nan'), float('inf')])
def test_impossible_td(td):
  with pytest.raises(ValueError, match='td='):
    grids.uniform(5, td)


def test_bad_grids_are_named():
  good = np.array([1.0, 0.5])
  grids.check(Grid(good, good - 0.5))
  for bad in (
    Grid(good, good[:1]),
    Grid(good[:0], good[:0]),
    Grid(good[None], good[None]),
    Grid(good + 0.1, good),
    Grid(good, good * np.nan),
  ):
    with pytest.raises(ValueError, match='grid'):
      grids.check(bad)


@pytest.mark.parametrize('num_steps', [5, 10, 20])
@pytest.mark.parametrize('td', [0.0, 0.5, 1.0, 2.0])
def test_parity(shared, num_steps, td):
  name = 'pix2seq/pure/diffusion_steps.npz'
  oracle = np.load(shared / 'oracles' / name)
  grid = grids.uniform(num_steps, td)
  for key, ours in [('t', grid.now), ('tprev', grid.next)]:
    key = f'grid_{key}_{num_steps}_{td}'
    parity.check(name, key, ours, oracle[key])
