"""Pix2Seq-D: panoptic masks by diffusion over analog bits.

Chen et al. 2023, "A Generalist Framework for Panoptic Segmentation of Images
and Videos", https://arxiv.org/abs/2210.06366. x_0 is the analog bits of
(class, instance id), x_1 is noise, the condition is the image's features;
the network names each code by a softmax and its expected bits estimate x_0.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from pix2seqd_jax import checking
from pix2seqd_jax.architectures import pyramid, resnet_transformer, transunet
from pix2seqd_jax.diffusion import loss_weights, noise, schedules
from pix2seqd_jax.diffusion import process as process_lib
from pix2seqd_jax.encoding import bits, panoptic_ids
from pix2seqd_jax.models import model as model_lib
from pix2seqd_jax.registry import MODELS, did_you_mean
from pix2seqd_jax.types import Encoded, Prediction, Segmentation

PAD_VALUE = 0.3  # of images, in [0, 1]; the reference's
CONDITIONALS = ('none', 'cat', 'attn', 'cat+attn')
# What the network's channels mean -> what `value` estimates.
LOSSES = {
  'softmax': 'x0',
  'sigmoid': 'x0',
  'x0': 'x0',
  'eps': 'x1',
  **process_lib.ALIASES,
}
# Arguments of the networks that follow from the model's own.
_SET_BY_MODEL = (
  'out_channels',
  'cross_attention',
  'dtype',
  'remat',
  'parent',
  'name',
)


@MODELS.register('pix2seq_d')
@dataclasses.dataclass(frozen=True)
class Pix2SeqD(model_lib.DiffusionModel):
  """The image model.

  Attributes:
    num_classes: without void; classes are 1..num_classes.
    num_ids: ids are 0..num_ids - 1, the null id 0 included.
    image_size: (h, w) of the padded image.
    mask_size: (h, w) at which masks are diffused.
    encoder: keyword arguments of architectures.resnet_transformer.Encoder.
    merge: of architectures.pyramid.TopDownMerge.
    denoiser: of architectures.transunet.TransUNet.
    schedule: (name, keyword arguments) of diffusion.schedules.
    class_bits, instance_bits: bits of each of the two numbers.
    bits_kind, bits_order: the code; see encoding.bits.Code.
    scale: b, the analog bits are -b and +b. The paper's 0.1 belongs to large
      masks: fewer pixels repeat each bit in a small one, and b must grow.
    conditional: how the denoiser sees the image: concatenated feature map
      ('cat'), cross-attention to the tokens ('attn'), both, or 'none' (an
      unconditional generator of masks, for pretraining the decoder).
    loss_kind: 'softmax' (the paper's), 'sigmoid', or the squared error of
      'x0' ('sample'), 'eps' ('epsilon') or 'v_prediction'.
    loss_weight: p of the weight (1 / (area + 1))^p of each pixel.
    mask_impossible: gives codes that no class or id has the probability 0.
    self_condition_rate: 0 turns self-conditioning off (the paper's choice).
    dtype: of the networks' arithmetic; parameters stay float32.
  """

  num_classes: int
  num_ids: int
  image_size: tuple[int, int]
  mask_size: tuple[int, int]
  encoder: Mapping[str, Any]
  merge: Mapping[str, Any]
  denoiser: Mapping[str, Any]
  schedule: tuple[str, Mapping[str, Any]] = ('cosine', {})
  class_bits: int = 8
  instance_bits: int = 8
  bits_kind: str = 'binary'
  bits_order: str = 'lsb'
  scale: float | int = 0.1
  conditional: str = 'cat+attn'
  loss_kind: str = 'softmax'
  loss_weight: float | int = 0.2
  mask_impossible: bool = False
  self_condition_rate: float | int = 0.0
  dtype: str = 'float32'
  remat: bool = False

  def __post_init__(self):
    for key, value, known in (
      ('conditional', self.conditional, CONDITIONALS),
      ('loss_kind', self.loss_kind, tuple(LOSSES)),
      ('schedule', self.schedule[0], tuple(schedules.SCHEDULES)),
    ):
      if value not in known:
        raise ValueError(
          f'model.{key}={value!r} is unknown.{did_you_mean(value, known)} '
          f'Known: {", ".join(known)}.'
        )
    schedule = schedules.SCHEDULES[self.schedule[0]]
    for key, entry, kwargs in (
      ('schedule', schedule, self.schedule[1]),
      ('encoder', resnet_transformer.Encoder, self.encoder),
      ('merge', pyramid.TopDownMerge, self.merge),
      ('denoiser', transunet.TransUNet, self.denoiser),
    ):
      checking.check_arguments(
        f'model.{key}', entry, kwargs, skip=_SET_BY_MODEL
      )
    if not self.scale > 0:
      raise ValueError(f'model.scale={self.scale} must be above 0.')
    _ = self.codes, self.process  # they check their own arguments
    if not 0 <= self.self_condition_rate <= 1:
      raise ValueError(
        f'model.self_condition_rate={self.self_condition_rate} must lie in '
        '[0, 1].'
      )
    for key, num_bits, num_codes, cause in (
      (
        'class_bits',
        self.class_bits,
        self.num_classes + 1,
        f'data.num_classes={self.num_classes} and void',
      ),
      (
        'instance_bits',
        self.instance_bits,
        self.num_ids,
        f'data.num_ids={self.num_ids}',
      ),
    ):
      if 2**num_bits < num_codes:
        raise ValueError(
          f'model.{key}={num_bits} can name {2**num_bits} codes but {cause} '
          f'need {num_codes}; '
          f'set model.{key} >= {(num_codes - 1).bit_length()}.'
        )

  # What the networks are.

  @property
  def codes(self) -> tuple[bits.Code, bits.Code]:
    """The codes of (class, instance)."""
    return tuple(
      bits.Code(num_bits, kind=self.bits_kind, order=self.bits_order)
      for num_bits in (self.class_bits, self.instance_bits)
    )

  @functools.cached_property
  def process(self) -> process_lib.Process:
    name, kwargs = self.schedule
    return process_lib.Process(
      schedule=schedules.SCHEDULES[name](**kwargs),
      target=LOSSES[self.loss_kind],
      clip_x0=(-self.scale, self.scale),
    )

  @property
  def _common(self):
    return {'dtype': jnp.dtype(self.dtype), 'remat': self.remat}

  @property
  def encoder_net(self):
    return resnet_transformer.Encoder(**self._common, **self.encoder)

  @property
  def merge_net(self):
    return pyramid.TopDownMerge(dtype=jnp.dtype(self.dtype), **self.merge)

  @property
  def denoiser_net(self):
    num_bits = self.class_bits + self.instance_bits
    return transunet.TransUNet(
      out_channels=(
        2**self.class_bits + 2**self.instance_bits
        if self.loss_kind == 'softmax'
        else num_bits
      ),
      cross_attention='attn' in self.conditional,
      **self._common,
      **self.denoiser,
    )

  def init(self, rng, batch):
    """Parameters; only the shapes of `batch['image']` matter."""
    k_encoder, k_merge, k_denoiser = jax.random.split(rng, 3)
    num_bits = self.class_bits + self.instance_bits
    images = jnp.zeros((1, *batch['image'].shape[1:]), jnp.float32)
    net, stats, tokens = {}, {}, None
    merged = jnp.zeros((1, *self.mask_size, self.merge['out_dim']))
    if self.conditional != 'none':
      variables = self.encoder_net.init(k_encoder, images, train=False)
      hidden, tokens = self.encoder_net.apply(variables, images, train=False)
      net['encoder'] = variables['params']
      stats['encoder'] = variables['batch_stats']
    if 'cat' in self.conditional:
      variables = self.merge_net.init(
        k_merge, hidden, tokens, mask_size=self.mask_size
      )
      net['merge'] = variables['params']
      merged = self.merge_net.apply(
        variables, hidden, tokens, mask_size=self.mask_size
      )
    channels = num_bits * (2 if self.self_condition_rate > 0 else 1)
    noisy = jnp.zeros((1, *self.mask_size, channels))
    net['denoiser'] = self.denoiser_net.init(
      k_denoiser,
      jnp.concatenate([noisy, merged], -1),
      jnp.zeros((1,)),
      tokens if 'attn' in self.conditional else None,
    )['params']
    return {'net': net, 'stats': stats, 'frozen': {}}

  # The blanks that the paper fills in.

  def encode(self, params, batch, rng, *, train=False):
    """Image -> {'map': [b, hm, wm, c], 'tokens': [b, n, d]} (sec. 3.1)."""
    if self.conditional == 'none':
      shape = (batch['image'].shape[0], *self.mask_size, self.merge['out_dim'])
      return Encoded({'map': jnp.zeros(shape)}, stats={} if train else None)
    images = self._images(batch)
    hidden, tokens, stats = self._features(params, images, rng, train=train)
    if 'cat' in self.conditional:
      merged = self.merge_net.apply(
        {'params': params['net']['merge']},
        hidden,
        tokens,
        mask_size=self.mask_size,
      )
    else:  # zeros: the denoiser keeps the shape of its input
      merged = jnp.zeros(
        (images.shape[0], *self.mask_size, self.merge['out_dim'])
      )
    condition = {'map': merged}
    if 'attn' in self.conditional:
      condition['tokens'] = tokens
    return Encoded(condition, stats=stats)

  def source(self, params, batch, encoded, keys, *, train=False):
    num_bits = self.class_bits + self.instance_bits
    num_examples = keys.shape[0]
    shape = jax.ShapeDtypeStruct(
      (num_examples, *self.mask_size, num_bits), jnp.float32
    )
    return noise.noise_like(keys, shape)

  def target(self, params, batch, rng):
    """Analog bits of the labels and the weight by area (sec. 3.3)."""
    if 'bits' in batch:  # data.encode = 'host'
      x_0 = batch['bits']
    else:
      x_0 = self.encode_labels(batch['semantic'], batch['instance'])
    if self.process.target == 'x1':  # unweighted in the reference
      return x_0, None
    weight = loss_weights.instance_weight(
      batch['instance'], self.num_ids, self.loss_weight
    )
    return x_0, weight

  def denoise(
    self, params, x_t, t, condition, *, previous=None, train=False, rng=None
  ):
    """Channels: noisy bits, [the previous estimate], the image's map."""
    parts = [x_t] if previous is None else [x_t, previous]
    # The map is in the network's own type: casting it anew costs every step.
    parts = [part.astype(condition['map'].dtype) for part in parts]
    gamma = self.process.schedule.gamma(t)  # the network's clock
    out = self.denoiser_net.apply(
      {'params': params['net']['denoiser']},
      jnp.concatenate([*parts, condition['map']], -1),
      gamma,
      condition.get('tokens'),
      train=train,
      rngs=None if rng is None else {'dropout': rng},
    )
    out = out.astype(jnp.promote_types(out.dtype, jnp.float32))
    if self.loss_kind == 'softmax':
      return Prediction(self._expected_bits(out), out)
    if self.loss_kind == 'sigmoid':
      return Prediction((2 * jax.nn.sigmoid(out) - 1) * self.scale, out)
    return Prediction(out, out)

  def loss(self, prediction, x_0, x_1, t, batch):
    """[b, hm, wm], the mean over groups or bits (sec. 3.3; eq. 2 for x0)."""
    if self.loss_kind == 'softmax':
      split = 2**self.class_bits
      logits = prediction.aux
      return 0.5 * sum(
        optax.softmax_cross_entropy_with_integer_labels(group, labels)
        for group, labels in (
          (logits[..., :split], batch['semantic']),
          (logits[..., split:], batch['instance']),
        )
      )
    if self.loss_kind == 'sigmoid':
      agreement = jax.nn.sigmoid(prediction.aux * x_0 / self.scale)
      return jnp.mean(-jnp.log(agreement + 1e-8), -1)
    # The squared error, read from the network itself (before any clipping).
    wanted = self.process.regression_target(x_0, x_1, t)
    return jnp.mean(jnp.square(prediction.aux - wanted), -1)

  # Labels <-> bits.

  def encode_labels(
    self, semantic: bits.Ids, instance: bits.Ids
  ) -> bits.Analog:
    """Class and id maps -> analog bits, [class | instance].

    NumPy in, NumPy out, with the same values: data.encode='host'.
    """
    class_code, instance_code = self.codes
    numbers = np if isinstance(semantic, np.ndarray) else jnp
    return numbers.concatenate(
      [
        class_code.encode(semantic, self.scale),
        instance_code.encode(instance, self.scale),
      ],
      -1,
    )

  def decode(self, params, x_0, batch):
    """Thresholds the bits; out-of-range numbers are clamped (reference)."""
    class_code, instance_code = self.codes
    semantic = class_code.decode(x_0[..., : self.class_bits])
    instance = instance_code.decode(x_0[..., self.class_bits :])
    return {
      'semantic': jnp.minimum(semantic, self.num_classes),
      'instance': jnp.minimum(instance, self.num_ids - 1),
      'score': bits.confidence(x_0, self.scale),
    }

  def postprocess(self, raw, meta):
    """Mask size -> image size, padding off, -> original size; nearest."""

    def resize(leaf):
      leaf = panoptic_ids.resize_nearest(leaf, self.image_size)
      height, width = meta['unpadded']
      return panoptic_ids.resize_nearest(leaf[:height, :width], meta['size'])

    return Segmentation(
      semantic=resize(raw['semantic']),
      instance=resize(raw['instance']),
      score=resize(raw['score']),
    )

  # Helpers.

  def _images(self, batch):
    """uint8 -> [0, 1], the padding filled with 0.3; no other normalisation."""
    images = batch['image']
    if images.dtype == jnp.uint8:
      images = images.astype(jnp.float32) / 255
    return jnp.where(batch['valid'][..., None], images, PAD_VALUE)

  def _features(self, params, images, rng, *, train):
    variables = {
      'params': params['net']['encoder'],
      'batch_stats': params['stats']['encoder'],
    }
    if not train:
      hidden, tokens = self.encoder_net.apply(variables, images, train=False)
      return hidden, tokens, None
    (hidden, tokens), updated = self.encoder_net.apply(
      variables,
      images,
      train=True,
      rngs={'dropout': rng},
      mutable=['batch_stats'],
    )
    return hidden, tokens, {'encoder': updated['batch_stats']}

  def _expected_bits(self, logits):
    split = 2**self.class_bits
    groups = (logits[..., :split], logits[..., split:])
    limits = (self.num_classes + 1, self.num_ids)
    return jnp.concatenate(
      [
        code.expected(
          group, self.scale, limit if self.mask_impossible else None
        )
        for code, group, limit in zip(self.codes, groups, limits, strict=True)
      ],
      -1,
    )
