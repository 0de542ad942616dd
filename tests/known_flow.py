"""SemFlow without networks: latents are mean colours, the field is known."""

import jax.numpy as jnp

from pix2seqd_jax.architectures import sd_vae
from pix2seqd_jax.models.semflow import SemFlow

SIZE = (8, 8)
KWARGS = {
  'num_classes': 5,
  'num_ids': 6,
  'image_size': SIZE,
  'mask_size': SIZE,
  'unet': {
    'channels': (8,),
    'has_attention': (False,),
    'num_layers': 1,
    'groups': 4,
  },
  'image_autoencoder': {
    'block_out_channels': (8, 8),
    'layers_per_block': 1,
    'groups': 4,
  },
  'prompt_tokens': 0,
  'latent_scale': 0.5,
}


class Toy:
  """To be mixed in before a model of the family.

  Parameters are {'net': {'unet': {'pull': a number}}}.
  """

  def posterior_of(self, params, images):
    b, h, w, c = images.shape
    mean = images.reshape(b, h // 2, 2, w // 2, 2, c).mean((2, 4))
    mean = jnp.pad(mean, ((0, 0), (0, 0), (0, 0), (0, 1)))
    return sd_vae.Posterior(mean, jnp.zeros_like(mean))

  def _unet(self, params, x, time, train, rng):
    clock = jnp.cos(time / 500)[:, None, None, None]
    pull = params['net']['unet']['pull']
    return pull * (jnp.tanh(jnp.roll(x, 1, -1)) * clock - 0.2)


class ToyFlow(Toy, SemFlow):
  """SemFlow itself."""


def params(pull: float = 1.0, teacher: float = 0.0) -> dict:
  """Of a toy, and of its teacher."""
  return {
    'net': {'unet': {'pull': jnp.float32(pull)}},
    'stats': {},
    'frozen': {'teacher': {'pull': jnp.float32(teacher)}},
  }


def batch(num: int = 2) -> dict:
  """Images of one grey each, and masks of two halves."""
  rows = jnp.arange(num, dtype=jnp.float32)[:, None, None]
  image = jnp.broadcast_to((rows + 1) / (num + 2), (num, *SIZE))
  semantic = jnp.zeros((num, *SIZE), jnp.int32).at[:, :, 4:].set(3)
  return {
    'image': jnp.stack([image] * 3, -1),
    'valid': jnp.ones((num, *SIZE), bool),
    'semantic': semantic + 1,
  }
