import dataclasses

import gaussian
import jax
import jax.numpy as jnp
import numpy as np
import parity
import pytest

from pix2seqd_jax.diffusion import process, samplers, sampling, schedules
from pix2seqd_jax.diffusion import sampler as sampler_lib
from pix2seqd_jax.diffusion import timesteps as timesteps_lib
from pix2seqd_jax.types import Timesteps

DETERMINISTIC = [samplers.DDIM(), samplers.Euler()]


def final_error(p, sampler, num_steps):
  """Distance from the exact solution of the flow at t = 0.1, in float64."""
  start, stop = 0.9, 0.1
  times = np.linspace(start, stop, num_steps + 1)
  with jax.enable_x64(True):
    x = jnp.asarray(np.random.default_rng(0).normal(size=(6, 3)))
    end = sampling.sample(
      gaussian.exact_denoiser(p),
      p,
      x,
      gaussian.keys(6),
      timesteps=Timesteps(times[:-1], times[1:]),
      sampler=sampler,
      returns='state',
    )
    assert end.dtype == jnp.float64
    return float(jnp.abs(end - gaussian.exact_flow(p, x, start, stop)).max())


@pytest.mark.parametrize('sampler', DETERMINISTIC, ids=repr)
@pytest.mark.parametrize(
  'schedule',
  [schedules.Cosine(), schedules.Straight(), schedules.Sigmoid()],
  ids=repr,
)
def test_first_order_on_gaussian_data(sampler, schedule):
  # x0 here; what is predicted makes no difference, see the next test.
  p = process.Process(schedule)
  errors = [final_error(p, sampler, n) for n in (100, 200)]
  assert errors[1] < 0.05
  assert np.log2(errors[0] / errors[1]) == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize('kind', process.TARGETS)
def test_any_target_gives_the_same_sample(kind):
  expected = final_error(
    process.Process(schedules.Cosine()), samplers.DDIM(), 20
  )
  p = process.Process(schedules.Cosine(), kind)
  ours = final_error(p, samplers.DDIM(), 20)
  assert ours == pytest.approx(expected, rel=1e-9)


def test_ddim_is_exact_where_x_0_is_known():
  # Data of a single point: the estimate never changes, so one step is exact.
  p = process.Process(schedules.Cosine())
  x_0, x_1 = (jnp.asarray(gaussian.normal(s, (4, 5))) for s in (1, 2))
  times = np.linspace(1, 0.1, 4)
  start = p.mix(x_0, x_1, jnp.ones(4))
  end = sampling.sample(
    lambda x, t, previous: gaussian.Prediction(x_0),
    p,
    start,
    gaussian.keys(4),
    timesteps=Timesteps(times[:-1], times[1:]),
    sampler=samplers.DDIM(),
    returns='state',
  )
  np.testing.assert_allclose(end, p.mix(x_0, x_1, jnp.full(4, 0.1)), atol=1e-5)


@pytest.mark.parametrize('td', [0, 1.5])
def test_ddim_is_euler_on_the_straight_schedule(td):
  p = process.Process(schedules.Straight(), 'velocity')
  timesteps = timesteps_lib.uniform(7, td)

  def run(sampler):
    return sampling.sample(
      lambda x, t, previous: gaussian.Prediction(jnp.tanh(3 * x) + t[:, None]),
      p,
      jnp.asarray(gaussian.normal(0, (4, 5))),
      gaussian.keys(4),
      timesteps=timesteps,
      sampler=sampler,
      returns='state',
    )

  euler = run(samplers.Euler())
  np.testing.assert_allclose(run(samplers.DDIM()), euler, atol=2e-6)


