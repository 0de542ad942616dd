"""Stage 1 of LDMSeg: an autoencoder of panoptic masks.

Van Gansbeke & De Brabandere 2024, "A Simple Latent Diffusion Approach for
Panoptic Segmentation and Mask Inpainting", https://arxiv.org/abs/2401.10227,
section 3.2. Ids of segments, drawn at random for each image, become channels
(mask_encoding), a latent of an eighth of the side, and logits of ids. There is
no class and no image in it.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pix2seqd_jax import checking
from pix2seqd_jax.architectures import mask_autoencoder as shallow
from pix2seqd_jax.architectures import sd_vae
from pix2seqd_jax.encoding import mask_channels, mask_logits
from pix2seqd_jax.models import mask_losses
from pix2seqd_jax.registry import MODELS, did_you_mean
from pix2seqd_jax.types import Aux, Segmentation

NETWORKS = {'shallow': shallow.MaskAutoencoder, 'sd_vae': sd_vae.SDVAE}
_SET_BY_MODEL = ('in_channels', 'out_channels', 'dtype', 'parent', 'name')
# Cells of a side, of which a corrupted mask keeps some.
_CELLS = 32


@MODELS.register('mask_autoencoder')
@dataclasses.dataclass(frozen=True)
class MaskAutoencoder:
  """The autoencoder with its losses; the network alone is in architectures/.

  Attributes:
    num_classes: unused: there are no classes in it.
    num_ids: ids are 0..num_ids - 1, void (0) included; as many
      logits a pixel.
    image_size: (h, w) of the padded image, whose place the masks take.
    mask_size: (h, w) of masks; divisible by the network's factor.
    kind: 'shallow' (the paper's, 2 million parameters) or 'sd_vae' (Stable
      Diffusion's, its first and last layer made anew; table 6).
    network: keyword arguments of architectures.mask_autoencoder.
      MaskAutoencoder or of architectures.sd_vae.SDVAE.
    mask_encoding: see encoding.mask_channels.
    ce_weight, mask_weight, kl_weight: of the softmax cross-entropy, of binary
      cross-entropy and Dice, and of the latents' divergence from normal ones.
    points: keyword arguments of models.mask_losses.PointSampling.
    max_segments: of an image that the mask loss looks at; 0: all ids.
    corruption: p. In training a fraction of U(0, p) of the cells of a 32 x 32
      timesteps is kept of each mask and the rest taken away; 0: nothing is.
    corrupt_targets: what is taken away is void to the losses too, as in the
      release; else it is to be guessed.
    thresholds: keyword arguments of encoding.mask_logits.Thresholds.
    dtype: of the network's arithmetic; parameters stay float32.
  """

  num_classes: int
  num_ids: int
  image_size: tuple[int, int]
  mask_size: tuple[int, int]
  kind: str = 'shallow'
  network: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  mask_encoding: str = 'bits'
  ce_weight: float | int = 1.0
  mask_weight: float | int = 1.0
  kl_weight: float | int = 0.0
  points: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  max_segments: int = 0
  corruption: float | int = 0.0
  corrupt_targets: bool = True
  thresholds: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  dtype: str = 'float32'

  names_classes = False  # of the data set

  def __post_init__(self):
    if self.kind not in NETWORKS:
      raise ValueError(
        f'model.kind={self.kind!r} is unknown.'
        f'{did_you_mean(self.kind, NETWORKS)} Known: {", ".join(NETWORKS)}.'
      )
    for key, entry, kwargs in (
      ('network', NETWORKS[self.kind], self.network),
      ('points', mask_losses.PointSampling, self.points),
      ('thresholds', mask_logits.Thresholds, self.thresholds),
    ):
      checking.check_arguments(
        f'model.{key}', entry, kwargs, skip=_SET_BY_MODEL
      )
    self.reading.check('model.thresholds')
    _ = self.channels
    for key in ('ce_weight', 'mask_weight', 'kl_weight', 'max_segments'):
      if getattr(self, key) < 0:
        raise ValueError(f'model.{key}={getattr(self, key)} must be 0 or more.')
    if not 0 <= self.corruption <= 1:
      raise ValueError(f'model.corruption={self.corruption} must be 0 to 1.')
    factor = self.net.factor
    if any(side % factor for side in self.mask_size):
      raise ValueError(
        f'data.mask_size={self.mask_size} must be divisible by {factor}, the '
        'pixels of a mask along one side of a latent (model.network).'
      )

  @property
  def channels(self) -> mask_channels.MaskChannels:
    """Ids -> the network's input."""
    return mask_channels.MaskChannels(self.num_ids, self.mask_encoding)

  @property
  def net(self):
    return NETWORKS[self.kind](
      in_channels=self.channels.num_channels,
      out_channels=self.num_ids,
      dtype=jnp.dtype(self.dtype),
      **self.network,
    )

  @property
  def sampling(self) -> mask_losses.PointSampling:
    """How the points of the losses are chosen."""
    return mask_losses.PointSampling(**self.points)

  @property
  def reading(self) -> mask_logits.Thresholds:
    """When pixels and segments become void."""
    return mask_logits.Thresholds(**self.thresholds)

  def init(self, rng, batch):
    """Parameters; the batch is not looked at."""
    del batch
    x = jnp.zeros((1, *self.mask_size, self.channels.num_channels))
    return {
      'net': {'autoencoder': self.net.init(rng, x)['params']},
      'stats': {},
      'frozen': {},
    }

  # Masks <-> latents; stage 2 calls these with its frozen copy.

  def encode(self, variables, ids):
    """Ids [b, h, w], unknown ones 0 -> the posterior of their latents."""
    return self.net.apply(variables, self.channels.encode(ids), method='encode')

  def logits(self, variables, z, scale=1.0):
    """Latents / scale -> logits [b, H, W, num_ids]."""
    return self.net.apply(variables, z, scale, method='decode')

  def loss_fn(self, params, batch, rng):
    """The training loss of a batch: (scalar, Aux(scalars, stats))."""
    k_corrupt, k_latent, k_points = jax.random.split(rng, 3)
    seen = expected = batch['instance']
    if self.corruption > 0:
      seen = corrupt(seen, k_corrupt, self.corruption)
      expected = seen if self.corrupt_targets else expected
    noise = jax.random.normal(k_latent, self._latent_shape(len(seen)))
    k_ce, k_mask = jax.random.split(k_points)
    sampling, dtype = self.sampling, jnp.float32

    def draw_fn(i):
      key = jax.random.fold_in(k_mask, i)
      return sampling.draw(key, len(seen), dtype)

    draws = sampling.draw(k_ce, len(seen), dtype)
    return self.loss_at(params, seen, expected, noise, draws, draw_fn)

  def loss_at(self, params, seen, expected, noise, draws, draw_fn):
    """The loss at given noise and points: all randomness is in the arguments.

    Args:
      params: as from `init`.
      seen: ids [b, h, w] that are encoded.
      expected: ids that are to come out.
      noise: of the latents.
      draws: points of images; see mask_losses.PointSampling.draw.
      draw_fn: points of ids; see mask_losses.point_losses.
    """
    variables = {'params': params['net']['autoencoder']}
    posterior = self.encode(variables, seen)
    logits = self.logits(variables, posterior.sample(noise=noise))
    found = mask_losses.point_losses(
      logits,
      expected,
      draws,
      draw_fn,
      self.sampling,
      max_segments=self.max_segments or None,
      ce_weight=self.ce_weight,
      mask_weight=self.mask_weight,
    )
    kl = jnp.mean(posterior.kl())
    loss = found.total + self.kl_weight * kl
    scalars = {
      'ce': found.ce,
      'bce': found.bce,
      'dice': found.dice,
      'kl': kl,
      # What stage 2's latent_scale is the inverse of, or near.
      'latent_std': jnp.std(posterior.mean),
    }
    return loss, Aux(scalars=scalars, stats={})

  def _latent_shape(self, num_examples):
    sides = [side // self.net.factor for side in self.mask_size]
    return (num_examples, *sides, self.net.latent_channels)

  # Evaluation: what comes back of a mask that the task hands over.

  def sample(
    self, params, batch, keys, *, timesteps, sampler, num_samples=1, **options
  ):
    """The mean latents of batch['given']['instance'] [b, h, w].

    There is nothing random in it: samples of one mask are equal.

    Raises:
      ValueError: no mask was given.
    """
    del keys, timesteps, sampler, options
    if 'instance' not in batch.get('given', {}):
      raise ValueError(
        'an autoencoder of masks needs masks: evaluate it with '
        "task.given=('instance',)."
      )
    variables = {'params': params['net']['autoencoder']}
    mean = self.encode(variables, batch['given']['instance']).mean
    return jnp.repeat(mean, num_samples, axis=0)

  def decode(self, params, x_0, batch):
    """Latents -> logits."""
    variables = {'params': params['net']['autoencoder']}
    return {'logits': self.logits(variables, x_0)}

  def postprocess(self, raw, meta):
    """Logits -> segments at the original size, all of class 1."""
    return read_logits(raw['logits'], meta, self.image_size, self.reading)


def read_logits(
  logits: Any,
  meta: Mapping[str, Any],
  image_size: tuple[int, int],
  thresholds: mask_logits.Thresholds,
) -> Segmentation:
  """The segments of one image; class 1 wherever there is one."""
  read = mask_logits.segments_of(
    np.asarray(logits),
    tuple(meta['size']),
    thresholds,
    padded=tuple(image_size),
    unpadded=tuple(meta['unpadded']),
  )
  semantic = (read.ids > 0).astype(np.int32)
  return Segmentation(semantic, read.ids, score=read.score)


def corrupt(ids: Any, key: Any, most: float) -> Any:
  """Keeps a random share, U(0, most), of the cells of each mask; else void."""
  b, h, w = ids.shape
  k_rate, k_cells = jax.random.split(key)
  rate = jax.random.uniform(k_rate, (b, 1, 1), maxval=most)
  kept = jax.random.uniform(k_cells, (b, _CELLS, _CELLS)) < rate
  rows, columns = (np.arange(n) * _CELLS // n for n in (h, w))
  return jnp.where(kept[:, rows][:, :, columns], ids, 0)
