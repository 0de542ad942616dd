import functools

import gaussian
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from looping import COSINE, run, shrink

from pix2seqd_jax.diffusion import noise, process, samplers, sampling, schedules
from pix2seqd_jax.diffusion import timesteps as timesteps_lib
from pix2seqd_jax.types import Timesteps

ALL = [make() for make in samplers.SAMPLERS.values()]


def test_the_network_is_traced_once_in_one_scan():
  traces = []

  def denoise(x, t, previous):
    traces.append(t)
    return shrink(x, t, previous)

  x, keys = jnp.zeros((2, 3)), gaussian.keys(2)
  jaxpr = jax.make_jaxpr(
    lambda x, k: sampling.sample(
      denoise,
      COSINE,
      x,
      k,
      timesteps=timesteps_lib.uniform(50),
      sampler=samplers.DDIM(),
    )
  )(x, keys)
  scans = [e for e in jaxpr.jaxpr.eqns if e.primitive.name == 'scan']
  assert [e.params['length'] for e in scans] == [50]
  assert len(traces) == 1
  assert traces[0].shape == (2,) and traces[0].dtype == jnp.float32


@pytest.mark.parametrize('sampler', ALL, ids=repr)
def test_a_sample_does_not_depend_on_its_batch(sampler):
  keys = gaussian.keys(5)
  shape = lambda n: jax.ShapeDtypeStruct((n, 4, 5), jnp.float32)
  every = run(x=noise.noise_like(keys, shape(5)), keys=keys, sampler=sampler)
  some = keys[jnp.asarray([3, 0])]
  few = run(x=noise.noise_like(some, shape(2)), keys=some, sampler=sampler)
  np.testing.assert_allclose(few, every[jnp.asarray([3, 0])], atol=1e-6)


def test_noise_differs_between_steps_and_examples():
  # A constant estimate: all that differs is the noise of the last steps.
  def denoise(x, t, previous):
    return gaussian.Prediction(jnp.zeros_like(x))

  x = jnp.zeros((2, 100))
  ends = [
    run(
      denoise,
      x=x,
      sampler=samplers.DDPM(),
      returns='state',
      timesteps=timesteps_lib.uniform(n),
    )
    for n in (1, 2)
  ]
  values = np.concatenate([np.ravel(e) for e in ends])
  assert len(np.unique(values)) == values.size


def test_self_conditioning_feeds_the_last_estimate():
  seen = []

  def denoise(x, t, previous):
    jax.debug.callback(
      lambda p: seen.append(np.array(p)), previous, ordered=True
    )
    return gaussian.Prediction(jnp.full_like(x, 0.1) + 0.5 * previous)

  end = run(denoise, self_condition=True, timesteps=timesteps_lib.uniform(4))
  jax.effects_barrier()
  levels = [0, 0.1, 0.15, 0.175]
  for ours, level in zip(seen, levels):
    np.testing.assert_allclose(ours, level, atol=1e-6)
  np.testing.assert_allclose(end, 0.1875, atol=1e-6)


def test_without_self_conditioning_nothing_is_fed():
  def denoise(x, t, previous):
    assert previous is None
    return shrink(x, t, previous)

  run(denoise)


def test_clipped_estimates_are_what_is_fed_and_returned():
  p = process.Process(schedules.Cosine(), clip_x0=(-0.1, 0.1))

  def denoise(x, t, previous):
    return gaussian.Prediction(jnp.full_like(x, 5.0) + previous)

  end = run(denoise, p=p, self_condition=True)
  np.testing.assert_array_equal(end, np.float32(0.1))