def test_euler_runs_both_ways():
  # Up the path and down again: the exact flow is inverted to first order.
  p = process.Process(schedules.Straight(), 'velocity')
  times = np.linspace(0.1, 0.9, 401)
  x = jnp.asarray(gaussian.normal(0, (4, 5)))

  def run(x, times):
    return sampling.sample(
      gaussian.exact_denoiser(p),
      p,
      x,
      gaussian.keys(4),
      timesteps=Timesteps(times[:-1], times[1:]),
      sampler=samplers.Euler(),
      returns='state',
    )

  there = run(x, times)
  np.testing.assert_allclose(
    there, gaussian.exact_flow(p, x, 0.1, 0.9), atol=0.01
  )
  np.testing.assert_allclose(run(there, times[::-1]), x, atol=0.02)


def test_euler_refuses_infinite_slopes():
  p = process.Process(schedules.LinearGamma())
  with pytest.raises(ValueError, match=r'euler cannot step from t=1 to 0\.9'):
    samplers.Euler().tables(p, timesteps_lib.uniform(10))
  samplers.Euler().tables(
    process.Process(schedules.Cosine()), timesteps_lib.uniform(10)
  )


@pytest.mark.parametrize('variance', ['large', 'small'])
def test_ddpm_table_keeps_the_variance_of_known_data(variance):
  """One step draws from q(x_s | x_t, x_0): known moments, exactly.

  With x_t ~ q(x_t | x_0), 'small' gives x_s the variance sigma(s)^2 and
  'large' adds the rest of sigma(t)^2 - a^2 sigma(s)^2.
  """
  for schedule in (schedules.Cosine(), schedules.DDPM(), schedules.Straight()):
    p = process.Process(schedule)
    timesteps = timesteps_lib.uniform(20)
    rows = samplers.DDPM(variance).tables(p, timesteps)
    now, after = p.moment(timesteps.now), p.moment(timesteps.next)
    # x_s = c_0 x_0 + c_1 eps + std z, both normal.
    total = rows.c_1**2 + rows.std**2
    np.testing.assert_allclose(rows.c_0, after.alpha)
    if variance == 'small':
      np.testing.assert_allclose(total, after.sigma**2, atol=1e-12)
    else:
      ratio = now.alpha / after.alpha
      expected = now.sigma**2 - (ratio * after.sigma) ** 2
      np.testing.assert_allclose(rows.std**2, expected, atol=1e-12)
      assert (total >= after.sigma**2 - 1e-12).all()


def test_ddpm_keeps_the_marginals_of_gaussian_data():
  """Ancestral sampling with the exact denoiser, through its moments.

  The estimate is affine in x, so mean and variance of x follow from two runs
  without noise and the table's std; no sample is drawn.
  """
  for schedule in (schedules.Cosine(), schedules.Straight()):
    p = process.Process(schedule)
    timesteps = timesteps_lib.uniform(2000)
    for variance in ('small', 'large'):
      rows = samplers.DDPM(variance).tables(p, timesteps)
      mean, var, worst = 0.0, 1.0, 0.0
      for i in range(len(timesteps.now) - 1):
        slope, offset = _affine(p, rows, i)
        mean, var = slope * mean + offset, slope**2 * var + rows.std[i] ** 2
        expected = gaussian.spread(p, timesteps.next[i]) ** 2
        worst = max(worst, abs(var / expected - 1))
        centre = p.moment(timesteps.next[i]).alpha * gaussian.MEAN
        assert abs(mean - centre) < 0.01
      assert worst < 0.02


def _affine(p, rows, i):
  """x_next = slope x + offset for the exact denoiser in row i."""
  m = jax.tree.map(lambda column: column[i], rows.now)
  gain = 1 / (m.alpha**2 * gaussian.STD**2 + m.sigma**2)

  def after(x):
    surprise = (x - m.alpha * gaussian.MEAN) * gain
    x_0 = gaussian.MEAN + m.alpha * gaussian.STD**2 * surprise
    return rows.c_0[i] * x_0 + rows.c_1[i] * m.sigma * surprise

  return after(1.0) - after(0.0), after(0.0)


