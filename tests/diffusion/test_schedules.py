import jax
import jax.numpy as jnp
import numpy as np
import parity
import pytest

from pix2seqd_jax.diffusion import schedules

ALL = [
  *(make() for make in schedules.SCHEDULES.values()),
  schedules.CosineTau(0.2, 1, 2),
  schedules.Sigmoid(0, 3, 0.3),
  schedules.Log(1, 1000, reverse=True),
]
TABULATED = [schedules.DDPM(), schedules.StableDiffusion()]
IDS = [repr(s) for s in ALL]


@pytest.mark.parametrize('schedule', ALL, ids=IDS)
def test_data_becomes_source(schedule):
  t = np.linspace(0, 1, 501)
  alpha, sigma = schedule.alpha(t), schedule.sigma(t)
  assert alpha.dtype == sigma.dtype == np.float64
  assert (np.diff(alpha) <= 0).all() and (np.diff(sigma) >= 0).all()
  assert alpha[0] == pytest.approx(1, abs=1e-6)
  assert sigma[0] == pytest.approx(0, abs=4e-4)
  assert sigma[-1] == pytest.approx(1, abs=0.003)
  np.testing.assert_allclose(schedule.gamma(t), alpha**2, atol=1e-15)
  if not isinstance(schedule, schedules.Straight):
    np.testing.assert_allclose(alpha**2 + sigma**2, 1, atol=1e-12)


@pytest.mark.parametrize('schedule', ALL, ids=IDS)
def test_float32_under_jit_agrees_with_float64(schedule):
  t = np.linspace(0, 1, 997).astype(np.float32)
  for name in ('alpha', 'sigma', 'gamma'):
    ours = jax.jit(getattr(schedule, name))(t)
    assert ours.dtype == jnp.float32
    # sqrt of a rounded gamma near 0 keeps half of the digits.
    np.testing.assert_allclose(
      np.square(ours, dtype=np.float64),
      getattr(schedule, name)(t) ** 2,
      atol=2e-6,
    )


@pytest.mark.parametrize(
  'schedule', [schedules.Cosine(), schedules.Straight(), *TABULATED], ids=repr
)
def test_float32_keeps_its_digits_at_both_ends(schedule):
  t = np.float32([0, 1e-3, 0.02, 0.5, 0.98, 0.999, 1])
  names = ['alpha', 'sigma']
  for name in names:
    ours = jax.jit(getattr(schedule, name))(t)
    expected = getattr(schedule, name)(t)
    np.testing.assert_allclose(ours, expected, rtol=2e-5, err_msg=name)


@pytest.mark.parametrize('schedule', ALL, ids=IDS)
def test_slopes_are_derivatives(schedule):
  # Off the corners of the tables, and off the ends.
  t = np.linspace(0.02, 0.98, 97) + 0.00031
  h = 1e-6
  for name in ('alpha', 'sigma'):
    f = getattr(schedule, name)
    expected = (f(t + h) - f(t - h)) / (2 * h)
    slope = getattr(schedule, f'{name}_dot')
    np.testing.assert_allclose(slope(t), expected, rtol=2e-6, atol=1e-8)
    ours = jax.jit(slope)(t.astype(np.float32))
    np.testing.assert_allclose(ours, expected, rtol=2e-3, atol=1e-4)


@pytest.mark.parametrize('schedule', ALL, ids=IDS)
def test_python_numbers_and_scalars_are_numpy(schedule):
  for t in (0.25, np.float32(0.25), np.float64(0.25)):
    assert schedule.alpha(t) == schedule.alpha(np.array([0.25]))[0]
  assert np.isfinite([schedule.gamma(0), schedule.gamma(1)]).all()


@pytest.mark.parametrize('schedule', ALL, ids=IDS)
def test_bfloat16_times_are_widened(schedule):
  t = jnp.asarray([0.25, 0.5], jnp.bfloat16)
  assert schedule.alpha(t).dtype == schedule.sigma(t).dtype == jnp.float32


def test_float64_times_stay_float64_and_float32_float32():
  with jax.enable_x64(True):
    for schedule in ALL:
      t = jnp.asarray([0.1, 0.7], jnp.float32)
      assert jax.jit(schedule.alpha)(t).dtype == jnp.float32
      assert jax.jit(schedule.sigma_dot)(t).dtype == jnp.float32
    t = jnp.asarray([0.1, 0.7], jnp.float64)
    for schedule in ALL:
      ours = jax.jit(schedule.sigma)(t)
      assert ours.dtype == jnp.float64
      np.testing.assert_allclose(ours, schedule.sigma(np.asarray(t)), 1e-12)


@pytest.mark.parametrize('schedule', TABULATED, ids=repr)
def test_discrete_steps_are_exact(schedule):
  steps = np.arange(schedules.NUM_TABULATED)
  t = schedule.time_of(steps)
  np.testing.assert_allclose(schedule.step_of(t), steps, atol=1e-10)
  products = np.cumprod(1 - schedule.betas())
  np.testing.assert_allclose(schedule.gamma(t), products, rtol=1e-9)
  ours = jax.jit(schedule.gamma)(t.astype(np.float32))
  np.testing.assert_allclose(ours, products, rtol=1e-5)
  # Between two steps ln gamma is linear, and t = 0 is data.
  between = schedule.gamma((t[:-1] + t[1:]) / 2)
  np.testing.assert_allclose(between**2, products[:-1] * products[1:], 1e-9)
  assert schedule.gamma(0.0) == 1 and schedule.sigma(0.0) == 0


