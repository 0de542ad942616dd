"""The diffusion baseline: the laws of a known denoiser."""

import jax
import jax.numpy as jnp
import known_flow
import numpy as np
import pytest

from pix2seqd_jax.diffusion import samplers
from pix2seqd_jax.diffusion import timesteps as timesteps_lib
from pix2seqd_jax.models.semantic_dsm import SemanticDSM
from pix2seqd_jax.types import inputs_only

BATCH = known_flow.batch()
PARAMS = known_flow.params()
KEYS = jax.random.split(jax.random.key(0), 2)


class Knowing(known_flow.Toy, SemanticDSM):
  """Predicts the very noise that is in x_t, and notes the clock."""

  seen: list = []

  def _unet(self, params, x, time, train, rng):
    x_t, image = jnp.split(x, 2, -1)
    expected = self.encode(params, BATCH, None).condition['latent']
    wrong = jnp.abs(image - expected).max()  # the image comes second
    jax.debug.callback(lambda t: self.seen.append(float(t[0])), time)
    m = self.process.moment((time + 1) / 1000)
    x_0 = self.target(params, BATCH, KEYS[0])[0]
    alpha, sigma = (a[:, None, None, None] for a in (m.alpha, m.sigma))
    return (x_t - alpha * x_0) / sigma + wrong


MODEL = Knowing(**{**known_flow.KWARGS, 'perturbation': 0, 'posterior': 'mode'})


@pytest.mark.parametrize('sampler', ['ddim', 'ddpm'])
def test_knowing_the_noise_it_finds_the_mask(sampler):
  MODEL.seen.clear()
  found = MODEL.sample(
    PARAMS,
    inputs_only(BATCH),
    KEYS,
    timesteps=timesteps_lib.Trailing(set_alpha_to_one=True).make(
      MODEL.process, 4
    ),
    sampler=samplers.SAMPLERS[sampler](),
  )
  expected = MODEL.target(PARAMS, BATCH, KEYS[0])[0]
  np.testing.assert_allclose(found, expected, atol=1e-3)
  jax.effects_barrier()
  np.testing.assert_allclose(sorted(MODEL.seen), [249, 499, 749, 999])


def test_knowing_the_noise_it_has_no_loss():
  loss, _ = MODEL.loss_fn(PARAMS, BATCH, jax.random.key(0))
  assert loss < 1e-6


def test_the_unet_sees_both_latents():
  model = SemanticDSM(**known_flow.KWARGS)
  assert model.unet_net.in_channels == 8
  assert model.unet_net.out_channels == 4


def test_it_draws_no_images():
  given = inputs_only(BATCH, ('semantic',))
  with pytest.raises(ValueError, match='no way from a mask to an image'):
    MODEL.sample(
      PARAMS,
      given,
      KEYS,
      timesteps=timesteps_lib.uniform(2),
      sampler=samplers.DDIM(),
    )


def test_the_times_of_training_are_the_steps_of_the_table():
  kwargs = {**known_flow.KWARGS, 'train_times': ('beta', {})}
  with pytest.raises(ValueError, match=r"train_times='beta'.*discrete"):
    SemanticDSM(**kwargs)
