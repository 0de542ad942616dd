import numpy as np
import parity
import pytest

from pix2seqd_jax.diffusion import logsnr, process, schedules
from pix2seqd_jax.diffusion import timesteps as timesteps_lib
from pix2seqd_jax.types import Timesteps


def test_without_td_every_step_lands_where_the_next_begins():
  for num_steps in (1, 2, 7, 20, 1000):
    now, after = timesteps_lib.uniform(num_steps)
    assert now.dtype == after.dtype == np.float64
    assert now[0] == 1 and after[-1] == 0 and len(now) == num_steps
    np.testing.assert_array_equal(now[1:], after[:-1])


def test_the_papers_asymmetric_intervals():
  timesteps = timesteps_lib.uniform(20, 2)
  np.testing.assert_allclose(timesteps.now[:3], [1, 0.95, 0.9])
  np.testing.assert_allclose(timesteps.next[:3], [0.85, 0.8, 0.75])
  np.testing.assert_allclose(timesteps.next[-4:], [0.05, 0, 0, 0], atol=1e-12)
  assert (timesteps.next[-3:] == 0).all()


def test_td_makes_steps_longer_and_leaves_the_network_alone():
  plain = timesteps_lib.uniform(10)
  for td in (0.5, 1, 3.25, 40):
    timesteps = timesteps_lib.uniform(10, td)
    np.testing.assert_array_equal(timesteps.now, plain.now)
    np.testing.assert_allclose(
      timesteps.next, np.maximum(plain.next - td / 10, 0), atol=1e-15
    )


@pytest.mark.parametrize('steps', [0, -1, 2.5])
def test_impossible_numbers_of_steps(steps):
  with pytest.raises((ValueError, TypeError), match='steps'):
    timesteps_lib.uniform(steps)


@pytest.mark.parametrize('td', [-1.0, float('nan'), float('inf')])
def test_impossible_td(td):
  with pytest.raises(ValueError, match='td='):
    timesteps_lib.uniform(5, td)


def test_bad_grids_are_named():
  good = np.array([1.0, 0.5])
  timesteps_lib.check(Timesteps(good, good - 0.5))
  for bad in (
    Timesteps(good, good[:1]),
    Timesteps(good[:0], good[:0]),
    Timesteps(good[None], good[None]),
    Timesteps(good + 0.1, good),
    Timesteps(good, good * np.nan),
    Timesteps(good, np.array([0.5, -0.4])),
    Timesteps(good[:1], np.array([-0.1])),
  ):
    with pytest.raises(ValueError, match='timesteps'):
      timesteps_lib.check(bad)


@pytest.mark.parametrize('num_steps', [5, 10, 20])
@pytest.mark.parametrize('td', [0.0, 0.5, 1.0, 2.0])
def test_parity(shared, num_steps, td):
  name = 'pix2seq/pure/diffusion_steps.npz'
  oracle = np.load(shared / 'oracles' / name)
  timesteps = timesteps_lib.uniform(num_steps, td)
  for key, ours in [('t', timesteps.now), ('tprev', timesteps.next)]:
    key = f'grid_{key}_{num_steps}_{td}'
    parity.check(name, key, ours, oracle[key])


PROCESS = process.Process(schedules.StableDiffusion(), 'x1')
CONTINUOUS = {
  'uniform': lambda t: t,
  'quadratic': np.sqrt,
  'logsnr': lambda t: logsnr.half_logsnr(PROCESS, np.array([t]))[0],
}