def test_limits_of_the_families():
  t = np.linspace(0, 0.999, 100)
  np.testing.assert_allclose(
    schedules.CosineTau(0, 1, 1).gamma(t), np.cos(t * np.pi / 2) ** 2, 1e-9
  )
  # A very wide temperature makes the sigmoid linear.
  np.testing.assert_allclose(
    schedules.Sigmoid(-3, 3, 1e4).gamma(t), 1 - t, atol=1e-6
  )
  np.testing.assert_allclose(schedules.Straight().alpha(t), 1 - t)


@pytest.mark.parametrize(
  'make, kwargs, match',
  [
    (schedules.CosineTau, {'tau': 0}, 'tau=0'),
    (schedules.CosineTau, {'start': 1, 'end': 0.5}, 'start=1'),
    (schedules.Sigmoid, {'start': 3, 'end': -3}, 'start < end'),
    (schedules.Log, {'start': 0}, '0 < start'),
    (schedules.DDPM, {'end': 1.5}, 'end=1.5'),
  ],
)
def test_impossible_numbers_are_refused(make, kwargs, match):
  with pytest.raises(ValueError, match=match):
    make(**kwargs)


def from_reference_name(name):
  """The original's strings, 'family@a,b,c', as schedules."""
  family, _, rest = name.partition('@')
  args = rest.split(',') if rest else []
  if family == 'log':
    return schedules.Log(*map(float, args[:2]), args[2][0] == 't')
  if family == 'simple_linear':
    return schedules.LinearGamma()
  if family == 'sigmoid':
    return schedules.Sigmoid(*map(float, args))
  return schedules.CosineTau(*map(float, args)) if args else schedules.Cosine()


class TestParity:
  def test_pix2seq(self, shared):
    name = 'pix2seq/pure/schedules.npz'
    oracle = np.load(shared / 'oracles' / name)
    t = oracle['t']
    for i, text in enumerate(oracle['names']):
      schedule = from_reference_name(str(text))
      theirs = oracle[f'gamma_{i}']
      for kind, ours in [
        ('', schedule.gamma(t)),
        (' jit', jax.jit(schedule.gamma)(t)),
      ]:
        parity.check(name, f'gamma {text}{kind}', ours, theirs)
      # The square: at t = 0 the original's sigma is a root of rounding.
      ours = schedule.sigma(t) ** 2
      theirs = oracle[f'sqrt_1m_gamma_{i}'] ** 2
      parity.check(name, f'sqrt_1m_gamma^2 {text}', ours, theirs)
      ours = schedule.alpha(t) ** 2
      theirs = oracle[f'sqrt_gamma_{i}'] ** 2
      parity.check(name, f'sqrt_gamma^2 {text}', ours, theirs)

  def test_the_clipped_ends(self, shared):
    oracle = np.load(shared / 'oracles/pix2seq/pure/schedules.npz')
    for i, text in enumerate(oracle['names']):
      ours = from_reference_name(str(text)).gamma(1.0)
      # The plain cosine in the original's float32 is 0.3 % off there.
      assert ours == pytest.approx(oracle[f'gamma_{i}'][-1], rel=4e-3)

  @pytest.mark.parametrize(
    'name, schedule',
    [
      ('scaled_linear', schedules.StableDiffusion()),
      ('linear', schedules.DDPM()),
    ],
  )
  def test_tables(self, shared, name, schedule):
    oracle = 'ldmseg_sched/tables.npz'
    theirs = np.load(shared / 'oracles' / oracle)
    t = schedule.time_of(np.arange(1000))
    key = f'{name}/alphas_cumprod'
    parity.check(oracle, key, schedule.gamma(t), theirs[key])
    key = f'{name}/betas'
    parity.check(oracle, key, schedule.betas(), theirs[key])

  def test_diffusers(self, shared):
    oracle = 'diffusers/sched_ddim.npz'
    theirs = np.load(shared / 'oracles' / oracle)['alphas_cumprod']
    schedule = schedules.StableDiffusion()
    ours = schedule.gamma(schedule.time_of(np.arange(1000)))
    parity.check(oracle, 'alphas_cumprod', ours, theirs)


@pytest.mark.parametrize('make', [schedules.DDPM, schedules.StableDiffusion])
def test_zero_snr_leaves_nothing_of_the_data_at_the_source(make):
  plain, ours = make(), make(zero_snr=True)
  assert ours.alpha(1.0) == pytest.approx(0, abs=1e-7)
  assert ours.sigma(1.0) == pytest.approx(1, abs=1e-12)
  # The first step keeps its alpha; between them alpha is moved and scaled.
  steps = np.arange(1, 1000) / 1000
  assert ours.alpha(0.001) == pytest.approx(plain.alpha(0.001), rel=1e-12)
  slope = np.diff(ours.alpha(steps)) / np.diff(plain.alpha(steps))
  np.testing.assert_allclose(slope, slope[0], rtol=1e-6)
  assert np.isfinite(np.asarray(ours.alpha(jnp.linspace(0, 1, 1001)))).all()
