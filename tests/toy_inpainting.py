"""A model that completes masks without having learnt anything."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from smoke import smoke_config

from pix2seqd_jax.diffusion import inpainting as inpainting_lib
from pix2seqd_jax.diffusion import noise, process, schedules
from pix2seqd_jax.encoding import mask_logits
from pix2seqd_jax.experiment import build
from pix2seqd_jax.models import mask_autoencoder
from pix2seqd_jax.models import model as model_lib
from pix2seqd_jax.registry import MODELS
from pix2seqd_jax.types import Encoded, Prediction

NUM = 16
READING = mask_logits.Thresholds(0.0, 0.0, 0, 'none')


@dataclasses.dataclass(frozen=True)
class Toy(model_lib.DiffusionModel):
  """Segments are the 16 levels of red. What is given on a level names it; other
  levels get ids that are free, in their order. x_0 is one-hot."""

  num_classes: int
  num_ids: int
  image_size: Any
  mask_size: Any
  doubt: float = 0.0  # noise that stays in the answer

  names_classes = False
  process = process.Process(schedules.Cosine(), 'x0')

  def init(self, rng, batch):
    return {'net': {}, 'stats': {}, 'frozen': {}}

  def encode(self, params, batch, rng, *, train=False):
    levels = batch['image'][:, ::2, ::2, 0].astype(jnp.int32) // 16
    levels = jnp.where(batch['valid'][:, ::2, ::2], levels, 0)
    ids = batch.get('given', {}).get('instance', jnp.zeros_like(levels))

    def name(levels, ids):
      votes = jnp.zeros((NUM, NUM)).at[levels, ids].add(1).at[:, 0].set(0)
      taken = jnp.zeros(NUM).at[ids].set(1).at[0].set(1)
      free = jnp.argsort(taken)
      own = jnp.where(jnp.arange(NUM) > 0, jnp.roll(free, 1), 0)
      return jnp.where(votes.any(1), votes.argmax(1), own)[levels]

    return Encoded(jax.nn.one_hot(jax.vmap(name)(levels, ids), NUM))

  def source(self, params, batch, encoded, keys, *, train=False):
    shape = (keys.shape[0], *self.mask_size, NUM)
    return noise.noise_like(keys, jax.ShapeDtypeStruct(shape, jnp.float32))

  def target(self, params, batch, rng):
    return jax.nn.one_hot(batch['instance'], NUM), None

  def denoise(self, params, x_t, t, condition, **kwargs):
    return Prediction(condition + self.doubt * x_t)

  def known(self, params, batch):
    given = batch.get('given')
    if given is None:
      return None
    x_0 = jax.nn.one_hot(given['instance'], NUM)
    return inpainting_lib.Known(x_0, given['known'][..., None])

  def decode(self, params, x_0, batch):
    return {'logits': x_0}

  def postprocess(self, raw, meta):
    args = raw['logits'], meta, self.image_size, READING
    return mask_autoencoder.read_logits(*args)


def toy_experiment(id_order='random', **kwargs):
  config = smoke_config()
  config.data.update({'id_order': id_order, 'name_stuff': False})
  config.model = {'name': 'toy', **kwargs}
  config.task.class_agnostic = True
  config.task.min_pixels = 0
  MODELS._entries['toy'] = Toy
  try:
    experiment = build.Experiment(config)
    _ = experiment.model
  finally:
    del MODELS._entries['toy']
  return experiment
