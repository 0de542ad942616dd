"""The original's samples of an image, step by step, with its weights."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import parity
import pytest

from pix2seqd_jax.diffusion import process, samplers, sampling, schedules
from pix2seqd_jax.diffusion import timesteps as timesteps_lib
from pix2seqd_jax.encoding import bits
from pix2seqd_jax.types import Prediction

SCALE = 0.1
CODE = bits.Code(8)
FILES = [
  'io_ddim_s5_td0',
  'io_ddim_s5_td0.5',
  'io_ddim_s5_td1',
  'io_ddim_s5_td2',
  'io_ddim_s10_td1',
  'io_ddim_s5_td0_sigmoid',
  'io_ddpm_s5_td0',
  'io_ddpm_small_s5_td0',
]
# The original's first DDPM step divides a difference of float32 numbers by
# alpha(1) / alpha(.8) = 2.5e-4; ours does not (see samplers.DDPM). So ours is
# compared at the noise that this makes, and the original's arithmetic in our
# loop at the floor.
DDPM_SAMPLES = float(4 * np.finfo(np.float32).eps / 2.5e-4)
DDPM_FINAL = 1e-4


@dataclasses.dataclass(frozen=True)
class Recorded(samplers.DDPM):
  """DDPM with the noise of an oracle, [step, b, h, w, c]."""

  draws: np.ndarray | None = None

  def perturb(self, x, row, keys):
    return x + row.std * jnp.asarray(self.draws)[self.number(row)]

  def number(self, row):
    steps = len(self.draws)
    return jnp.round((1 - row.now.t) * steps).astype(jnp.int32)


@dataclasses.dataclass(frozen=True)
class Original(Recorded):
  """The mean as the original computes it: (x - (1 - a) / sigma x_1) / a^.5."""

  gammas: np.ndarray | None = None  # float32 [2, step]

  def step(self, predict, carry, row, keys):
    ends = predict(carry.x, row.now, carry.x_0)
    # In NumPy, one rounding an operation: XLA would contract them.
    mean = jax.pure_callback(
      self.mean, carry.x, carry.x, ends.x_0, self.number(row)
    )
    return samplers.Carry(self.perturb(mean, row, keys), ends.x_0)

  def mean(self, x, x_0, number):
    """float32 in, float32 out."""
    x, x_0 = np.asarray(x), np.asarray(x_0)
    now, after = self.gammas[:, int(number)]
    a, one = now / after, np.float32(1)
    eps = (x - np.sqrt(now) * x_0) / np.sqrt(one - now)
    return (x - (one - a) / np.sqrt(one - now) * eps) / np.sqrt(a)


@pytest.fixture(scope='module')
def network(shared):
  """The condition of the oracle's images, and the denoiser as a function."""
  params, config = oracles.load_pix2seq(shared, 'A', 'ema')
  modules = oracles.modules(config)
  folder = shared / 'oracles/pix2seq/A'
  images = oracles.load_npz(folder / 'io_encoder_ema_eval.npz')['images']
  with jax.default_matmul_precision('highest'):
    hidden, tokens = modules.encoder.apply(
      {
        'params': params['net']['encoder'],
        'batch_stats': params['stats']['encoder'],
      },
      jnp.asarray(images),
      train=False,
    )
    merged = modules.merge.apply(
      {'params': params['net']['merge']},
      hidden,
      tokens,
      mask_size=modules.mask_size,
    )

  def denoise(x, gamma):
    logits = modules.denoiser.apply(
      {'params': params['net']['denoiser']},
      jnp.concatenate([x, merged], -1),
      gamma,
      tokens,
    )
    parts = jnp.split(logits, 2, axis=-1)
    return jnp.concatenate([CODE.expected(p, SCALE) for p in parts], -1)

  return denoise


def trajectory(network, schedule, timesteps, sampler, x):
  """-> (the network's inputs [steps, b, ...], the last estimate)."""
  seen = []

  def denoise(x, t, previous):
    jax.debug.callback(lambda x: seen.append(np.array(x)), x, ordered=True)
    return Prediction(network(x, schedule.gamma(t)))

  @jax.jit
  def run(x):
    return sampling.sample(
      denoise,
      process.Process(schedule, clip_x0=(-SCALE, SCALE)),
      x,
      jax.random.split(jax.random.key(0), 2),
      timesteps=timesteps,
      sampler=sampler,
    )

  with jax.default_matmul_precision('highest'):
    final = run(jnp.asarray(x)).block_until_ready()
  jax.effects_barrier()
  return np.stack(seen), final


def choose(name, z, original):
  """-> (schedule, timesteps, sampler) of a file."""
  schedule = parity.ReferenceSchedule(
    schedules.Sigmoid(-3, 3, 0.9) if 'sigmoid' in name else schedules.Cosine()
  )
  timesteps = timesteps_lib.uniform(
    int(z['steps']), float(re.search(r'td([\d.]+)', name)[1])
  )
  np.testing.assert_allclose(
    schedule.gamma(timesteps.next), z['gamma_prev'], atol=1e-6
  )
  if 'ddpm' not in name:
    return schedule, timesteps, samplers.DDIM()
  draws = np.stack([z['step_noise'], z['step_noise_b1']], 1)
  variance = 'small' if 'small' in name else 'large'
  if original:
    gammas = np.stack([z['gamma'], z['gamma_prev']])
    return schedule, timesteps, Original(variance, draws, gammas)
  return schedule, timesteps, Recorded(variance, draws)


@pytest.mark.parametrize(
  'name, original',
  [(f, False) for f in FILES] + [(f, True) for f in FILES if 'ddpm' in f],
)
def test_trajectory(shared, network, name, original):
  folder = shared / 'oracles/pix2seq'
  z = oracles.load_npz(folder / 'A' / f'{name}.npz')
  floors = parity.read_floors(folder / 'noise_floor.json')
  schedule, timesteps, sampler = choose(name, z, original)
  states, final = trajectory(network, schedule, timesteps, sampler, z['x_T'])

  file = f'A/{name}.npz'
  bounds = {
    k: parity.FLOOR_FACTOR * floors[file, k] for k in ('samples_after', 'final')
  }
  label = f'pix2seq/{file}'
  if 'ddpm' in name and not original:
    bounds = {'samples_after': DDPM_SAMPLES, 'final': DDPM_FINAL}
  elif original:
    label += " (the original's arithmetic)"
  # The file holds the states of the first example; no call sees the last.
  key = 'samples_after'
  parity.check(label, key, states[1:, 0], z[key][:-1], bounds[key])
  parity.check(label, 'final', final, z['final'], bounds['final'])

  ids = [CODE.decode(final[..., :8], 134), CODE.decode(final[..., 8:], 101)]
  sure = np.abs(z['final']) > 1e-5
  sure = sure.reshape(*sure.shape[:-1], 2, 8).all(-1)
  assert sure.mean() > 0.99
  ids = np.stack(ids, -1)
  np.testing.assert_array_equal(ids[sure], z['final_int'][sure])