def test_trees_sample_as_their_leaves_do():
  p = process.Process(
    schedules.StableDiffusion(),
    {'image': 'x1', 'map': 'x0'},
    {'image': None, 'map': (-1.0, 1.0)},
  )
  keys = gaussian.keys(3)
  x = {
    'image': gaussian.normal(1, (3, 4, 4, 2)),
    'map': gaussian.normal(2, (3, 5)),
  }
  x = jax.tree.map(jnp.asarray, x)

  def denoise(x, t, previous):
    return gaussian.Prediction(
      {k: shrink(v, t, None).value for k, v in x.items()}
    )

  both = run(
    denoise, p=p, x=x, keys=keys, returns={'image': 'state', 'map': 'last_x0'}
  )
  for key, returns in [('image', 'state'), ('map', 'last_x0')]:
    one = process.Process(p.schedule, p.target[key], p.clip_x0[key])
    alone = run(p=one, x=x[key], keys=keys, returns=returns)
    np.testing.assert_allclose(alone, both[key], rtol=1e-5, atol=1e-5)


def test_last_x0_and_state_are_what_they_say():
  # On a schedule that reaches sigma = 0 the deterministic state at t = 0 is
  # the last estimate of x_0 itself.
  p = process.Process(schedules.Straight(), 'velocity')
  one, other = (run(p=p, returns=r) for r in ('state', 'last_x0'))
  np.testing.assert_allclose(one, other, atol=1e-6)
  # Where the timesteps stops early, they differ.
  timesteps = Timesteps(np.array([1.0, 0.8]), np.array([0.8, 0.6]))
  one, other = (
    run(p=p, returns=r, timesteps=timesteps) for r in ('state', 'last_x0')
  )
  assert np.abs(one - other).max() > 0.1


def test_low_precision_sources_are_widened():
  end = run(x=jnp.ones((2, 3), jnp.bfloat16))
  assert end.dtype == jnp.float32


def test_a_float64_source_stays_float64():
  with jax.enable_x64(True):
    end = run(x=jnp.ones((2, 3), jnp.float64), sampler=samplers.DDPM())
    assert end.dtype == jnp.float64


def test_gradients_flow_through_the_loop():
  def loss(scale):
    def denoise(x, t, previous):
      return gaussian.Prediction(scale * jnp.tanh(x))

    return run(denoise).sum()

  h = 1e-2
  slope = (loss(0.5 + h) - loss(0.5 - h)) / (2 * h)
  assert float(jax.grad(loss)(0.5)) == pytest.approx(float(slope), rel=2e-2)


def test_block_x0_is_the_first_estimate_of_the_last_row():
  x = jnp.asarray(gaussian.normal(0, (3, 4)))
  seen = []

  def denoise(x, t, previous):
    jax.debug.callback(lambda *a: seen.append(a), x, t, ordered=True)
    return shrink(x, t, previous)

  def check(number, **kwargs):
    seen.clear()
    found = run(denoise, x=x, returns='block_x0', **kwargs)
    jax.effects_barrier()
    expected = shrink(*map(jnp.asarray, seen[number]), None).value
    np.testing.assert_allclose(found, jnp.clip(expected, -1, 1), atol=1e-6)

  timesteps = timesteps_lib.Uniform(end=0.01).make(None, 6)
  check(3, timesteps=timesteps, sampler=samplers.Singlestep(3, blocks=(3, 3)))
  check(-1, timesteps=timesteps)  # one call a row
  # An inner loop: the estimate at the start of the interval.
  check(
    0,
    timesteps=timesteps_lib.Uniform(end=0.1).make(None, 1),
    sampler=samplers.RK45(),
  )


def test_denoised_is_the_estimate_at_the_end():
  timesteps = Timesteps(np.array([1.0, 0.8]), np.array([0.8, 0.6]))
  state = run(timesteps=timesteps, returns='state')
  expected = jnp.clip(shrink(state, jnp.full(3, 0.6), None).value, -1, 1)
  found = run(timesteps=timesteps, returns='denoised')
  np.testing.assert_allclose(found, expected, atol=1e-6)
  # Its self-conditioning is the last estimate.
  memory = lambda x, t, previous: gaussian.Prediction(0.5 * previous + 0.1)
  found = run(
    memory, timesteps=timesteps, returns='denoised', self_condition=True
  )
  np.testing.assert_allclose(found, 0.175, atol=1e-6)
  # And its time is checked like the others.
  p = process.Process(schedules.StableDiffusion(), 'x0')
  run(p=p)
  with pytest.raises(ValueError, match='t=0, where alpha=1'):
    run(p=p, returns='denoised')


