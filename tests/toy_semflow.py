"""A flow between masks and images that has learnt nothing."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from smoke import smoke_config

from pix2seqd_jax.diffusion import process, schedules
from pix2seqd_jax.encoding import anchors, panoptic_ids
from pix2seqd_jax.experiment import build
from pix2seqd_jax.models import model as model_lib
from pix2seqd_jax.models import semflow
from pix2seqd_jax.models.image_autoencoder import signed_images
from pix2seqd_jax.registry import MODELS
from pix2seqd_jax.types import Encoded, Prediction, Segmentation

PARAMS = {'net': {}, 'stats': {}, 'frozen': {}}


@dataclasses.dataclass(frozen=True)
class ToyFlow(model_lib.DiffusionModel):
  """Images are masks in colours, brighter by `shift`; no networks.

  x is the image itself, in [-1, 1]. With `bend` the way there is no line:
  its speed is shift (1 + bend (2 t - 1)).
  """

  num_classes: int
  num_ids: int
  image_size: Any
  mask_size: Any
  shift: float = 0.125
  bend: float = 0.0
  perturbation: float = 8.0

  process = process.Process(schedules.Straight(), 'velocity')
  returns = 'state'
  draws_images = True
  check_perturbation = semflow.SemFlow.check_perturbation

  @property
  def palette(self):
    return anchors.Anchors(self.num_classes, 4, 64)

  def init(self, rng, batch):
    return PARAMS

  def encode(self, params, batch, rng, *, train=False):
    if 'semantic' in batch.get('given', {}):
      return Encoded({})
    return Encoded({'latent': signed_images(batch)})

  def source(self, params, batch, encoded, keys, *, train=False):
    return encoded.condition['latent']

  def start(self, params, batch, keys):
    given = batch.get('given', {})
    if 'semantic' not in given:
      return None
    painted = anchors.signed(self.palette.paint(given['semantic']))
    num = len(painted)
    width = given.get('perturbation', jnp.full(num, self.perturbation)) / 127.5
    x, width = (
      jnp.repeat(a, keys.shape[0] // num, 0) for a in (painted, width)
    )
    noise = jax.vmap(lambda k: jax.random.uniform(k, x.shape[1:], minval=-1.0))
    return x + width[:, None, None, None] * noise(keys)

  def target(self, params, batch, rng):
    return self.start(params, {'given': batch}, None), None

  def denoise(self, params, x_t, t, condition, **kwargs):
    speed = self.shift * (1 + self.bend * (2 * t - 1))
    return Prediction(jnp.zeros_like(x_t) + speed[:, None, None, None])

  def decode(self, params, x_0, batch):
    if 'semantic' in batch.get('given', {}):
      return {'image': jnp.clip((x_0 + 1) / 2, 0, 1)}
    semantic, score = self.palette.nearest(x_0)
    return {'semantic': semantic, 'score': score}

  def postprocess(self, raw, meta):
    h, w = meta['unpadded']
    image, semantic = None, np.zeros((h, w), np.int32)
    if 'image' in raw:
      image = (255 * np.asarray(raw['image'])[:h, :w]).astype(np.uint8)
    if 'semantic' in raw:
      semantic = np.asarray(raw['semantic'])[:h, :w]
      semantic = panoptic_ids.resize_nearest(semantic, meta['size'])
    return Segmentation(semantic, semantic, image=image)

  def painted(self, mask):
    """The image of a mask without noise, uint8."""
    levels = anchors.signed(self.palette.paint(mask)) + self.shift
    return (127.5 * np.clip(levels + 1, 0, 2)).astype(np.uint8)


def toy_flow(task='semantic', **kwargs):
  """An experiment with 7 classes of generated scenes, 32 x 32."""
  config = smoke_config()
  config.data.update({'image_size': (32, 32), 'mask_size': (32, 32)})
  config.model = {'name': 'toy', **kwargs}
  config.task = {'name': task}
  config.sample.update({'steps': 4, 'td': 0.0, 'sampler': 'euler'})
  MODELS._entries['toy'] = ToyFlow
  try:
    experiment = build.Experiment(config)
    _ = experiment.model
  finally:
    del MODELS._entries['toy']
  return experiment
