"""The sampling loop against the originals: the sheet, diffusers, timesteps."""

import dataclasses
import json

import gaussian
import jax
import jax.numpy as jnp
import numpy as np
import parity
import pytest
from looping import run

from pix2seqd_jax.diffusion import process, samplers, sampling, schedules
from pix2seqd_jax.diffusion import timesteps as timesteps_lib


class TestParity:
  """Section 3.7 of the method's sheet: numbers of the original sampler."""

  WANTED = {0: 0.00401415, 1: 7.28374e-05, 2: 1.95219e-06}
  SPREAD = {0: 0.009100, 1: 1.65e-4, 2: 4e-6}

  @pytest.mark.parametrize('td', [0, 1, 2])
  def test_toy_sampler(self, td):
    ours = self.first(parity.ReferenceSchedule(schedules.Cosine()), td)
    name = 'methods/pix2seqd.md 3.7'
    parity.check(name, f'toy sampler, td {td}', ours, self.WANTED[td], 1e-5)
    # With sigma(0) not rounded: the original's is 10 % off there.
    exact = self.first(schedules.Cosine(), td)
    assert exact == pytest.approx(self.WANTED[td], rel=5e-3)

  def first(self, schedule, td):
    end = run(
      lambda x, t, previous: gaussian.Prediction(0.05 * x),
      p=process.Process(schedule, clip_x0=(-0.1, 0.1)),
      x=jnp.asarray(gaussian.normal(5, (2, 32, 32, 16))),
      timesteps=timesteps_lib.uniform(10, td),
    )
    assert float(end.std()) == pytest.approx(self.SPREAD[td], rel=0.12)
    return float(np.ravel(end)[0])


class TestDiffusersParity:
  """Whole trajectories of LDMSeg's scheduler, on a made-up network.

  Its 999, 799, ..., 199 are the uniform timesteps, and its last alpha of 1 is
  t = 0.
  """

  NAME = 'ldmseg_sched/trajectories.npz'
  KINDS = {'epsilon': 'x1', 'sample': 'x0', 'v_prediction': 'v'}
  RUNS = [
    'epsilon/scaled_linear/clip0_aone1_ucm0/steps20',
    'epsilon/linear/clip0_aone1_ucm0/steps10',
    'epsilon/scaled_linear/clip1_aone1_ucm0/steps10',
    'epsilon/scaled_linear/clip1_aone1_ucm1/steps10',
    'sample/scaled_linear/clip0_aone1_ucm0/steps10',
    'sample/scaled_linear/clip1_aone1_ucm0/steps10',
    'sample/scaled_linear/clip1_aone1_ucm1/steps10',
    'v_prediction/scaled_linear/clip0_aone1_ucm0/steps10',
    'v_prediction/scaled_linear/clip1_aone1_ucm0/steps10',
    'v_prediction/scaled_linear/clip1_aone1_ucm1/steps10',
  ]

  @pytest.mark.parametrize('name', RUNS)
  def test_trajectory(self, shared, name):
    oracle = np.load(shared / 'oracles' / self.NAME)
    kind, table, flags, _ = name.split('/')
    schedule = (
      schedules.StableDiffusion()
      if table == 'scaled_linear'
      else schedules.DDPM(0.00085, 0.012)
    )
    p = process.Process(
      schedule,
      self.KINDS[kind],
      (-1.0, 1.0) if 'clip1' in flags else None,
      'ucm1' in flags,
    )
    timesteps = timesteps_lib.uniform(len(oracle[f'{name}/t']))
    np.testing.assert_allclose(
      schedule.step_of(timesteps.now), oracle[f'{name}/t']
    )

    def denoise(x, t, previous):
      step = schedule.step_of(t)[:, None, None, None]
      mixed = jnp.einsum('oc,bchw->bohw', oracle['W'], x, precision='highest')
      return gaussian.Prediction(
        jnp.tanh(mixed) * jnp.cos(step / 1000) + 0.1 * x
      )

    x = jnp.asarray(oracle['z_init'])
    for returns, key in [('state', 'prev'), ('last_x0', 'x0')]:
      end = run(denoise, p=p, x=x, timesteps=timesteps, returns=returns)
      theirs = oracle[f'{name}/{key}'][-1]
      parity.check(self.NAME, f'{name}/{key}', end, theirs, 1e-5)


