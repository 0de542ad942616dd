import gaussian
import jax
import jax.numpy as jnp
import numpy as np
import parity
import pytest

from pix2seqd_jax.diffusion import process, schedules

SCHEDULES = [make() for make in schedules.SCHEDULES.values()]
KINDS = tuple(process.TARGETS)
# Inside: every kind of target has endpoints there on every schedule.
TIMES = np.float32([0.03, 0.25, 0.5, 0.75, 0.97])


def pair(shape=(5, 3, 4, 2)):
  return jnp.asarray(gaussian.normal(1, shape)), jnp.asarray(
    gaussian.normal(2, shape)
  )


@pytest.mark.parametrize('schedule', SCHEDULES, ids=repr)
@pytest.mark.parametrize('kind', KINDS)
def test_endpoints_invert_mix(kind, schedule):
  p = process.Process(schedule, kind)
  p.check(TIMES)
  x_0, x_1 = pair()
  t = jnp.asarray(TIMES)

  def round_trip(x_0, x_1):
    x_t = p.mix(x_0, x_1, t)
    return p.endpoints(x_t, p.regression_target(x_0, x_1, t), t)

  ends = jax.jit(round_trip)(x_0, x_1)
  # Near an end of the path the other end is known to fewer digits: by 1 /
  # alpha, and by 1 / sigma.
  alpha, sigma = schedule.alpha(TIMES), schedule.sigma(TIMES)
  for ours, theirs, size in [(ends.x_0, x_0, alpha), (ends.x_1, x_1, sigma)]:
    error = np.abs(ours - theirs).max((1, 2, 3))
    assert (error < 3e-6 / size).all()


@pytest.mark.parametrize('kind', KINDS)
def test_endpoints_invert_mix_in_float64(kind):
  with jax.enable_x64(True):
    for schedule in SCHEDULES:
      p = process.Process(schedule, kind)
      x_0, x_1 = (jnp.asarray(x, jnp.float64) for x in pair())
      t = jnp.asarray(TIMES, jnp.float64)
      value = p.regression_target(x_0, x_1, t)
      ends = p.endpoints(p.mix(x_0, x_1, t), value, t)
      assert ends.x_0.dtype == jnp.float64
      np.testing.assert_allclose(ends.x_0, x_0, atol=1e-11)
      np.testing.assert_allclose(ends.x_1, x_1, atol=1e-11)


def test_trees_are_their_leaves():
  x_0 = {'image': pair()[0], 'map': pair((5, 7))[0]}
  x_1 = {'image': pair()[1], 'map': pair((5, 7))[1]}
  t = jnp.asarray(TIMES)
  both = process.Process(
    schedules.StableDiffusion(),
    {'image': 'x1', 'map': 'x0'},
    {'image': None, 'map': (-0.5, 0.5)},
  )
  both.check(TIMES)
  x_t = both.mix(x_0, x_1, t)
  value = both.regression_target(x_0, x_1, t)
  ends = both.endpoints(x_t, value, t)
  for key, kind, clip in [('image', 'x1', None), ('map', 'x0', (-0.5, 0.5))]:
    one = process.Process(schedules.StableDiffusion(), kind, clip)
    alone = one.endpoints(x_t[key], value[key], t)
    np.testing.assert_array_equal(alone.x_0, ends.x_0[key])
    np.testing.assert_array_equal(alone.x_1, ends.x_1[key])
  np.testing.assert_array_equal(value['image'], x_1['image'])
  np.testing.assert_array_equal(value['map'], x_0['map'])


def test_settings_must_fit_the_tree():
  p = process.Process(schedules.Cosine(), {'image': 'x0', 'mask': 'x1'})
  x, t = pair((2, 3))[0], jnp.asarray([0.1, 0.2])
  with pytest.raises(ValueError, match='a single array'):
    p.endpoints(x, x, t)
  with pytest.raises(ValueError, match=r"\['image', 'map'\]"):
    p.endpoints({'image': x, 'map': x}, {'image': x, 'map': x}, t)


