import gaussian
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pix2seqd_jax.diffusion import process, samplers, sampling, schedules
from pix2seqd_jax.diffusion import sampler as sampler_lib
from pix2seqd_jax.diffusion import timesteps as timesteps_lib
from pix2seqd_jax.types import Timesteps


def end_of(p, timesteps, x, sampler=samplers.Heun(), denoise=None):
  return sampling.sample(
    denoise or gaussian.exact_denoiser(p),
    p,
    x,
    gaussian.keys(len(x)),
    timesteps=timesteps,
    sampler=sampler,
    returns='state',
  )


def final_error(p, num_steps, start, stop):
  """Distance from the exact solution, in float64."""
  timesteps = timesteps_lib.Uniform(start, stop).make(p, num_steps)
  with jax.enable_x64(True):
    x = jnp.asarray(np.random.default_rng(0).normal(size=(6, 3)))
    end = end_of(p, timesteps, x)
    return float(jnp.abs(end - gaussian.exact_flow(p, x, start, stop)).max())


@pytest.mark.parametrize(
  'p, start, stop',
  [
    (process.Process(schedules.Cosine()), 0.9, 0.1),
    (process.Process(schedules.Cosine()), 1.0, 0.0),  # a last step of order 1
    (process.Process(schedules.Straight(), 'velocity'), 0.1, 0.9),  # up
    # Its slope at t = 1 is infinite.
    (process.Process(schedules.LinearGamma(), 'v'), 1.0, 0.1),
  ],
  ids=repr,
)
def test_second_order_on_gaussian_data(p, start, stop):
  errors = [final_error(p, n, start, stop) for n in (50, 100)]
  assert errors[1] < 2e-3
  order = np.log2(errors[0] / errors[1])
  # Steps even in t meet the square root at t = 1 of gamma = 1 - t.
  least = 1.4 if isinstance(p.schedule, schedules.LinearGamma) else 1.9
  assert least < order < 2.3


def test_it_is_heun_on_the_straight_schedule():
  p = process.Process(schedules.Straight(), 'velocity')
  x = jnp.asarray(gaussian.normal(0, (3, 4)))
  net = lambda x, t, previous: gaussian.Prediction(jnp.tanh(2 * x + t[:, None]))
  f = lambda x, t: jnp.tanh(2 * x + t)
  one = f(x, 0.8)
  two = f(x - 0.3 * one, 0.5)
  timesteps = Timesteps(np.array([0.8]), np.array([0.5]))
  ours = end_of(p, timesteps, x, denoise=net)
  np.testing.assert_allclose(ours, x - 0.15 * (one + two), atol=1e-6)


def test_it_is_exact_where_the_endpoints_are_known():
  p = process.Process(schedules.Cosine())
  x_0, x_1 = (jnp.asarray(gaussian.normal(s, (4, 5))) for s in (1, 2))
  start = p.mix(x_0, x_1, jnp.ones(4))
  timesteps = timesteps_lib.Uniform(end=0.1).make(p, 3)
  denoise = lambda x, t, previous: gaussian.Prediction(x_0)
  end = end_of(p, timesteps, start, denoise=denoise)
  np.testing.assert_allclose(end, p.mix(x_0, x_1, jnp.full(4, 0.1)), atol=1e-5)


def test_steps_onto_an_end_are_ddims():
  p = process.Process(schedules.Cosine(), clip_x0=(-1.0, 1.0))
  x = jnp.asarray(gaussian.normal(0, (3, 4)))
  for start, stop in ((0.3, 0.0), (0.7, 1.0)):
    timesteps = timesteps_lib.Uniform(start, stop).make(p, 1)
    ours, ddim = (
      end_of(p, timesteps, x, s) for s in (samplers.Heun(), samplers.DDIM())
    )
    np.testing.assert_allclose(ours, ddim, atol=1e-6)
  # With td several rows land on 0.
  timesteps = timesteps_lib.uniform(6, 2)
  parts = sampler_lib.plan(samplers.Heun(), p, timesteps)
  assert [sampler_lib.num_rows(rows) for _, rows in parts] == [3, 3]
