"""Gaussian data, whose exact denoiser and solution are known."""

import jax
import jax.numpy as jnp
import numpy as np

from pix2seqd_jax.diffusion.process import TARGETS
from pix2seqd_jax.types import Prediction

MEAN, STD = 0.7, 0.5


def spread(process, t):
  """The standard deviation of x_t for x_0 ~ N(MEAN, STD^2)."""
  m = process.moment(t)
  return (m.alpha**2 * STD**2 + m.sigma**2) ** 0.5


def posterior_mean(process, x, t):
  """(E[x_0 | x_t], E[x_1 | x_t])."""
  m = process.moment(t)
  wide = lambda c: c.reshape((-1,) + (1,) * (x.ndim - 1))
  surprise = (x - wide(m.alpha) * MEAN) / wide(spread(process, t)) ** 2
  return MEAN + wide(m.alpha) * STD**2 * surprise, wide(m.sigma) * surprise


def exact_denoiser(process):
  """What the best network would predict, as the process's target."""

  def denoise(x, t, previous):
    x_0, x_1 = posterior_mean(process, x, t)
    c0, c1 = TARGETS[process.target](process.moment(t))
    wide = lambda c: jnp.reshape(c, (-1,) + (1,) * (x.ndim - 1))
    return Prediction(wide(c0) * x_0 + wide(c1) * x_1)

  return denoise


def exact_flow(process, x, t, s):
  """Where the probability-flow ODE carries x from t to s."""
  m, n = process.moment(t), process.moment(s)
  score = (x - m.alpha * MEAN) / spread(process, t)
  return n.alpha * MEAN + spread(process, s) * score


def keys(num, seed=0):
  return jax.random.split(jax.random.key(seed), num)


def normal(seed, shape):
  return np.random.RandomState(seed).standard_normal(shape).astype(np.float32)
