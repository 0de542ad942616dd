"""LDMSeg's own pieces of the diffusion against its release: weights of times,
the steps of sampling, its sampling function with self-conditioning."""

import gaussian
import jax.numpy as jnp
import numpy as np
import parity
import pytest
from looping import run

from pix2seqd_jax.diffusion import (
  loss_weights,
  process,
  samplers,
  schedules,
  time_sampling,
)
from pix2seqd_jax.diffusion import timesteps as timesteps_lib

TABLES = {
  'scaled_linear': schedules.StableDiffusion(),
  'linear': schedules.DDPM(),
}
WEIGHTS = {
  'max_clamp_snr_2': loss_weights.MaxClampSNR(),
  'max_clamp_snr_5': loss_weights.MaxClampSNR(5),
  'inverse_log_snr': loss_weights.InverseLogSNR(),
  'linear': loss_weights.Linear(),
  'fixed': loss_weights.Fixed(),
  'none': loss_weights.Uniform(),
}


@pytest.fixture(scope='module')
def tables(shared):
  with np.load(shared / 'oracles' / 'ldmseg_sched' / 'tables.npz') as arrays:
    return dict(arrays)


@pytest.mark.parametrize('table', TABLES)
def test_weights_of_all_thousand_steps(tables, table):
  t = jnp.arange(1, 1001) / 1000
  for name, weight in WEIGHTS.items():
    expected = tables[f'{table}/weights/{name}']
    # Their SNR is alpha / (1 - alpha) in float32, which cancels at first.
    parity.check(
      'ldmseg_sched/tables',
      f'{table}/{name}',
      weight(TABLES[table], t),
      expected,
      bound=2e-4 if name == 'fixed' else 2e-5,
    )


def test_the_papers_ramp_is_near_the_releases_weight():
  """Section 3.3: a quarter of the steps, linear; the sheet, 3.4."""
  t = jnp.asarray([1, 125, 250, 251, 1000]) / 1000
  ramp = loss_weights.Ramp()(TABLES['scaled_linear'], t)
  np.testing.assert_allclose(ramp, [0.004, 0.5, 1, 1, 1], rtol=1e-6)
  clamp = loss_weights.MaxClampSNR()(TABLES['scaled_linear'], t)
  np.testing.assert_allclose(clamp[2:], [0.97, 0.97, 1], atol=0.02)


@pytest.mark.parametrize('num', [1, 2, 5, 7, 10, 20, 25, 30, 50, 100, 250])
def test_steps_of_sampling(tables, num):
  timesteps = timesteps_lib.Blocks().make(None, num)
  expected = tables[f'timesteps/n{num}_tmin0']
  np.testing.assert_allclose(timesteps.now * 1000 - 1, expected, atol=1e-9)
  np.testing.assert_array_equal(timesteps.next[:-1], timesteps.now[1:])
  assert timesteps.next[-1] == 0


def test_sampling_function_with_self_conditioning(shared):
  name = 'ldmseg_sched/trainer_sample'
  with np.load(shared / 'oracles' / f'{name}.npz') as arrays:
    z = dict(arrays)
  schedule = TABLES['scaled_linear']

  def denoise(x, t, previous):
    """The network that they made up, [noisy | image | last estimate]."""
    inputs = jnp.concatenate([x, z['rgb_latents'], previous], axis=1)
    mixed = jnp.einsum('oc,bchw->bohw', z['W12'], inputs, precision='highest')
    step = schedule.step_of(t)[:, None, None, None]
    return gaussian.Prediction(jnp.tanh(mixed) * jnp.cos(step / 1000))

  for num in (5, 50):
    found = run(
      denoise,
      p=process.Process(schedule, 'x1'),
      x=jnp.asarray(z[f'selfcond12/steps{num}/z_init']),
      timesteps=timesteps_lib.Blocks().make(None, num),
      sampler=samplers.DDIM(),
      self_condition=True,
    )
    expected = z[f'selfcond12/steps{num}/final']
    parity.check(name, f'{num} steps', found, expected, bound=1e-5)


def test_times_are_those_of_steps():
  found = time_sampling.Discrete(high=0.01).sample(gaussian.keys(1)[0], 4000)
  steps, counts = np.unique(np.round(found * 1000) - 1, return_counts=True)
  np.testing.assert_array_equal(steps, np.arange(10))
  assert counts.min() > 300
  with pytest.raises(ValueError, match='none of the 1000 steps'):
    time_sampling.Discrete(0.0101, 0.0109)


def test_each_segment_weighs_the_same():
  ids = np.array([[[0, 3, 3], [3, 5, 0], [9, 9, 9]]])
  found = np.asarray(loss_weights.area_weight(jnp.asarray(ids), 8))
  np.testing.assert_allclose(found[ids == 3].sum(), 1, rtol=1e-6)
  np.testing.assert_allclose(found[ids == 5], 1)
  assert not found[(ids == 0) | (ids == 9)].any()  # void, and out of range


@pytest.mark.parametrize(
  ('make', 'message'),
  [
    (lambda: loss_weights.MaxClampSNR(0), 'limit=0 must be above 0'),
    (lambda: loss_weights.Ramp(0), r'end=0 must lie in \(0, 1\]'),
    (lambda: loss_weights.Ramp(2), r'end=2 must lie in \(0, 1\]'),
  ],
)
def test_impossible_weights(make, message):
  with pytest.raises(ValueError, match=message):
    make()
