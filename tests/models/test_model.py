"""What every method derives: sampling with guidance, choice and callback."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pix2seqd_jax.diffusion import noise, samplers, schedules
from pix2seqd_jax.diffusion import timesteps as timesteps_lib
from pix2seqd_jax.diffusion.process import Process
from pix2seqd_jax.models import model
from pix2seqd_jax.train import evaluate
from pix2seqd_jax.types import Encoded, Prediction

COSINE = Process(schedules.Cosine())


@dataclasses.dataclass(frozen=True)
class Tiny(model.DiffusionModel):
  """x_0 of each example is what its image says, in steps."""

  has_null: bool = True
  process: Process = COSINE

  def encode(self, params, batch, rng, *, train=False):
    null = jnp.zeros((1, 3)) if self.has_null else None
    return Encoded(batch['image'], null)

  def source(self, params, batch, encoded, keys, *, train=False):
    return noise.noise_like(
      keys, jax.ShapeDtypeStruct((len(keys), 3), jnp.float32)
    )

  def target(self, params, batch, rng):
    pytest.fail('sampling reads no labels')

  def denoise(
    self, params, x_t, t, condition, *, previous=None, train=False, rng=None
  ):
    return Prediction(condition + 0.1 * jnp.tanh(x_t))

  def decode(self, params, x_0, batch):
    return x_0


BATCH = {'image': jnp.asarray([[0.1, 0.2, 0.3], [0.4, 0.5, 0.6]])}
KEYS = jax.random.split(jax.random.key(0), 2)


def sample(tiny=Tiny(), batch=BATCH, keys=KEYS, **kwargs):
  sampler = evaluate.make_sampler(
    tiny, timesteps=timesteps_lib.uniform(3), sampler=samplers.DDIM(), **kwargs
  )
  return sampler({}, batch, keys)


def test_guidance_moves_away_from_the_null():
  plain, twice = sample(), sample(guidance=2.0)
  np.testing.assert_allclose(twice - plain, BATCH['image'], atol=0.1)
  none = sample(guidance=0.0)
  assert np.abs(none).max() <= 0.1


def test_one_null_serves_every_sample_of_every_example():
  several = sample(guidance=2.0, num_samples=3)
  assert several.shape == (6, 3)
  # An example alone gives the same.
  alone = {'image': BATCH['image'][1:]}
  one = sample(batch=alone, keys=KEYS[1:], guidance=2.0, num_samples=3)
  np.testing.assert_allclose(one, several[3:], atol=1e-6)


def test_a_model_without_a_null_says_so():
  with pytest.raises(ValueError, match=r'guidance=2\.0 needs .*set it to 1'):
    sample(Tiny(has_null=False), guidance=2.0)
  sample(Tiny(has_null=False))


def test_what_is_returned_and_the_callback():
  seen = []
  state = sample(returns='state', callback=lambda *args: seen.append(args))
  jax.effects_barrier()
  assert [s[:2] for s in seen] == [(0, 3), (1, 3), (2, 3)]
  np.testing.assert_allclose(seen[-1][2], state, atol=1e-6)
  np.testing.assert_allclose(seen[-1][3], sample(), atol=1e-6)


def test_a_callback_is_for_one_device():
  mesh = jax.make_mesh((2,), ('data',))
  with pytest.raises(ValueError, match='the mesh has 2'):
    sample(mesh=mesh, callback=print)