class TestCallback:
  def test_it_sees_every_step_in_order(self):
    seen = []
    states = [
      run(callback=seen_by(seen)),
      run(),
    ]
    jax.effects_barrier()
    np.testing.assert_array_equal(*states)
    assert [s[:2] for s in seen] == [(i, 6) for i in range(6)]
    np.testing.assert_allclose(seen[-1][3], states[0], atol=1e-7)
    for i in range(
      6
    ):  # the state after step i, as a shorter timesteps gives it
      short = Timesteps(*(side[: i + 1] for side in timesteps_lib.uniform(6)))
      state = run(timesteps=short, returns='state')
      np.testing.assert_allclose(seen[i][2], state, atol=1e-5)

  def test_steps_are_counted_over_all_parts(self):
    seen = []
    run(sampler=samplers.Heun(), callback=seen_by(seen))
    jax.effects_barrier()
    assert [s[:2] for s in seen] == [(i, 6) for i in range(6)]

  def test_trees(self):
    seen = []
    p = process.Process(schedules.Cosine(), clip_x0=(-1.0, 1.0))
    x = {'a': jnp.ones((2, 3)), 'b': jnp.ones((2, 4))}
    run(
      lambda x, t, previous: gaussian.Prediction(jax.tree.map(jnp.tanh, x)),
      p=p,
      x=x,
      callback=seen_by(seen),
    )
    jax.effects_barrier()
    assert seen[0][3]['b'].shape == (2, 4)

  def test_without_one_the_program_is_a_bare_scan(self):
    timesteps, sampler = timesteps_lib.uniform(6), samplers.DDIM()

    def bare(x, keys):
      rows = jax.tree.map(
        lambda c: jnp.asarray(c, jnp.float32), sampler.tables(COSINE, timesteps)
      )

      def body(state, numbered):
        (x, _), (step, row) = state, numbered
        jax.vmap(jax.random.fold_in, (0, None))(keys, step)
        t = jnp.broadcast_to(row.now.t, keys.shape)
        value = shrink(x, t, None).value
        ends = COSINE.endpoints(x, value, row.now)
        combine = lambda x, a, b: row.c_x * x + row.c_0 * a + row.c_1 * b
        return (combine(x, *ends), ends.x_0), None

      x = jnp.asarray(x, jnp.float32)
      start = (x, jnp.zeros_like(x))
      (_, x_0), _ = jax.lax.scan(body, start, (jnp.arange(6), rows))
      return x_0

    def ours(x, keys, **kwargs):
      return sampling.sample(
        shrink, COSINE, x, keys, timesteps=timesteps, sampler=sampler, **kwargs
      )

    args = jnp.zeros((2, 3)), gaussian.keys(2)
    text = str(jax.make_jaxpr(ours)(*args))
    assert text == str(jax.make_jaxpr(bare)(*args))
    told = functools.partial(ours, callback=print)
    assert 'callback' in str(jax.make_jaxpr(told)(*args))
    assert 'callback' not in text


def seen_by(seen):
  return lambda *args: seen.append(args)


def test_errors_come_before_compilation():
  never = lambda x, t, previous: pytest.fail('the network was traced')
  with pytest.raises(ValueError, match="returns='x0'"):
    run(never, returns='x0')
  with pytest.raises(ValueError, match='t=1, where alpha=0'):
    run(never, p=process.Process(schedules.Straight(), 'x1'))
  with pytest.raises(ValueError, match='two vectors'):
    run(never, timesteps=Timesteps(np.ones(2), np.zeros(1)))
  with pytest.raises(ValueError, match='euler cannot step'):
    run(
      never,
      p=process.Process(schedules.LinearGamma()),
      sampler=samplers.Euler(),
    )