@pytest.mark.parametrize('name', CONTINUOUS)
@pytest.mark.parametrize('td', [0, 1.5])
def test_steps_are_even_in_what_the_grid_is_named_for(name, td):
  maker = timesteps_lib.SPACINGS[name](start=0.9, end=0.01)
  timesteps = maker.make(PROCESS, 7, td)
  clock = CONTINUOUS[name]
  assert timesteps.now[0] == 0.9 and timesteps.next[-1] == 0.01
  even = np.linspace(clock(0.9), clock(0.01), 8)
  np.testing.assert_allclose(
    clock(timesteps.now), even[:-1], rtol=1e-9, atol=1e-12
  )
  # td lands so many steps further, and nowhere beyond the end.
  place = np.minimum(np.arange(1, 8) + td, 7)
  expected = even[0] + (even[-1] - even[0]) * place / 7
  np.testing.assert_allclose(
    clock(timesteps.next), expected, rtol=1e-9, atol=1e-12
  )
  if not td:
    np.testing.assert_array_equal(timesteps.now[1:], timesteps.next[:-1])
  timesteps_lib.check(timesteps)


def test_the_uniform_grid_is_the_papers():
  for td in (0, 0.5, 2):
    ours = timesteps_lib.Uniform().make(None, 9, td)
    jointly = zip(ours, timesteps_lib.uniform(9, td), strict=True)
    for one, other in jointly:
      np.testing.assert_array_equal(one, other)


def test_a_grid_may_lead_up():
  timesteps = timesteps_lib.Uniform(start=0.0, end=1.0).make(None, 4)
  np.testing.assert_allclose(timesteps.next, [0.25, 0.5, 0.75, 1])


@pytest.mark.parametrize('name', ['leading', 'trailing', 'linspace'])
@pytest.mark.parametrize('solver', timesteps_lib.SOLVERS)
def test_discrete_grids_are_diffusers(shared, name, solver):
  file, prefix, config = {
    'ddim': ('sched_ddim', f'ddim/epsilon/{name}', {}),
    'dpm': (
      'sched_dpm_multi',
      {
        'leading': 'dpm_multi/leading_offset1',
        'trailing': 'dpm_multi/trailing',
        'linspace': 'dpm_multi/dpmsolver++/order2/midpoint/zero',
      }[name],
      {'set_alpha_to_one': True},
    ),
  }[solver]
  maker = timesteps_lib.SPACINGS[name](solver=solver, **config)
  with np.load(shared / f'oracles/diffusers/{file}.npz') as oracle:
    for num_steps in (5, 10, 15, 20):
      timesteps = maker.make(None, num_steps)
      theirs = oracle[f'{prefix}/steps{num_steps}/timesteps']
      step_of = PROCESS.schedule.step_of
      np.testing.assert_allclose(step_of(timesteps.now), theirs, atol=1e-9)
      if solver == 'ddim':
        after = np.maximum(theirs - 1000 // num_steps, 0)
        np.testing.assert_allclose(step_of(timesteps.next), after, atol=1e-9)
      else:
        m = PROCESS.moment(timesteps.next)
        sigmas = oracle[f'{prefix}/steps{num_steps}/sigmas'][1:]
        np.testing.assert_allclose(m.sigma / m.alpha, sigmas, rtol=1e-5)


@pytest.mark.parametrize(
  'make, message',
  [
    (lambda: timesteps_lib.Uniform(end=-0.1), r'end=-0\.1 must be a time'),
    (lambda: timesteps_lib.Uniform(start=0.5, end=0.5), 'both 0.5'),
    (
      lambda: timesteps_lib.LogSNR().make(PROCESS, 4),
      'logsnr cannot end at t=0',
    ),
    (
      lambda: timesteps_lib.Leading().make(PROCESS, 4, 1.0),
      r'set sample\.td=0',
    ),
    (
      lambda: timesteps_lib.Linspace().make(PROCESS, 2000),
      'steps=2000 are more',
    ),
    (lambda: timesteps_lib.Leading().make(PROCESS, 1000), 'begin at step 1000'),
    (lambda: timesteps_lib.Trailing(solver='euler'), "solver='euler'"),
    (lambda: timesteps_lib.Leading(steps_offset=-1), 'steps_offset=-1'),
  ],
)
def test_impossible_grids_are_named(make, message):
  with pytest.raises(ValueError, match=message):
    make()
