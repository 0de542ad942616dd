"""A small autoencoder of images: LDMSeg without anybody's weights.

Rombach et al. 2022, "High-Resolution Image Synthesis with Latent Diffusion
Models", https://arxiv.org/abs/2112.10752, section 3.1 and appendix G: a
variational autoencoder whose divergence hardly counts. Theirs is also trained
against a discriminator; this one is not, which blurs what it cannot know. The
network and the names of its parameters are Stable Diffusion's, so that its
weights start a run (config.init_from) or take its place. SemFlow's masks are
images too: with `masks` it learns to bring back both.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pix2seqd_jax import checking
from pix2seqd_jax.architectures import lpips_vgg, sd_vae
from pix2seqd_jax.encoding import anchors
from pix2seqd_jax.registry import MODELS, did_you_mean
from pix2seqd_jax.types import Aux, Segmentation

# The error of a value in [-1, 1].
LOSSES = {'l1': jnp.abs, 'l2': jnp.square}
_SET_BY_MODEL = ('in_channels', 'out_channels', 'dtype', 'parent', 'name')
_OF_MASKS = ('share', 'anchors', 'perturbation')


def signed_images(batch: Mapping[str, Any]) -> jax.Array:
  """What an image autoencoder sees, float32 [b, h, w, 3] in [-1, 1].

  Padding is 0, the middle of the range: it is painted after the change of
  range, whatever the host filled in.

  Args:
    batch: `image`, uint8 or float32 in [0, 1]; `valid` [b, h, w], False where
      padded.
  """
  image = batch['image']
  if image.dtype == jnp.uint8:
    image = image.astype(jnp.float32) / 255
  return jnp.where(batch['valid'][..., None], 2 * image - 1, 0)


@MODELS.register('image_autoencoder')
@dataclasses.dataclass(frozen=True)
class ImageAutoencoder:
  """The autoencoder with its loss; the network is architectures.sd_vae.SDVAE.

  Attributes:
    num_classes: without void; of masks.
    num_ids: unused.
    mask_size: as image_size where there are masks; else unused.
    image_size: (h, w) of the padded image; divisible by the network's factor.
    network: keyword arguments of sd_vae.SDVAE.
    loss: 'l1' or 'l2' of values in [-1, 1].
    kl_weight: of the latents' divergence from normal ones, in nats for each
      value of the image: the paper's 1e-6, whose loss is a sum over values.
    lpips_weight: of LPIPS (0: there is none). Its weights are
      params['frozen']['lpips'], drawn at random unless config.init_from brings
      trained ones.
    masks: empty, or what to put in the place of the first images of a batch
      in training: painted label maps, `share` of the batch, in the colours of
      `anchors` (levels, spacing), moved at random by at most `perturbation`
      levels of 0 .. 255 (default 0); as SemFlow has them.
    dtype: of the network's arithmetic; parameters stay float32.
  """

  num_classes: int
  num_ids: int
  image_size: tuple[int, int]
  mask_size: tuple[int, int]
  network: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  loss: str = 'l1'
  kl_weight: float | int = 1e-6
  lpips_weight: float | int = 0.0
  masks: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  dtype: str = 'float32'

  def __post_init__(self):
    if self.loss not in LOSSES:
      raise ValueError(
        f'model.loss={self.loss!r} is unknown.'
        f'{did_you_mean(self.loss, LOSSES)} Known: {", ".join(LOSSES)}.'
      )
    checking.check_arguments(
      'model.network', sd_vae.SDVAE, self.network, skip=_SET_BY_MODEL
    )
    for key in ('kl_weight', 'lpips_weight'):
      if getattr(self, key) < 0:
        raise ValueError(f'model.{key}={getattr(self, key)} must be 0 or more.')
    factor = self.net.factor
    if any(side % factor for side in self.image_size):
      raise ValueError(
        f'data.image_size={self.image_size} must be divisible by {factor}, '
        'the pixels of an image along one side of a latent (model.network).'
      )
    if tuple(self.net.parts) != sd_vae.PARTS:
      raise ValueError(
        f'model.network.parts={self.net.parts} must be {sd_vae.PARTS}: both '
        'halves are trained.'
      )
    if self.masks:
      self._check_masks()

  def _check_masks(self):
    for key in self.masks:
      if key not in _OF_MASKS:
        raise ValueError(
          f'model.masks.{key} is unknown.{did_you_mean(key, _OF_MASKS)} '
          f'Known: {", ".join(_OF_MASKS)}.'
        )
    checking.check_arguments(
      'model.masks.anchors',
      anchors.Anchors,
      self.masks.get('anchors', {}),
      skip=('num_classes',),
    )
    fraction = self.masks.get('share', 0)
    if not 0 < fraction <= 1:
      raise ValueError(
        f'model.masks.share={fraction} must be above 0, at most 1; empty '
        'model.masks trains on images alone.'
      )
    if tuple(self.mask_size) != tuple(self.image_size):
      raise ValueError(
        f'data.mask_size={self.mask_size} must be data.image_size='
        f'{self.image_size}: with model.masks they are encoded as images.'
      )
    width = self.masks.get('perturbation', 0)
    if not 0 <= width < self.palette.spacing / 2:
      raise ValueError(
        f'model.masks.perturbation={width} must be 0 or more and below '
        f'{self.palette.spacing / 2}, half of the spacing of anchors.'
      )

  @property
  def palette(self) -> anchors.Anchors:
    """The colours of masks."""
    return anchors.Anchors(self.num_classes, **self.masks.get('anchors', {}))

  @property
  def net(self):
    return sd_vae.SDVAE(dtype=jnp.dtype(self.dtype), **self.network)

  def init(self, rng, batch):
    """Parameters; the batch is not looked at."""
    del batch
    k_net, k_lpips = jax.random.split(rng)
    x = jnp.zeros((1, *self.image_size, 3))
    frozen = {}
    if self.lpips_weight:
      small = jnp.zeros((1, 16, 16, 3))
      lpips = lpips_vgg.LPIPS().init(k_lpips, small, small)
      frozen = {'lpips': lpips['params']}
    return {
      'net': {'autoencoder': self.net.init(k_net, x)['params']},
      'stats': {},
      'frozen': frozen,
    }

  def encode(self, variables, images):
    """`images` -> the posterior of their latents."""
    return self.net.apply(variables, images, method='encode')

  def loss_fn(self, params, batch, rng):
    """The training loss of a batch: (scalar, Aux(scalars, stats))."""
    if self.masks:
      rng, k_masks = jax.random.split(rng)
      batch = self.with_masks(batch, k_masks)
    sides = [side // self.net.factor for side in self.image_size]
    shape = (len(batch['image']), *sides, self.net.latent_channels)
    return self.loss_at(params, batch, jax.random.normal(rng, shape))

  def with_masks(self, batch, rng):
    """The batch with painted masks in the place of its first images."""
    fraction, examples = self.masks['share'], len(batch['image'])
    count = int(fraction * examples)
    if not count:
      raise ValueError(
        f'model.masks.share={fraction} of {examples} examples is no mask; '
        'raise '
        'it, or data.batch_size / optimizer.accumulate.'
      )
    colors = batch.get('colors')  # painted on the host
    if colors is None:
      colors = self.palette.paint(batch['semantic'])
    shape = (count, *colors.shape[1:])
    width = self.masks.get('perturbation', 0) / anchors.HALF
    moves = jax.random.uniform(rng, shape, minval=-width, maxval=width)
    painted = anchors.signed(colors[:count]) + moves
    kept = {k: batch[k][count:] for k in ('image', 'valid')}
    return batch | {
      'image': jnp.concatenate(
        [(painted + 1) / 2, (signed_images(kept) + 1) / 2]
      ),
      'valid': jnp.concatenate(
        [jnp.ones(shape[:-1], bool), jnp.asarray(kept['valid'])]
      ),
    }

  def loss_at(self, params, batch, noise):
    """The loss at given noise of the latents [b, h, w, c].

    Errors are means over what is no padding, of each image by itself.
    """
    variables = {'params': params['net']['autoencoder']}
    images, valid = signed_images(batch), batch['valid'][..., None]
    posterior = self.encode(variables, images)
    made = self.net.apply(
      variables, posterior.sample(noise=noise), method='decode'
    )
    made = jnp.where(valid, made, 0)
    values = 3 * jnp.maximum(jnp.sum(valid, (1, 2, 3)), 1)
    errors = jnp.sum(LOSSES[self.loss](made - images), (1, 2, 3))
    reconstruction = jnp.mean(errors / values)
    kl = jnp.mean(posterior.kl() / values)
    loss = reconstruction + self.kl_weight * kl
    scalars = {
      'reconstruction': reconstruction,
      'kl': kl,
      # What LDMSeg's image_scale is the inverse of, or near.
      'latent_std': jnp.std(posterior.mean),
    }
    if self.lpips_weight:
      lpips = {'params': params['frozen']['lpips']}
      scalars['lpips'] = jnp.mean(lpips_vgg.LPIPS().apply(lpips, made, images))
      loss += self.lpips_weight * scalars['lpips']
    return loss, Aux(scalars=scalars, stats={})

  # Evaluation: what comes back of an image.

  def sample(
    self, params, batch, keys, *, timesteps, sampler, num_samples=1, **options
  ):
    """The mean latents of the images, unscaled; nothing is random in it."""
    del keys, timesteps, sampler, options
    variables = {'params': params['net']['autoencoder']}
    mean = self.encode(variables, signed_images(batch)).mean
    return jnp.repeat(mean, num_samples, axis=0)

  def decode(self, params, x_0, batch):
    """Latents -> {'image': float32 [b, h, w, 3] in [0, 1]}."""
    variables = {'params': params['net']['autoencoder']}
    made = self.net.apply(variables, x_0, method='decode')
    return {'image': jnp.clip((made + 1) / 2, 0, 1)}

  def postprocess(self, raw, meta):
    """The image, uint8, at the size at which the network saw it, unpadded.

    Nothing is segmented: all is void.
    """
    h, w = meta['unpadded']
    image = np.asarray(raw['image'], np.float32)[:h, :w]
    void = np.zeros((h, w), np.int32)
    return Segmentation(void, void, image=(255 * image + 0.5).astype(np.uint8))