def test_ddpm_samples_have_the_tables_variance():
  p = process.Process(schedules.Cosine())
  timesteps = Timesteps(np.array([0.6]), np.array([0.4]))
  end = sampling.sample(
    lambda x, t, previous: gaussian.Prediction(jnp.zeros_like(x)),
    p,
    jnp.zeros((64, 200)),
    gaussian.keys(64),
    timesteps=timesteps,
    sampler=samplers.DDPM(),
    returns='state',
  )
  std = samplers.DDPM().tables(p, timesteps).std[0]
  assert float(end.std()) == pytest.approx(std, rel=0.03)
  assert float(end.mean()) == pytest.approx(0, abs=0.02)


def test_ddpm_refuses_to_go_back():
  p = process.Process(schedules.Straight(), 'velocity')
  with pytest.raises(ValueError, match=r'from t=0\.2 to 0\.4'):
    samplers.DDPM().tables(p, Timesteps(np.array([0.2]), np.array([0.4])))
  with pytest.raises(ValueError, match="variance='huge'"):
    samplers.DDPM('huge')


@pytest.mark.parametrize('make', samplers.SAMPLERS.values())
def test_tables_are_float64_with_rows_of_one_length(make):
  sampler = make()
  p = process.Process(schedules.Cosine())
  for _, rows in sampler_lib.plan(sampler, p, timesteps_lib.uniform(6)):
    for column in jax.tree.leaves(rows):
      assert column.dtype == np.float64
      assert column.shape[0] == sampler_lib.num_rows(rows)
  assert dataclasses.is_dataclass(sampler) and hash(sampler) is not None


def test_ddim_with_eta_one_is_ddpm_with_the_small_variance():
  p = process.Process(schedules.Cosine())
  one, other = (
    s.tables(p, timesteps_lib.uniform(7))
    for s in (samplers.DDIM(eta=1), samplers.DDPM('small'))
  )
  np.testing.assert_allclose(one.std, other.std, rtol=1e-12)
  np.testing.assert_allclose(one.c_1, other.c_1, rtol=1e-5, atol=1e-12)
  with pytest.raises(ValueError, match=r'eta=1\.5'):
    samplers.DDIM(1.5)


@dataclasses.dataclass(frozen=True)
class Recorded(samplers.DDPM):
  """DDPM with the noise of an oracle."""

  draws: np.ndarray | None = None

  def perturb(self, x, row, keys):
    return x + row.std * self.draws


class TestParity:
  NAME = 'pix2seq/pure/diffusion_steps.npz'

  @pytest.mark.parametrize('key', ['ddim', 'ddpm', 'ddpm@large', 'ddpm@small'])
  def test_one_step(self, shared, key):
    oracle = np.load(shared / 'oracles' / self.NAME)
    p = process.Process(
      parity.ReferenceSchedule(schedules.Cosine()), clip_x0=(-0.1, 0.1)
    )
    times = [oracle[k].astype(np.float64) for k in ('t', 't_prev')]
    ours = []
    for i in range(4):  # each example has a time of its own
      one = slice(i, i + 1)
      sampler = samplers.DDIM()
      if key != 'ddim':
        variance = key.partition('@')[2] or 'large'
        sampler = Recorded(variance, oracle['step_noise'][one])
      end = sampling.sample(
        lambda x, t, previous, one=one: gaussian.Prediction(
          jnp.asarray(oracle['denoise_out'][one])
        ),
        p,
        jnp.asarray(oracle['xt'][one]),
        gaussian.keys(1),
        timesteps=Timesteps(times[0][one], times[1][one]),
        sampler=sampler,
        returns='state',
      )
      ours.append(end)
    theirs = oracle[f'step_{key}']
    for i in range(4):
      # The original divides a difference of float32 numbers by
      # a = alpha(t) / alpha(s), .01 for the first example: so much noise.
      alpha = np.sqrt([oracle['gamma'].flat[i], oracle['gamma_prev'].flat[i]])
      noise = 2 * np.finfo(np.float32).eps * alpha[1] / alpha[0]
      bound = float(parity.DEFAULT_BOUND + noise * (key != 'ddim'))
      name = f'step_{key}[{i}]'
      parity.check(self.NAME, name, ours[i], theirs[i : i + 1], bound)
