"""The diffusion that SemFlow compares itself with: noise -> mask.

Wang et al. 2024, https://arxiv.org/abs/2405.20282, section 4.1: the same
latents of painted masks and the same UNet, with four input channels more for
the latent of the image; it predicts the noise of Stable Diffusion's schedule
and is sampled by DDIM or DDPM. Not released: what is not told there is
SemFlow's. It cannot draw images.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from pix2seqd_jax.diffusion import noise, schedules
from pix2seqd_jax.diffusion import process as process_lib
from pix2seqd_jax.models import semflow
from pix2seqd_jax.registry import MODELS
from pix2seqd_jax.types import Prediction


@MODELS.register('semantic_dsm')
@dataclasses.dataclass(frozen=True)
class SemanticDSM(semflow.SemFlow):
  """x_0 is the latent of the mask, x_1 noise; arguments are SemFlow's."""

  train_times: tuple[str, Mapping[str, Any]] = ('discrete', {})

  known_times = ('discrete',)  # the steps of Stable Diffusion's table
  returns = 'last_x0'
  source_is_noise = True
  draws_images = False
  unet_inputs = 2  # the noisy latent of the mask, that of the image

  @functools.cached_property
  def process(self) -> process_lib.Process:
    return process_lib.Process(schedules.StableDiffusion(), 'x1')

  def source(self, params, batch, encoded, keys, *, train=False):
    shape = (keys.shape[0], *self.latent_shape)
    return noise.noise_like(keys, jax.ShapeDtypeStruct(shape, jnp.float32))

  def start(self, params, batch, keys):
    """None; raises ValueError where a mask is given."""
    if semflow.is_given(batch):
      raise ValueError(
        "model.name='semantic_dsm' has no way from a mask to an image; use "
        "model.name='semflow', or task.name='semantic'."
      )

  def denoise(
    self, params, x_t, t, condition, *, previous=None, train=False, rng=None
  ):
    """Channels: noisy latent, the image's; the clock is 0 .. 999."""
    x = jnp.concatenate([x_t, condition['latent'].astype(x_t.dtype)], -1)
    step = self.process.schedule.step_of(t)
    return Prediction(self._unet(params, x, step, train, rng))