def test_kinds_are_the_papers_combinations():
  x_0, x_1 = pair()
  t = jnp.asarray(TIMES)
  wide = lambda c: np.reshape(c, (-1, 1, 1, 1))
  for schedule in SCHEDULES:
    alpha, sigma = wide(schedule.alpha(TIMES)), wide(schedule.sigma(TIMES))
    v = process.Process(schedule, 'v').regression_target(x_0, x_1, t)
    np.testing.assert_allclose(v, alpha * x_1 - sigma * x_0, atol=3e-6)
  straight = process.Process(schedules.Straight(), 'velocity')
  np.testing.assert_allclose(
    straight.regression_target(x_0, x_1, t), x_1 - x_0, atol=1e-6
  )


@pytest.mark.parametrize('schedule', SCHEDULES, ids=repr)
def test_velocity_is_the_slope_of_the_path(schedule):
  p = process.Process(schedule, 'velocity')
  x_0, x_1 = pair()
  times, h = TIMES + 0.0003, 1e-5
  with jax.enable_x64(True):
    x_0, x_1 = (jnp.asarray(x, jnp.float64) for x in (x_0, x_1))
    at = lambda shift: p.mix(x_0, x_1, jnp.asarray(times, jnp.float64) + shift)
    slope = (at(h) - at(-h)) / (2 * h)
    t = jnp.asarray(times, jnp.float64)
    velocity = p.velocity(process.Endpoints(x_0, x_1), t)
    np.testing.assert_allclose(velocity, slope, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(velocity, p.regression_target(x_0, x_1, t))


@pytest.mark.parametrize('kind', KINDS)
def test_after_clipping_the_endpoints_still_make_x_t(kind):
  p = process.Process(schedules.Cosine(), kind, (-0.1, 0.1))
  x_t, value = pair()
  t = jnp.asarray(TIMES)
  ends = p.endpoints(x_t, value, t)
  assert np.abs(ends.x_0).max() <= np.float32(0.1)
  np.testing.assert_allclose(p.mix(ends.x_0, ends.x_1, t), x_t, atol=1e-5)


def test_one_moment_or_times_by_example():
  p = process.Process(schedules.Cosine(), 'v')
  x_t, value = pair()
  at_once = p.endpoints(x_t, value, jnp.full((5,), 0.3, jnp.float32))
  moment = jax.tree.map(jnp.float32, p.moment(0.3))
  scalar = p.endpoints(x_t, value, moment)
  np.testing.assert_allclose(at_once.x_0, scalar.x_0, atol=1e-6)
  np.testing.assert_allclose(at_once.x_1, scalar.x_1, atol=1e-6)


def test_low_precision_is_widened():
  p = process.Process(schedules.Cosine())
  x = jnp.ones((2, 3), jnp.bfloat16)
  t = jnp.asarray([0.2, 0.4])
  assert p.mix(x, x, t).dtype == jnp.float32
  assert p.endpoints(p.mix(x, x, t), x, t).x_1.dtype == jnp.float32


@pytest.mark.parametrize(
  'kind, schedule, t',
  [
    ('x1', schedules.Straight(), 1.0),
    ('x1', schedules.Log(), 1.0),
    ('x0', schedules.Straight(), 0.0),
    ('x0', schedules.DDPM(), 0.0),
    ('velocity', schedules.LinearGamma(), 0.0),
    ({'image': 'x0', 'map': 'x1'}, schedules.Straight(), 1.0),
  ],
)
def test_singular_times_are_refused(kind, schedule, t):
  p = process.Process(schedule, kind)
  with pytest.raises(ValueError, match=f'cannot be solved .* t={t:g}'):
    p.check([0.5, t])
  p.check([0.5])


def test_regular_times_are_not_refused():
  for kind, times in [('x0', [1, 0.01]), ('v', [0, 0.5, 1])]:
    for schedule in SCHEDULES:
      process.Process(schedule, kind).check(times)
  # The paper's cosine never reaches alpha = 0, so eps may be predicted at 1.
  process.Process(schedules.Cosine(), 'x1').check([1.0])
  process.Process(schedules.Straight(), 'velocity').check([0.0, 1.0])


def test_clipping_needs_noise_to_recompute():
  clip = (-1, 1)
  with pytest.raises(ValueError, match='recompute_x1=False'):
    process.Process(schedules.Straight(), 'v', clip).check([0.0])
  process.Process(schedules.Straight(), 'v', clip, False).check([0.0])


def test_diffusers_names_of_predictions():
  for theirs, ours in process.ALIASES.items():
    found = process.Process(schedules.Cosine(), theirs)
    assert found == process.Process(schedules.Cosine(), ours)
  found = process.Process(schedules.Cosine(), {'a': 'sample', 'b': 'v'})
  assert found.target == {'a': 'x0', 'b': 'v'}


def test_unknown_settings_are_refused():
  with pytest.raises(ValueError, match=r"'eps' is unknown.*'v_prediction'"):
    process.Process(schedules.Cosine(), 'eps')
  with pytest.raises(ValueError, match='clip_x0'):
    process.Process(schedules.Cosine(), clip_x0=(1.0, -1.0))


class TestParity:
  NAME = 'pix2seq/pure/diffusion_steps.npz'
  KINDS = {'x': 'x0', 'eps': 'x1', 'v': 'v', 'x_softmax_xent': 'x0'}

  @pytest.fixture(scope='class')
  def oracle(self, shared):
    return np.load(shared / 'oracles' / self.NAME)

  @pytest.mark.parametrize('kind', KINDS)
  @pytest.mark.parametrize('clip', [0, 1])
  @pytest.mark.parametrize('trunc', [0, 1])
  def test_endpoints(self, oracle, kind, clip, trunc):
    p = process.Process(
      schedules.Cosine(),
      self.KINDS[kind],
      (-0.1, 0.1) if clip else None,
      # From x the original always computes eps anew, as the solve does.
      bool(trunc) or self.KINDS[kind] == 'x0',
    )
    t = jnp.asarray(oracle['t'])
    ends = p.endpoints(
      oracle['xt'] + 0 * t[0], oracle['denoise_out'] + 0 * t[0], t
    )
    suffix = f'{kind}_clip{clip}_trunc{trunc}'
    parity.check(self.NAME, f'eps_{suffix}', ends.x_1, oracle[f'eps_{suffix}'])
    # eps at alpha = 1.6e-3 (t = .999): the original's gamma in float32 is off
    # by 5e-8 absolute in cos, which 1 / alpha makes 3e-5 of x_0.
    bound = 6e-5 if kind == 'eps' else None
    parity.check(
      self.NAME, f'x0_{suffix}', ends.x_0, oracle[f'x0_{suffix}'], bound
    )

  def test_mix(self, oracle):
    p = process.Process(schedules.Cosine())
    x_0, eps = jnp.asarray(oracle['x0']), jnp.asarray(oracle['eps'])
    ours = p.mix(x_0, eps, jnp.asarray(oracle['t']))
    parity.check(self.NAME, 'xt', ours, oracle['xt'])
    # A float t, the same for all, is the original's other case.
    gamma = oracle['gamma_float_t']
    assert np.ptp(gamma) == 0
    times = np.linspace(0, 1, 100_001)
    t = times[np.abs(schedules.Cosine().gamma(times) - gamma.flat[0]).argmin()]
    t = round(float(t), 4)
    moment = p.moment(t)
    assert moment.alpha**2 == pytest.approx(float(gamma.flat[0]), rel=1e-6)
    ours = p.mix(x_0, eps, jax.tree.map(jnp.float32, moment))
    parity.check(self.NAME, 'xt_float_t', ours, oracle['xt_float_t'])
