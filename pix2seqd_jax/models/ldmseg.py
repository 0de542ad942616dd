"""Stage 2 of LDMSeg: panoptic masks by latent diffusion.

Van Gansbeke & De Brabandere 2024, "A Simple Latent Diffusion Approach for
Panoptic Segmentation and Mask Inpainting", https://arxiv.org/abs/2401.10227,
section 3.3. x_0 is the latent of a mask of random ids, x_1 is noise, and
beside x_t the UNet sees the latent of the image and its last estimate of
x_0. Both autoencoders are frozen. Segments have no classes, unless a head that
was trained apart (mask_classifier) names them.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from pix2seqd_jax import checking
from pix2seqd_jax.architectures import sd_unet, sd_vae
from pix2seqd_jax.diffusion import inpainting as inpainting_lib
from pix2seqd_jax.diffusion import loss_weights, noise, schedules, time_sampling
from pix2seqd_jax.diffusion import process as process_lib
from pix2seqd_jax.encoding import cells
from pix2seqd_jax.models import descriptors
from pix2seqd_jax.models import model as model_lib
from pix2seqd_jax.models.image_autoencoder import signed_images
from pix2seqd_jax.models.mask_autoencoder import MaskAutoencoder
from pix2seqd_jax.models.mask_classifier import MaskClassifier
from pix2seqd_jax.registry import MODELS, did_you_mean
from pix2seqd_jax.types import Encoded, Prediction

PREDICTIONS = ('x1', 'x0', 'v', *process_lib.ALIASES)
LOSSES = {
  'l2': jnp.square,
  'l1': jnp.abs,
  'smooth_l1': lambda d: jnp.where(jnp.abs(d) < 1, d * d / 2, jnp.abs(d) - 0.5),
}
FILLS = ('void', 'nearest')
LOSS_MASKS = ('ignore', 'counts', 'none')
# Arguments of the networks that follow from the model's own.
_UNET_SET = (
  *('in_channels', 'out_channels', 'context_dim'),
  *('dtype', 'remat', 'parent', 'name'),
)
_IMAGE_SET = ('parts', 'out_channels', 'dtype', 'parent', 'name')
_MASK_SET = ('num_classes', 'num_ids', 'image_size', 'mask_size', 'dtype')
_CLASSIFIER_SET = (*_MASK_SET, 'image_autoencoder', 'mask_autoencoder')
# Steps of Stable Diffusion's clock, which all of its UNets were trained with.
_CLOCK = schedules.NUM_TABULATED
# Of a step: what float32 tells apart in t = (step + 1) / 1000.
_FRACTIONS = 1024


@MODELS.register('ldmseg')
@dataclasses.dataclass(frozen=True)
class LDMSeg(model_lib.DiffusionModel):
  """The latent model; `mask_autoencoder` is stage 1.

  Parameters: net/unet (and net/descriptor), frozen/image (the encoder of
  images), frozen/mask (stage 1), frozen/clip with a descriptor,
  frozen/classifier with a classifier.

  Attributes:
    num_classes: without void; only `classifier` knows them.
    num_ids: ids are 0..num_ids - 1, void (0) included.
    image_size: (h, w) of the padded image.
    mask_size: (h, w) of the masks that are encoded and decoded.
    unet: keyword arguments of architectures.sd_unet.SDUNet.
    image_autoencoder: of architectures.sd_vae.SDVAE, whose encoder is used.
    mask_autoencoder: of models.mask_autoencoder.MaskAutoencoder.
    schedule: (name, keyword arguments) of diffusion.schedules.
    prediction: of the UNet: 'x1' (the noise; the paper's), 'x0' or 'v', or
      diffusers' names of them: 'epsilon', 'sample', 'v_prediction'.
    loss_weight: (name, keyword arguments) of diffusion.weights.TIME_WEIGHTS.
    loss_mask: 'ignore' leaves the places of void out (they still count in the
      mean), 'counts' weighs each segment by 1 / its area, 'none' neither.
    loss_kind: 'l2', 'l1' or 'smooth_l1' of the error of the prediction.
    image_scale: latents of images are multiplied by it.
    latent_scale: those of masks; 0.18215 in the release, 0.2 in its defaults.
      The inverse of their deviation (1 / 4.2) makes the noise as strong as the
      schedule says.
    self_condition_rate: the fraction of examples that are told a first estimate
      in training. The release tells all of them.
    descriptor: what the UNet attends to: 'none' (no cross-attention), 'text'
      or 'clip_image'; see models.descriptors.
    descriptor_args: keyword arguments of the descriptor's network.
    given_cells: which cells of a latent are given where pixels are, in
      inpainting: 'nearest' (the top left pixel of the cell is), 'all' or 'any'.
    given_fill: what stands where nothing is given while the given mask is
      encoded: 'void', as in the paper, or the id of the 'nearest' given pixel,
      so that cells of which a part is given mean something.
    classifier: keyword arguments of models.mask_classifier.MaskClassifier but
      the sizes and the autoencoders; empty: all segments are of class 1.
    dtype: of the networks' arithmetic; parameters stay float32.
    remat: the backward pass computes the UNet's blocks again.
  """

  num_classes: int
  num_ids: int
  image_size: tuple[int, int]
  mask_size: tuple[int, int]
  unet: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  image_autoencoder: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  mask_autoencoder: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  schedule: tuple[str, Mapping[str, Any]] = ('stable_diffusion', {})
  prediction: str = 'x1'
  loss_weight: tuple[str, Mapping[str, Any]] = ('max_clamp_snr', {})
  loss_mask: str = 'ignore'
  loss_kind: str = 'l2'
  image_scale: float | int = 0.18215
  latent_scale: float | int = 0.18215
  self_condition_rate: float | int = 1.0
  descriptor: str = 'none'
  descriptor_args: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  given_cells: str = 'nearest'
  given_fill: str = 'void'
  classifier: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  dtype: str = 'float32'
  remat: bool = False

  # The release's: one of the 1,000 steps, not a time between them.
  times = time_sampling.Discrete()

  def __post_init__(self):
    for key, value, known in (
      ('schedule', self.schedule[0], tuple(schedules.SCHEDULES)),
      ('prediction', self.prediction, PREDICTIONS),
      ('loss_weight', self.loss_weight[0], tuple(loss_weights.TIME_WEIGHTS)),
      ('loss_mask', self.loss_mask, LOSS_MASKS),
      ('loss_kind', self.loss_kind, tuple(LOSSES)),
      ('descriptor', self.descriptor, tuple(descriptors.DESCRIPTORS)),
      ('given_cells', self.given_cells, tuple(cells.CELLS)),
      ('given_fill', self.given_fill, FILLS),
    ):
      if value not in known:
        raise ValueError(
          f'model.{key}={value!r} is unknown.{did_you_mean(value, known)} '
          f'Known: {", ".join(known)}.'
        )
    described = descriptors.DESCRIPTORS[self.descriptor]
    weighing = loss_weights.TIME_WEIGHTS[self.loss_weight[0]]
    for key, entry, kwargs, skip in (
      ('descriptor_args', described, self.descriptor_args, ('dtype',)),
      ('unet', sd_unet.SDUNet, self.unet, _UNET_SET),
      ('image_autoencoder', sd_vae.SDVAE, self.image_autoencoder, _IMAGE_SET),
      ('mask_autoencoder', MaskAutoencoder, self.mask_autoencoder, _MASK_SET),
      ('classifier', MaskClassifier, self.classifier, _CLASSIFIER_SET),
      ('schedule', schedules.SCHEDULES[self.schedule[0]], self.schedule[1], ()),
      ('loss_weight', weighing, self.loss_weight[1], ()),
    ):
      checking.check_arguments(f'model.{key}', entry, kwargs, skip=skip)
    for key in ('image_scale', 'latent_scale'):
      if not getattr(self, key) > 0:
        raise ValueError(f'model.{key}={getattr(self, key)} must be above 0.')
    if not 0 <= self.self_condition_rate <= 1:
      raise ValueError(
        f'model.self_condition_rate={self.self_condition_rate} must lie in '
        '[0, 1].'
      )
    _ = self.describer, self.process, self.time_weight, self.classes
    self._check_latents()

  def _check_latents(self):
    sizes = [
      tuple(side / factor for side in size)
      for size, factor in (
        (self.image_size, self.image_net.factor),
        (self.mask_size, self.masks.net.factor),
      )
    ]
    if sizes[0] != sizes[1]:
      raise ValueError(
        f'latents of images are {sizes[0]} (data.image_size='
        f'{self.image_size} over {self.image_net.factor}, by '
        f'model.image_autoencoder) and those of masks {sizes[1]} '
        f'(data.mask_size={self.mask_size} over {self.masks.net.factor}, by '
        'model.mask_autoencoder); they must be of one size.'
      )

  # What the networks are.

  @functools.cached_property
  def process(self) -> process_lib.Process:
    name, kwargs = self.schedule
    schedule = schedules.SCHEDULES[name](**kwargs)
    return process_lib.Process(schedule, self.prediction)

  @functools.cached_property
  def time_weight(self):
    name, kwargs = self.loss_weight
    return loss_weights.TIME_WEIGHTS[name](**kwargs)

  @functools.cached_property
  def masks(self) -> MaskAutoencoder:
    """Stage 1, with this model's sizes."""
    return MaskAutoencoder(
      self.num_classes,
      self.num_ids,
      self.image_size,
      self.mask_size,
      dtype=self.dtype,
      **self.mask_autoencoder,
    )

  @property
  def names_classes(self) -> bool:
    """Of the data set."""
    return bool(self.classifier)

  @functools.cached_property
  def classes(self) -> MaskClassifier | None:
    """What names segments, if anything does."""
    if not self.classifier:
      return None
    return MaskClassifier(
      self.num_classes,
      self.num_ids,
      self.image_size,
      self.mask_size,
      image_autoencoder=self.image_autoencoder,
      mask_autoencoder=self.mask_autoencoder,
      dtype=self.dtype,
      **self.classifier,
    )

  @property
  def image_net(self) -> sd_vae.SDVAE:
    return sd_vae.SDVAE(
      parts=('encoder',), dtype=jnp.dtype(self.dtype), **self.image_autoencoder
    )

  @property
  def describer(self):
    entry = descriptors.DESCRIPTORS[self.descriptor]
    return entry(self.dtype, **self.descriptor_args)

  @property
  def unet_net(self) -> sd_unet.SDUNet:
    channels = self.masks.net.latent_channels
    parts = 2 if self.self_condition_rate > 0 else 1
    return sd_unet.SDUNet(
      in_channels=parts * channels + self.image_net.latent_channels,
      out_channels=channels,
      context_dim=self.describer.width,
      dtype=jnp.dtype(self.dtype),
      remat=self.remat,
      **self.unet,
    )

  @property
  def latent_shape(self) -> tuple[int, int, int]:
    """(h, w, c) of x_0."""
    factor = self.masks.net.factor
    sides = [side // factor for side in self.mask_size]
    return (*sides, self.masks.net.latent_channels)

  def init(self, rng, batch):
    """Parameters; the batch is not looked at."""
    del batch
    k_unet, k_image, k_mask, k_descriptor, k_head = jax.random.split(rng, 5)
    image = jnp.zeros((1, *self.image_size, 3))
    mask = self.masks.init(k_mask, None)['net']['autoencoder']
    net, clip = self.describer.init(k_descriptor)
    h, w, _ = self.latent_shape
    unet = self.unet_net
    x = jnp.zeros((1, h, w, unet.in_channels))
    context = self.describer.example()
    net['unet'] = unet.init(k_unet, x, jnp.zeros((1,)), context)['params']
    frozen = {
      'image': self.image_net.init(k_image, image)['params'],
      'mask': mask,
      **clip,
    }
    if self.classes:
      frozen['classifier'] = self.classes.init_head(k_head, frozen)
    return {'net': net, 'stats': {}, 'frozen': frozen}

  def check_origin(self, folder, target, theirs):
    """Raises ValueError for a stage 1 of other masks, by its run's config."""
    model = theirs.get('model', {})
    model = model.get('mask_autoencoder', model)
    if target not in ('frozen', 'frozen/mask') or 'kind' not in model:
      return
    ids = theirs.get('data', {}).get('num_ids')
    for key, there, here in (
      ('data.num_ids', ids, self.num_ids),
      *(
        (f'model.{k}', model.get(k), getattr(self.masks, k))
        for k in ('kind', 'mask_encoding')
      ),
    ):
      if there != here:
        raise ValueError(
          f'init_from: the autoencoder of masks in {folder} was trained with '
          f'{key}={there!r}, here it is {here!r}: its latents mean something '
          'else. Make model.mask_autoencoder and data as they are there, or '
          'train another.'
        )

  # The blanks that the paper fills in.

  def encode(self, params, batch, rng, *, train=False):
    """Image -> {'map': its scaled latent[, 'context']} (eq. 5)."""
    latent = batch.get(
      'image_latent'
    )  # cached; see pix2seqd_jax.cli.cache_latents
    if latent is None:
      variables = {'params': params['frozen']['image']}
      images = signed_images(batch)
      latent = self.image_net.apply(variables, images, method='encode').mean
    condition = {'map': latent * self.image_scale}
    context = self.describer.describe(params, batch)
    if context is not None:
      condition['context'] = context
    return Encoded(condition, stats={} if train else None)

  def source(self, params, batch, encoded, keys, *, train=False):
    shape = (keys.shape[0], *self.latent_shape)
    return noise.noise_like(keys, jax.ShapeDtypeStruct(shape, jnp.float32))

  def _latents(self, params, ids):
    variables = {'params': params['frozen']['mask']}
    mean = self.masks.encode(variables, ids).mean
    return mean.astype(jnp.float32) * self.latent_scale

  def target(self, params, batch, rng):
    """The mean latent of the mask, and the weight of each of its places."""
    ids = batch['instance']
    if self.loss_mask == 'none':
      return self._latents(params, ids), None
    f = self.masks.net.factor
    places = ids[:, ::f, ::f]  # as PyTorch's nearest: the top left of each cell
    if self.loss_mask == 'counts':
      weight = loss_weights.area_weight(places, self.num_ids)
    else:
      weight = (places > 0).astype(jnp.float32)
    return self._latents(params, ids), weight[..., None]

  def denoise(
    self, params, x_t, t, condition, *, previous=None, train=False, rng=None
  ):
    """Channels: noisy latent, the image's, [the last estimate of x_0]."""
    parts = [x_t, condition['map']]
    parts += [] if previous is None else [previous]
    # Whole steps stay whole: float32 has rounded t = (step + 1) / 1000.
    step = jnp.round(t * (_CLOCK * _FRACTIONS)) / _FRACTIONS - 1
    out = self.unet_net.apply(
      {'params': params['net']['unet']},
      jnp.concatenate([p.astype(x_t.dtype) for p in parts], -1),
      step,
      condition.get('context'),
      train,
      rngs=None if rng is None else {'dropout': rng},
    )
    return Prediction(out.astype(jnp.promote_types(out.dtype, jnp.float32)))

  def loss(self, prediction, x_0, x_1, t, batch):
    """w(t) |error|^p of each element (sec. 3.3)."""
    expected = self.process.regression_target(x_0, x_1, t)
    error = LOSSES[self.loss_kind](prediction.value - expected)
    return (
      error * self.time_weight(self.process.schedule, t)[:, None, None, None]
    )

  def known(self, params, batch):
    """What batch['given'] tells of x_0, or None; see diffusion.inpainting."""
    given = batch.get('given', {})
    if 'known' not in given:
      return None
    told, ids = given['known'], given['instance']
    if self.given_fill == 'nearest':
      ids = cells.fill(ids, told)
    x_0 = self._latents(params, ids)
    f = self.masks.net.factor
    return inpainting_lib.Known(
      x_0, cells.cells_of(told, f, self.given_cells)[..., None]
    )

  # Latents -> segments.

  def decode(self, params, x_0, batch):
    """Latents -> logits of ids [b, H, W, num_ids][, of classes]."""
    frozen = params['frozen']
    raw = {
      'logits': self.masks.logits(
        {'params': frozen['mask']}, x_0, self.latent_scale
      )
    }
    if self.classes:
      z = x_0 / self.latent_scale
      raw['classes'] = self.classes.logits(
        frozen['classifier'], frozen, z, batch
      )
    return raw

  def postprocess(self, raw, meta):
    """Logits -> segments at the original size; of class 1, or named."""
    found = self.masks.postprocess(raw, meta)
    if self.classes:
      found = self.classes.classify(found, raw['classes'], meta)
    return found
