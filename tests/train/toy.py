"""A model of two layers with dropout and one running statistic."""

import jax
import jax.numpy as jnp
import numpy as np

from pix2seqd_jax import types

FEATURES, HIDDEN = 4, 8


class Toy:
  """Regresses batch['semantic'] [b, 2] from batch['image'] [b, 4]."""

  def __init__(
    self, dropout=0.0, hidden=HIDDEN, frozen=False, features=FEATURES
  ):
    self.dropout, self.hidden, self.frozen = dropout, hidden, frozen
    self.features = features

  def init(self, rng, batch):
    k_one, k_two = jax.random.split(rng)
    del batch
    net = {
      'one': {
        'kernel': jax.random.normal(k_one, (self.features, self.hidden)) * 0.5,
        'bias': jnp.zeros((self.hidden,)),
      },
      'two': {
        'kernel': jax.random.normal(k_two, (self.hidden, 2)) * 0.5,
        'bias': jnp.zeros((2,)),
      },
    }
    params = {'net': net, 'stats': {'one': {'mean': jnp.zeros(self.hidden)}}}
    if self.frozen:
      params['frozen'] = {'scale': jnp.full((2,), 2.0)}
    return params

  def _forward(self, params, x):
    net = params['net']
    h = x @ net['one']['kernel'] + net['one']['bias']
    return jnp.tanh(h), h

  def loss_fn(self, params, batch, rng):
    h, pre = self._forward(params, batch['image'].astype(jnp.float32))
    if self.dropout:
      keep = jax.random.bernoulli(rng, 1 - self.dropout, h.shape)
      h = jnp.where(keep, h / (1 - self.dropout), 0)
    two = params['net']['two']
    y = h @ two['kernel'] + two['bias']
    if self.frozen:
      y = y * params['frozen']['scale']
    loss = jnp.mean((y - batch['semantic']) ** 2)
    mean = 0.9 * params['stats']['one']['mean'] + 0.1 * pre.mean(0)
    return loss, types.Aux({'error': jnp.sqrt(loss)}, {'one': {'mean': mean}})

  def sample(self, params, batch, keys, *, timesteps, sampler, num_samples=1):
    del timesteps, sampler, num_samples
    h, _ = self._forward(params, batch['image'].astype(jnp.float32))
    two = params['net']['two']
    noise = jax.vmap(lambda k: jax.random.normal(k, (2,)))(keys)
    return h @ two['kernel'] + two['bias'] + 0.1 * noise

  def decode(self, params, x_0, batch):
    return {'value': x_0, 'image': batch['image']}

  def postprocess(self, raw, meta):
    del meta
    return types.Segmentation(raw['value'], raw['image'])


def make_batch(step, size=8, features=FEATURES):
  """The batch at this position of an endless stream; ints and host keys."""
  rng = np.random.default_rng([7, step])
  x = rng.normal(size=(size, features)).astype(np.float32)
  y = np.stack([x.sum(-1), x[:, 0] - x[:, 1]], -1)
  return {
    'image': x,
    'semantic': y.astype(np.float32),
    'index': np.arange(size, dtype=np.int64) + step * size,
    'is_real': np.ones(size, bool),
    'meta': [{'index': i} for i in range(size)],
  }


def batches_from(start, size=8):
  """Position -> the stream from there on."""
  step = start
  while True:
    yield make_batch(step, size)
    step += 1
