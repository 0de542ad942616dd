"""A run of the sampling loop that tests fill in where they differ."""

import gaussian
import jax
import jax.numpy as jnp

from pix2seqd_jax.diffusion import process, samplers, sampling, schedules
from pix2seqd_jax.diffusion import timesteps as timesteps_lib

COSINE = process.Process(schedules.Cosine(), clip_x0=(-1.0, 1.0))


def shrink(x, t, previous):
  """A network that mixes nothing between examples."""
  wide = t.reshape((-1,) + (1,) * (x.ndim - 1))
  return gaussian.Prediction(jnp.tanh(x) * (1.2 - wide))


def run(denoise=shrink, p=COSINE, x=None, keys=None, **kwargs):
  x = jnp.asarray(gaussian.normal(0, (3, 4, 5))) if x is None else x
  keys = gaussian.keys(len(jax.tree.leaves(x)[0])) if keys is None else keys
  kwargs = {
    'timesteps': timesteps_lib.uniform(6),
    'sampler': samplers.DDIM(),
    **kwargs,
  }
  return jax.jit(
    lambda x, keys: sampling.sample(denoise, p, x, keys, **kwargs)
  )(x, keys)
