"""Evaluations counted are evaluations promised, for every sampler."""

import gaussian
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pix2seqd_jax.diffusion import process, samplers, sampling, schedules
from pix2seqd_jax.diffusion import sampler as sampler_lib
from pix2seqd_jax.diffusion import timesteps as timesteps_lib

COSINE = process.Process(schedules.Cosine(), clip_x0=(-1.0, 1.0))
FIXED = {
  **{
    name: make() for name, make in samplers.SAMPLERS.items() if name != 'rk45'
  },
  'ddim, eta': samplers.DDIM(0.5),
  '2S, fixed': samplers.Singlestep(2, inner='logsnr'),
  '3M': samplers.Multistep(3),
}


def count(sampler, timesteps, x=None, **kwargs):
  """-> (times at which the network was called, the result)."""
  x = jnp.asarray(gaussian.normal(0, (2, 3))) if x is None else x
  seen = []

  def denoise(x, t, previous):
    jax.debug.callback(lambda t: seen.append(np.array(t)), t, ordered=True)
    wide = t.reshape((-1,) + (1,) * (x.ndim - 1))
    return gaussian.Prediction(jnp.tanh(x) * (1.2 - wide))

  found = jax.jit(
    lambda x, keys: sampling.sample(
      denoise, COSINE, x, keys, timesteps=timesteps, sampler=sampler, **kwargs
    )
  )(x, gaussian.keys(2))
  jax.block_until_ready(found)
  jax.effects_barrier()
  return np.array(seen), found


@pytest.mark.parametrize('name', FIXED)
@pytest.mark.parametrize('num_steps', [1, 8])
def test_calls_are_those_promised(name, num_steps):
  sampler, num_steps = FIXED[name], max(num_steps, 2 * ('2S' in name))
  timesteps = timesteps_lib.Uniform(start=0.6).make(None, num_steps)
  seen, _ = count(sampler, timesteps, returns='denoised')  # one call more
  promised = sampler_lib.evaluations(sampler, COSINE, timesteps)
  assert len(seen) == promised + 1
  # Heun's last step is of first order.
  assert promised == (2 * num_steps - 1 if name == 'heun' else num_steps)
  times = np.sort([*sampler_lib.times(sampler, COSINE, timesteps), 0])
  np.testing.assert_allclose(np.sort(seen[:, 0]), times, atol=1e-6)


@pytest.mark.parametrize('num_steps', [1, 3])
def test_rk45_counts_its_calls(num_steps):
  timesteps = timesteps_lib.Uniform(end=0.1).make(None, num_steps)
  sampler = samplers.RK45(max_steps=40)
  seen, (_, effort) = count(sampler, timesteps, with_memory=True)
  assert len(seen) == effort.batch_calls
  assert len(seen) <= sampler_lib.evaluations(sampler, COSINE, timesteps)
  assert (effort.calls <= effort.batch_calls).all()
  assert not effort.unfinished.any()
  # An interval costs one call and six for each attempt.
  assert (effort.calls % 6 == num_steps % 6).all()
  if num_steps == 1:  # the batch takes as long as its slowest example
    assert effort.batch_calls == effort.calls.max()
  assert seen.min() >= 0.1 - 1e-6 and seen.max() <= 1


def test_a_plan_hands_on_memory_and_the_numbers_of_steps():
  class Part:
    def __init__(self, factor):
      self.factor = factor

    def step(self, predict, carry, row, keys):
      ends = predict(carry.x, row, carry.x_0)
      draw = jax.vmap(lambda k: jax.random.uniform(k))(keys)
      memory = (carry.memory[0] + self.factor, carry.memory[1] + draw)
      return sampler_lib.Carry(carry.x, ends.x_0, memory)

  class Planned:
    def init(self, x):
      return jnp.zeros(()), jnp.zeros(2)

    def plan(self, process, timesteps):
      rows = process.moment(timesteps.now)
      cut = lambda a, b: jax.tree.map(lambda c: c[a:b], rows)
      return (Part(1), cut(0, 2)), (Part(10), cut(2, 5))

  class Whole(Planned):
    def plan(self, process, timesteps):
      return ((Part(1), process.moment(timesteps.now)),)

  ends = [
    count(s(), timesteps_lib.uniform(5), with_memory=True)[1][1]
    for s in (Planned, Whole)
  ]
  assert float(ends[0][0]) == 32 and float(ends[1][0]) == 5
  # The same keys for the same numbers of steps.
  np.testing.assert_allclose(ends[0][1], ends[1][1], rtol=1e-6)
  assert (
    sampler_lib.evaluations(Planned(), COSINE, timesteps_lib.uniform(5)) == 5
  )
