"""Classes for LDMSeg's segments: a head on what its autoencoders see.

Van Gansbeke & De Brabandere 2024, https://arxiv.org/abs/2401.10227, section
4.2, gives PQ with classes by "a simple segmentation head"; it was not
released, and no number of it is known, so the config is ours: it is trained
apart, with both autoencoders frozen and true masks, disturbed so that it meets
imperfect ones. Segments take their class by a vote (encoding.segment_classes).
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from pix2seqd_jax import checking
from pix2seqd_jax.architectures import class_head, sd_vae
from pix2seqd_jax.encoding import panoptic_ids, segment_classes
from pix2seqd_jax.models import image_autoencoder
from pix2seqd_jax.models import mask_autoencoder as mask_lib
from pix2seqd_jax.registry import MODELS, did_you_mean
from pix2seqd_jax.types import Aux, Segmentation

# What is seen of the image. 'hidden' is the map that the encoder's last
# convolution sees. The latent is a linear function of it, 4 of its 512
# channels or so: made to paint the image again, not to tell what is in it.
IMAGES = ('hidden', 'latent')
_HEAD_SET = ('num_classes', 'dtype', 'parent', 'name')
_IMAGE_SET = ('parts', 'out_channels', 'dtype', 'parent', 'name')
_MASK_SET = ('num_classes', 'num_ids', 'image_size', 'mask_size', 'dtype')


@MODELS.register('mask_classifier')
@dataclasses.dataclass(frozen=True)
class MaskClassifier:
  """The head with its loss; as a part of LDMSeg, `logits` and `vote`.

  Parameters: net/head, frozen/image (the encoder of images), frozen/mask
  (stage 1), the last two as LDMSeg has them.

  Attributes:
    num_classes: without void; classes are 1..num_classes.
    num_ids: ids are 0..num_ids - 1, void (0) included.
    image_size: (h, w) of the padded image.
    mask_size: (h, w) of the masks that are encoded and decoded.
    head: keyword arguments of architectures.class_head.ClassHead.
    image_autoencoder: of architectures.sd_vae.SDVAE, whose encoder is used.
    mask_autoencoder: of models.mask_autoencoder.MaskAutoencoder.
    image: of the image, the head sees: 'hidden' or 'latent'; see IMAGES.
    noise: in training, normal noise is added to the latents of each mask, of
      a strength drawn from U(0, noise), in deviations of the latents.
    void_weight: of void's pixels in the loss; 0: they are left out.
    vote: see encoding.segment_classes.VOTES.
    dtype: of the networks' arithmetic; parameters stay float32.
  """

  num_classes: int
  num_ids: int
  image_size: tuple[int, int]
  mask_size: tuple[int, int]
  head: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  image_autoencoder: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  mask_autoencoder: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  image: str = 'hidden'
  noise: float | int = 0.5
  void_weight: float | int = 0.0
  vote: str = 'mean'
  dtype: str = 'float32'

  def __post_init__(self):
    for key, known in (('image', IMAGES), ('vote', segment_classes.VOTES)):
      value = getattr(self, key)
      if value not in known:
        raise ValueError(
          f'model.{key}={value!r} is unknown.{did_you_mean(value, known)} '
          f'Known: {", ".join(known)}.'
        )
    for key in ('noise', 'void_weight'):
      if getattr(self, key) < 0:
        raise ValueError(f'model.{key}={getattr(self, key)} must be 0 or more.')
    for key, entry, skip in (
      ('head', class_head.ClassHead, _HEAD_SET),
      ('image_autoencoder', sd_vae.SDVAE, _IMAGE_SET),
      ('mask_autoencoder', mask_lib.MaskAutoencoder, _MASK_SET),
    ):
      checking.check_arguments(f'model.{key}', entry, getattr(self, key), skip)
    _ = self.masks

  # What the networks are.

  @property
  def masks(self) -> mask_lib.MaskAutoencoder:
    """Stage 1, with this model's sizes."""
    return mask_lib.MaskAutoencoder(
      self.num_classes,
      self.num_ids,
      self.image_size,
      self.mask_size,
      dtype=self.dtype,
      **self.mask_autoencoder,
    )

  @property
  def image_net(self) -> sd_vae.SDVAE:
    return sd_vae.SDVAE(
      parts=('encoder',), dtype=jnp.dtype(self.dtype), **self.image_autoencoder
    )

  @property
  def head_net(self) -> class_head.ClassHead:
    return class_head.ClassHead(
      self.num_classes, dtype=jnp.dtype(self.dtype), **self.head
    )

  def init(self, rng, batch):
    """Parameters; the batch is not looked at."""
    del batch
    k_head, k_image, k_mask = jax.random.split(rng, 3)
    image = jnp.zeros((1, *self.image_size, 3))
    frozen = {
      'image': self.image_net.init(k_image, image)['params'],
      'mask': self.masks.init(k_mask, None)['net']['autoencoder'],
    }
    head = self.init_head(k_head, frozen)
    return {'net': {'head': head}, 'stats': {}, 'frozen': frozen}

  def init_head(self, rng, frozen):
    """Parameters of the head alone, for LDMSeg's frozen/classifier."""
    net = self.masks.net
    sides = (side // net.factor for side in self.mask_size)
    z = jnp.zeros((1, *sides, net.latent_channels))
    batch = {
      'image': jnp.zeros((1, *self.image_size, 3)),
      'valid': jnp.ones((1, *self.image_size), bool),
    }
    shapes = jax.eval_shape(self.features, frozen, z, batch)
    maps = (jnp.zeros(shape.shape, shape.dtype) for shape in shapes)
    return self.head_net.init(rng, *maps)['params']

  # Latents -> logits of classes; LDMSeg calls `logits` with its own latents.

  def features(self, frozen, z, batch):
    """(of the mask, of its image): what the head sees.

    Args:
      frozen: {'image', 'mask'}.
      z: [b * n, h, w, c], latents of n masks of each image, unscaled.
      batch: `image` and `valid` [b, ...].
    """
    mask, net = {'params': frozen['mask']}, self.masks.net
    is_shallow = self.masks.kind == 'shallow'
    norm = str(2 + 3 * net.num_upscalers) if is_shallow else 'conv_norm_out'
    _, of_mask = _hidden(net, mask, z, 'decode', ('decoder', norm))
    posterior, hidden = _hidden(
      self.image_net,
      {'params': frozen['image']},
      image_autoencoder.signed_images(batch),
      'encode',
      ('encoder', 'conv_norm_out'),
    )
    of_image = posterior.mean if self.image == 'latent' else hidden
    count = z.shape[0] // of_image.shape[0]
    return of_mask, jnp.repeat(of_image, count, axis=0)

  def logits(self, head, frozen, z, batch):
    """Logits of classes [b * n, H, W, num_classes + 1], void first.

    Args:
      head: parameters, net/head here, frozen/classifier in LDMSeg.
      frozen, z, batch: as in `features`.
    """
    maps = self.features(frozen, z, batch)
    return self.head_net.apply({'params': head}, *maps)

  # Training.

  def loss_fn(self, params, batch, rng):
    """The training loss of a batch: (scalar, Aux(scalars, stats))."""
    k_strength, k_noise = jax.random.split(rng)
    z = self._latents(params, batch['instance'])
    strength = jax.random.uniform(
      k_strength, (len(z), 1, 1, 1), maxval=self.noise
    )
    z += strength * jnp.std(z) * jax.random.normal(k_noise, z.shape, z.dtype)
    return self.loss_at(params, batch, z)

  def loss_at(self, params, batch, z):
    """The loss at given latents."""
    logits = self.logits(params['net']['head'], params['frozen'], z, batch)
    logits = class_head.resize(logits, tuple(self.mask_size))
    return self.loss(logits, batch['semantic'])

  def loss(self, logits, semantic):
    """The weighted mean of the cross-entropy of pixels, and Aux.

    Args:
      logits: [b, h, w, num_classes + 1].
      semantic: [b, h, w], 0 = void.
    """
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, semantic)
    known = semantic > 0
    weight = jnp.where(known, 1.0, float(self.void_weight))
    loss = jnp.sum(losses * weight) / jnp.maximum(jnp.sum(weight), 1)
    right = jnp.sum((jnp.argmax(logits, -1) == semantic) & known)
    accuracy = right / jnp.maximum(jnp.sum(known), 1)
    return loss, Aux(scalars={'accuracy': accuracy}, stats={})

  def _latents(self, params, ids):
    mask = {'params': params['frozen']['mask']}
    return self.masks.encode(mask, ids).mean

  # Evaluation: classes of true segments.

  def sample(
    self, params, batch, keys, *, timesteps, sampler, num_samples=1, **options
  ):
    """The mean latents of batch['given']['instance'] [b, h, w].

    Raises:
      ValueError: no mask was given.
    """
    del keys, timesteps, sampler, options
    if 'instance' not in batch.get('given', {}):
      raise ValueError(
        'a classifier of masks needs masks: evaluate it with task.given='
        "('instance',), or name it in LDMSeg's model.classifier."
      )
    z = self._latents(params, batch['given']['instance'])
    return jnp.repeat(z, num_samples, axis=0)

  def decode(self, params, x_0, batch):
    """Latents -> {'classes': logits, 'instance': the ids that were given}."""
    ids = batch['given']['instance']
    ids = jnp.repeat(ids, x_0.shape[0] // ids.shape[0], axis=0)
    head, frozen = params['net']['head'], params['frozen']
    return {'classes': self.logits(head, frozen, x_0, batch), 'instance': ids}

  def postprocess(self, raw, meta):
    """The given segments at the original size, with classes by vote."""
    height, width = meta['unpadded']
    ids = panoptic_ids.resize_nearest(raw['instance'], self.image_size)
    ids = panoptic_ids.resize_nearest(ids[:height, :width], meta['size'])
    return self.classify(Segmentation(ids > 0, ids), raw['classes'], meta)

  def classify(self, found, logits, meta):
    """The segments `found` at the original size, with classes by vote.

    Args:
      found: Segmentation; its ids and score are kept.
      logits: of classes [h, w, num_classes + 1], of this image.
      meta: `unpadded`.
    """
    semantic = segment_classes.vote(
      np.asarray(logits),
      found.instance,
      self.vote,
      padded=tuple(self.image_size),
      unpadded=tuple(meta['unpadded']),
    )
    return found._replace(semantic=semantic)


def _hidden(net, variables, x, method, path):
  """(what `method` gives, what the last convolution on the way saw).

  That is the SiLU of the norm at `path`.
  """
  found, told = net.apply(
    variables,
    x,
    method=method,
    capture_intermediates=lambda module, _: module.path == path,
    mutable=['intermediates'],
  )
  told = told['intermediates']
  for name in path:
    told = told[name]
  return found, nn.silu(told['__call__'][0])
