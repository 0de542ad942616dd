import gaussian
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pix2seqd_jax.diffusion import (
  dormand_prince,
  process,
  samplers,
  sampling,
  schedules,
)
from pix2seqd_jax.diffusion import timesteps as timesteps_lib

COSINE = process.Process(schedules.Cosine())


def run(sampler, p=COSINE, x=None, timesteps=None, denoise=None, **kwargs):
  x = jnp.asarray(gaussian.normal(0, (4, 3))) if x is None else x
  keys = gaussian.keys(len(jax.tree.leaves(x)[0]))
  return sampling.sample(
    denoise or gaussian.exact_denoiser(p),
    p,
    x,
    keys,
    timesteps=timesteps or timesteps_lib.Uniform(0.9, 0.1).make(p, 1),
    sampler=sampler,
    **{'returns': 'state', 'with_memory': True, **kwargs},
  )


def test_the_tableau_has_its_order():
  # Quadrature: sum b c^k = 1 / (k + 1), to order 5 and 4.
  for weights, order in ((dormand_prince.STAGES[6], 5), (None, 4)):
    weights = dormand_prince.FOURTH if weights is None else weights
    for k in range(order):
      total = (weights * dormand_prince.NODES**k).sum()
      assert total == pytest.approx(1 / (k + 1), rel=1e-12)
  rows = dormand_prince.STAGES.sum(1)
  np.testing.assert_allclose(rows, dormand_prince.NODES, atol=1e-12)


@pytest.mark.parametrize(
  'p',
  [COSINE, process.Process(schedules.Straight(), 'velocity')],
  ids=repr,
)
def test_the_error_follows_the_tolerance(p):
  errors, calls = [], []
  with jax.enable_x64(True):
    x = jnp.asarray(np.random.default_rng(0).normal(size=(6, 3)))
    exact = gaussian.exact_flow(p, x, 0.9, 0.1)
    for tolerance in (1e-4, 1e-7):
      end, effort = run(samplers.RK45(tolerance, tolerance), p, x)
      errors.append(float(jnp.abs(end - exact).max()))
      calls.append(int(effort.calls.sum()))
      assert errors[-1] < 30 * tolerance
      assert not effort.unfinished.any()
  assert errors[1] < 1e-2 * errors[0]
  # Order 5: a thousandth of the error costs 1000^(1/5) = 4 times the steps.
  assert calls[0] <= calls[1] < 6 * calls[0]


def test_an_example_chooses_its_own_steps():
  # The second one is a hundred times as stiff as the first.
  def denoise(x, t, previous):
    stiffness = jnp.exp(4 * jnp.abs(x[:, :1]) / (1 + jnp.abs(x[:, :1])))
    wave = jnp.sin(stiffness * t[:, None] + x)
    return gaussian.Prediction(wave)

  x = jnp.asarray(gaussian.normal(0, (3, 4))) * jnp.array([[0.1], [9.0], [1.0]])
  sampler = samplers.RK45(1e-4, 1e-4)
  compiled = jax.jit(lambda x: run(sampler, x=x, denoise=denoise))
  every, effort = compiled(x)
  assert len(set(effort.calls.tolist())) > 1
  for i in range(3):
    alone, alone_effort = compiled(x[i : i + 1])
    np.testing.assert_allclose(alone[0], every[i], atol=2e-5)
    assert alone_effort.calls[0] == effort.calls[i]
    assert alone_effort.rejected[0] == effort.rejected[i]


def test_what_the_bound_cuts_short_is_finished_and_counted():
  tight = samplers.RK45(1e-6, 1e-6, max_steps=1)
  end, effort = run(tight)
  assert (effort.unfinished == 1).all()
  assert effort.batch_calls == 1 + 6
  # One attempt, of 0.1, and from there one step of DDIM.
  x = gaussian.normal(0, (4, 3))
  middle = gaussian.exact_flow(COSINE, x, 0.9, 0.8)
  m = COSINE.moment(0.1)
  x_0, x_1 = gaussian.posterior_mean(COSINE, middle, np.full(4, 0.8))
  np.testing.assert_allclose(end, m.alpha * x_0 + m.sigma * x_1, atol=1e-4)


def test_intervals_join_and_trees_are_one_example():
  p = process.Process(schedules.Cosine(), {'a': 'x0', 'b': 'v'})
  x = {k: jnp.asarray(gaussian.normal(i, (2, 3))) for i, k in enumerate('ab')}
  ends = {k: process.Process(p.schedule, p.target[k]) for k in x}

  def denoise(x, t, previous):
    exact = {k: gaussian.exact_denoiser(ends[k])(x[k], t, None) for k in x}
    return gaussian.Prediction({k: v.value for k, v in exact.items()})

  for num_steps in (1, 3):
    timesteps = timesteps_lib.Uniform(0.9, 0.1).make(None, num_steps)
    end, _ = run(samplers.RK45(1e-5, 1e-5), p, x, timesteps, denoise)
    for key in x:
      exact = gaussian.exact_flow(ends[key], x[key], 0.9, 0.1)
      np.testing.assert_allclose(end[key], exact, atol=1e-4)


def test_infinite_slopes_are_refused_with_the_fix():
  p = process.Process(schedules.StableDiffusion(), 'x1')
  with pytest.raises(ValueError, match=r'slope.*at t=0; set .*end=0\.001'):
    run(samplers.RK45(), p, timesteps=timesteps_lib.uniform(2))
  p = process.Process(schedules.LinearGamma())
  with pytest.raises(ValueError, match=r'at t=1; set .*start=0\.999'):
    run(
      samplers.RK45(), p, timesteps=timesteps_lib.Uniform(1.0, 0.1).make(p, 2)
    )


@pytest.mark.parametrize(
  'kwargs', [{'rtol': 0.0}, {'atol': 2.0}, {'max_steps': 0}]
)
def test_impossible_settings(kwargs):
  with pytest.raises(ValueError, match='rk45'):
    samplers.RK45(**kwargs)
