"""SemFlow's two samplers as one: the release's Euler steps, both ways, of a
field that is no network."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import parity
import pytest

from pix2seqd_jax.diffusion import guidance, samplers, sampling, schedules
from pix2seqd_jax.diffusion import timesteps as timesteps_lib
from pix2seqd_jax.diffusion.process import Process
from pix2seqd_jax.types import Prediction

STRAIGHT = Process(schedules.Straight(), 'velocity')
KEYS = jax.random.split(jax.random.key(0), 2)
COUNTS = (1, 2, 3, 5, 10, 20, 25, 30, 50, 100, 1000)
EVEN = (1, 2, 5, 10, 20, 25, 50, 100)


@pytest.fixture(scope='module')
def original(shared):
  with np.load(shared / 'oracles' / 'semflow' / 'euler.npz') as arrays:
    return dict(arrays)


def timesteps_of(way, steps, maker=timesteps_lib.SemFlow()):
  timesteps = maker.make(STRAIGHT, steps)
  return timesteps if way == 'forward' else timesteps_lib.reverse(timesteps)


@pytest.mark.parametrize('steps', COUNTS)
@pytest.mark.parametrize('way', ['forward', 'reverse'])
def test_times_are_the_originals(original, way, steps):
  timesteps = timesteps_of(way, steps)
  timesteps_lib.check(timesteps)
  told = 1000 * (1 - timesteps.now)
  expected = original[f'steps{steps}/{way}/unet_t']
  np.testing.assert_allclose(told, expected, atol=1e-9)
  np.testing.assert_allclose(np.sum(timesteps.next - timesteps.now) ** 2, 1)
  if steps in EVEN:
    even = timesteps_of(way, steps, timesteps_lib.Uniform())
    np.testing.assert_allclose(np.stack(timesteps), np.stack(even), atol=1e-15)


def field(z):
  """Their tanh(W x) cos(t / 1000) + mean(enc) / 10, on our clock."""

  def denoise(x_t, t, condition, previous):
    wide = lambda v: v[:, None, None, None]
    value = jnp.tanh(x_t @ z['W'].T) * jnp.cos(wide(1 - t))
    return Prediction(-value - 0.1 * wide(condition.mean((1, 2))))

  return denoise


@pytest.mark.parametrize('way', ['forward', 'reverse'])
def test_trajectories_are_the_originals(original, way):
  z = original
  start = jnp.asarray(np.moveaxis(z['z'], 1, -1))
  states = {}

  def run(start, steps):
    def note(step, total, x, x_0):
      states.setdefault(total, []).append(np.moveaxis(x, -1, 1))

    kept = f'steps{steps}/{way}/all' in z
    context = jnp.broadcast_to(z['enc'], (2, *z['enc'].shape[1:]))
    return sampling.sample(
      guidance.guide(field(z), context, None, 1.0),
      *(STRAIGHT, start, KEYS),
      timesteps=timesteps_of(way, steps),
      sampler=samplers.Euler(),
      returns='state',
      callback=note if kept else None,
    )

  with jax.default_matmul_precision('highest'):
    program = jax.jit(lambda start: [run(start, n) for n in COUNTS])
    finals = jax.block_until_ready(program(start))
  jax.effects_barrier()
  check = functools.partial(parity.check, 'semflow/euler')
  for steps, final in zip(COUNTS, finals, strict=True):
    key = f'steps{steps}/{way}'
    expected = np.moveaxis(z[f'{key}/final'], 1, -1)
    check(f'{key}/final', final, expected, 1e-5)
    if f'{key}/all' in z:
      count = len(timesteps_of(way, steps).now)
      check(f'{key}/all', np.stack(states[count]), z[f'{key}/all'], 1e-5)


def test_a_grid_that_is_no_chain_is_mirrored():
  timesteps = timesteps_lib.SemFlow().make(STRAIGHT, 30)
  assert len(timesteps.now) == 31 and timesteps.next[-1] < 0
  back = timesteps_lib.reverse(timesteps)
  np.testing.assert_allclose(back.now, 1 - timesteps.now)
  chain = timesteps_lib.Quadratic().make(STRAIGHT, 5)
  back = timesteps_lib.reverse(chain)
  np.testing.assert_array_equal(back.now[1:], chain.now[:0:-1])
  assert (back.now[0], back.next[-1]) == (0, 1)
  for ours, again in zip(chain, timesteps_lib.reverse(back), strict=True):
    np.testing.assert_array_equal(ours, again)


@pytest.mark.parametrize('steps, td', [(1001, 0), (5, 1.0), (0, 0)])
def test_impossible_steps_are_named(steps, td):
  with pytest.raises(ValueError, match='steps'):
    timesteps_lib.SemFlow().make(STRAIGHT, steps, td)


def test_only_the_last_step_may_land_beyond():
  timesteps = timesteps_lib.SemFlow().make(STRAIGHT, 7)
  early = timesteps._replace(next=timesteps.next - 0.2)
  with pytest.raises(ValueError, match='must lie in'):
    timesteps_lib.check(early)
