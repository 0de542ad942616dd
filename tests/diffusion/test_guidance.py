import gaussian
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pix2seqd_jax.diffusion import (
  guidance,
  process,
  samplers,
  sampling,
  schedules,
)
from pix2seqd_jax.diffusion import timesteps as timesteps_lib
from pix2seqd_jax.types import Prediction

P = process.Process(
  schedules.StableDiffusion(),
  {'image': 'x1', 'map': 'x0'},
  {'image': None, 'map': (-1.0, 1.0)},
)
STATE = {
  'image': jnp.asarray(gaussian.normal(1, (3, 4, 2))),
  'map': jnp.asarray(gaussian.normal(2, (3, 5))),
}
CONDITION = {'text': jnp.asarray(gaussian.normal(3, (3, 6)))}
NULL = {'text': jnp.asarray(gaussian.normal(4, (1, 6)))}


def network(x, t, condition, previous):
  """Looks at the condition, the time and the last estimate."""
  assert t.shape[0] == x['map'].shape[0] == condition['text'].shape[0]
  pull = condition['text'].sum(-1) + t
  if previous is not None:
    pull = pull + previous['map'].sum(-1)
  wide = lambda v: pull.reshape((-1,) + (1,) * (v.ndim - 1))
  return Prediction(jax.tree.map(lambda v: jnp.tanh(v + wide(v)), x))


def sample(denoise, self_condition=False):
  return sampling.sample(
    denoise,
    P,
    STATE,
    gaussian.keys(3),
    timesteps=timesteps_lib.uniform(4),
    sampler=samplers.DDIM(),
    returns='state',
    self_condition=self_condition,
  )


@pytest.mark.parametrize('self_condition', [False, True])
@pytest.mark.parametrize('scale', [0.0, 1.5, 4])
def test_one_call_of_twice_the_batch_is_two_calls(scale, self_condition):
  def two_calls(x, t, previous):
    given = network(x, t, CONDITION, previous).value
    null = jax.tree.map(lambda n: jnp.repeat(n, 3, 0), NULL)
    none = network(x, t, null, previous).value
    return Prediction(
      jax.tree.map(lambda a, b: b + scale * (a - b), given, none)
    )

  calls = []

  def counted(x, t, condition, previous):
    calls.append(t.shape)
    return network(x, t, condition, previous)

  guided = guidance.guide(counted, CONDITION, NULL, scale)
  ours = sample(guided, self_condition)
  assert calls == [(6,)]  # traced once, twice the batch
  expected = sample(two_calls, self_condition)
  for key in STATE:
    np.testing.assert_allclose(ours[key], expected[key], rtol=1e-5, atol=1e-5)


def test_scale_one_costs_nothing():
  sizes = []

  def counted(x, t, condition, previous):
    sizes.append(t.shape)
    assert condition is CONDITION
    return network(x, t, condition, previous)

  plain = sample(lambda x, t, previous: network(x, t, CONDITION, previous))
  ours = sample(guidance.guide(counted, CONDITION, None, 1))
  assert sizes == [(3,)]
  jax.tree.map(np.testing.assert_array_equal, ours, plain)


def test_the_scale_is_diffusers_and_gamma_is_one_less():
  # pdm.md 4.5: value_c + gamma (value_c - value_0).
  gamma = 1.5
  given, none = jnp.full((2, 3), 0.2), jnp.full((2, 3), -0.1)
  denoise = lambda x, t, condition, previous: Prediction(condition)
  guided = guidance.guide(denoise, given, none, 1 + gamma)
  value = guided(given, jnp.ones(2), None).value
  np.testing.assert_allclose(value, given + gamma * (given - none), rtol=1e-6)


def test_clipping_comes_after_guidance():
  # 3 c - 2 n leaves [-1, 1] although c and n lie inside.
  p = process.Process(schedules.Cosine(), clip_x0=(-1.0, 1.0))
  denoise = lambda x, t, condition, previous: Prediction(condition)
  given, none = jnp.full((2, 3), 0.9), jnp.full((2, 3), 0.1)
  end = sampling.sample(
    guidance.guide(denoise, given, none, 3.0),
    p,
    jnp.zeros((2, 3)),
    gaussian.keys(2),
    timesteps=timesteps_lib.uniform(2),
    sampler=samplers.DDIM(),
  )
  np.testing.assert_array_equal(end, 1.0)


def test_errors():
  with pytest.raises(ValueError, match=r'guidance=2\.0 needs an answer'):
    guidance.guide(network, CONDITION, None, 2.0)
  with pytest.raises(ValueError, match='must be alike'):
    guidance.guide(network, CONDITION, {'words': NULL['text']}, 2.0)