@dataclasses.dataclass(frozen=True)
class Recorded(samplers.DDIM):
  """DDIM with the noise of an oracle, [step, b, ...], on given timesteps."""

  draws: np.ndarray | None = None
  called: np.ndarray | None = None

  def perturb(self, x, row, keys):
    if not self.eta:
      return x
    number = jnp.argmin(jnp.abs(jnp.asarray(self.called) - row.now.t))
    return x + row.std * jnp.asarray(self.draws)[number]


class TestDiffusersGrids:
  """Every run of diffusers' DDIM: spacings, targets, clipping, eta, zero SNR.

  States and estimates of every step, as the callback sees them.
  """

  NAME = 'diffusers/sched_ddim.npz'
  CASES = (
    *(
      f'{kind}/{spacing}'
      for kind in TestDiffusersParity.KINDS
      for spacing in ('leading', 'trailing', 'linspace')
    ),
    'sd15_default',
    'clip_sample',
    'eta1',
    'zero_snr_trailing_v',
  )

  @pytest.mark.parametrize('case', CASES)
  def test_trajectory(self, shared, case):
    folder = shared / 'oracles/diffusers'
    every = json.loads((folder / 'meta.json').read_text())['scheduler_cases']
    case = f'ddim/{case}'
    config, step_kwargs = every[case]['config'], every[case]['step_kwargs']
    with np.load(folder / 'sched_ddim.npz') as file:
      oracle = {
        k: file[k]
        for k in file.files
        if k.startswith((case, 'W', 'x_T', 'eta'))
      }
    draws = [oracle[f'eta_variance_noise/{i:02d}'] for i in range(20)]
    p = self.process(config)
    maker = timesteps_lib.SPACINGS[config.get('timestep_spacing', 'leading')](
      steps_offset=config.get('steps_offset', 0),
      set_alpha_to_one=config['set_alpha_to_one'],
    )
    runs, seen = {n: maker.make(p, n) for n in (5, 10, 15, 20)}, {}

    def denoise(x, t, previous):
      step = p.schedule.step_of(t)[:, None, None, None]
      mixed = jnp.einsum('oc,bchw->bohw', oracle['W'], x, precision='highest')
      return gaussian.Prediction(jnp.tanh(mixed) * jnp.cos(step / 1000))

    @jax.jit
    def run_all(x, keys):
      return [
        sampling.sample(
          denoise,
          p,
          x,
          keys,
          timesteps=timesteps,
          sampler=Recorded(
            step_kwargs.get('eta', 0), np.stack(draws), timesteps.now
          ),
          callback=lambda i, n, *found: seen.update({(n, i): found}),
        )
        for timesteps in runs.values()
      ]

    jax.block_until_ready(run_all(jnp.asarray(oracle['x_T']), gaussian.keys(2)))
    jax.effects_barrier()
    for n, timesteps in runs.items():
      theirs = oracle[f'{case}/steps{n}/timesteps']
      np.testing.assert_allclose(p.schedule.step_of(timesteps.now), theirs)
      for j, key in enumerate(('states', 'x0')):
        ours = np.stack([seen[n, i][j] for i in range(n)])
        key = f'{case}/steps{n}/{key}'
        parity.check(self.NAME, key, ours, oracle[key], 1e-5)

  def process(self, config):
    kind = config.get('prediction_type', 'epsilon')
    zero_snr = config.get('rescale_betas_zero_snr', False)
    return process.Process(
      schedules.StableDiffusion(zero_snr=zero_snr),
      TestDiffusersParity.KINDS[kind],
      (-1.0, 1.0) if config['clip_sample'] else None,
      recompute_x1=False,
    )
