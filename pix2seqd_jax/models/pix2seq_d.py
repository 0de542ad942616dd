"""Pix2Seq-D: panoptic masks by diffusion over analog bits.

Chen et al. 2023, "A Generalist Framework for Panoptic Segmentation of Images
and Videos", https://arxiv.org/abs/2210.06366:

    x_t = sqrt(gamma(t)) x_0 + sqrt(1 - gamma(t)) x_1       (section 2, eq. 1)

x_0 is the analog bits of (class, instance id), x_1 is noise, the condition is
the image's features. The network names each code by a softmax, and its
expected bits estimate x_0.
"""

import dataclasses
import functools
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import optax

from pix2seqd_jax import checking
from pix2seqd_jax.architectures import pyramid, resnet_transformer, transunet
from pix2seqd_jax.diffusion import loss_weights, noise, schedules
from pix2seqd_jax.diffusion import process as process_lib
from pix2seqd_jax.encoding import bits, panoptic_bits, panoptic_ids
from pix2seqd_jax.models import model as model_lib
from pix2seqd_jax.registry import MODELS
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


@MODELS.register('pix2seq_d')
@dataclasses.dataclass(frozen=True)
class Pix2SeqD(model_lib.DiffusionModel):
  """The image model.

  Attributes:
    num_classes: without void; classes are 1..num_classes.
    num_ids: ids are 0..num_ids - 1, the null id 0 included.
    image_size: (h, w) of the padded image.
    mask_size: (h, w) at which masks are diffused.
    encoder, merge, denoiser: the networks. What follows from the rest (their
      type, the denoiser's outputs and cross-attention) is set here.
    schedule: one of diffusion.schedules.
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
    remat: the backward pass computes the networks' blocks again.
  """

  num_classes: int
  num_ids: int
  image_size: tuple[int, int]
  mask_size: tuple[int, int]
  encoder: Annotated[
    resnet_transformer.Encoder, checking.Follows('dtype', 'remat')
  ]
  merge: Annotated[pyramid.TopDownMerge, checking.Follows('dtype')]
  denoiser: Annotated[
    transunet.TransUNet,
    checking.Follows('out_channels', 'cross_attention', 'dtype', 'remat'),
  ]
  schedule: Annotated[Any, checking.OneOf(schedules.SCHEDULES)] = (
    dataclasses.field(default_factory=schedules.Cosine)
  )
  class_bits: int = 8
  instance_bits: int = 8
  bits_kind: str = 'binary'
  bits_order: str = 'lsb'
  scale: Annotated[float | int, checking.POSITIVE] = 0.1
  conditional: Annotated[str, checking.Choice(CONDITIONALS)] = 'cat+attn'
  loss_kind: Annotated[str, checking.Choice(LOSSES)] = 'softmax'
  loss_weight: Annotated[float | int, checking.NOT_NEGATIVE] = 0.2
  mask_impossible: bool = False
  self_condition_rate: Annotated[float | int, checking.FRACTION] = 0.0
  dtype: str = 'float32'
  remat: bool = False

  def __post_init__(self):
    checking.check_fields('model', self)
    self.code.check('model')
    common = {'dtype': jnp.dtype(self.dtype), 'remat': self.remat}
    is_softmax = self.loss_kind == 'softmax'
    outputs = self.code.num_logits if is_softmax else self.code.num_bits
    checking.set_parts(
      self,
      encoder=common,
      merge={'dtype': common['dtype']},
      denoiser={
        'out_channels': outputs,
        'cross_attention': 'attn' in self.conditional,
        **common,
      },
    )

  @functools.cached_property
  def code(self) -> panoptic_bits.PanopticBits:
    """Labels <-> analog bits (section 3.2, input scaling)."""
    return panoptic_bits.PanopticBits(
      self.num_classes,
      self.num_ids,
      self.class_bits,
      self.instance_bits,
      kind=self.bits_kind,
      order=self.bits_order,
      scale=self.scale,
    )

  @functools.cached_property
  def process(self) -> process_lib.Process:
    """Equation 1, in which estimates of x_0 are kept within [-b, b]."""
    target, clip = LOSSES[self.loss_kind], (-self.scale, self.scale)
    return process_lib.Process(self.schedule, target, clip_x0=clip)

  def init(self, rng, batch):
    """Parameters; only the shapes of `batch['image']` matter."""
    k_encoder, k_merge, k_denoiser = jax.random.split(rng, 3)
    net, stats, tokens = {}, {}, None
    merged = jnp.zeros((1, *self.mask_size, self.merge.out_dim))
    if self.conditional != 'none':
      images = jnp.zeros((1, *batch['image'].shape[1:]), jnp.float32)
      (hidden, tokens), made = self.encoder.init_with_output(
        k_encoder, images, train=False
      )
      net['encoder'], stats['encoder'] = made['params'], made['batch_stats']
    if 'cat' in self.conditional:
      merged, made = self.merge.init_with_output(
        k_merge, hidden, tokens, mask_size=self.mask_size
      )
      net['merge'] = made['params']
    copies = 2 if self.self_condition_rate > 0 else 1
    noisy = jnp.zeros((1, *self.mask_size, copies * self.code.num_bits))
    x = jnp.concatenate([noisy, merged], -1)
    seen = tokens if 'attn' in self.conditional else None
    made = self.denoiser.init(k_denoiser, x, jnp.zeros((1,)), seen)
    net['denoiser'] = made['params']
    return {'net': net, 'stats': stats, 'frozen': {}}

  # The blanks that the paper fills in.

  def encode(self, params, batch, rng, *, train=False):
    """Image -> {'map': [b, hm, wm, c], 'tokens': [b, n, d]} (section 3.1)."""
    images, updated = self._images(batch), {}
    # Zeros where nothing is: the denoiser keeps the shape of its input.
    merged = jnp.zeros((len(images), *self.mask_size, self.merge.out_dim))
    condition = {'map': merged}
    if self.conditional != 'none':
      variables = {
        'params': params['net']['encoder'],
        'batch_stats': params['stats']['encoder'],
      }
      (hidden, tokens), updated = self.encoder.apply(
        variables,
        images,
        train=train,
        rngs={'dropout': rng} if train else None,
        mutable=['batch_stats'] if train else [],
      )
    if 'cat' in self.conditional:
      variables = {'params': params['net']['merge']}
      condition['map'] = self.merge.apply(
        variables, hidden, tokens, mask_size=self.mask_size
      )
    if 'attn' in self.conditional:
      condition['tokens'] = tokens
    stats = {'encoder': updated['batch_stats']} if updated else {}
    return Encoded(condition, stats=stats if train else None)

  def source(self, params, batch, encoded, keys, *, train=False):
    """x_1 ~ N(0, 1) (section 2)."""
    return noise.normal(keys, (*self.mask_size, self.code.num_bits))

  def target(self, params, batch, rng):
    """Analog bits of the labels and the weight by area (section 3.2)."""
    x_0 = batch.get('bits')  # data.encode = 'host'
    if x_0 is None:
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
    """Channels: noisy bits, [the previous estimate], the image's map.

    The network's clock is gamma(t). Of a softmax over codes, the expected bits
    estimate x_0 (section 3.2).
    """
    parts = [x_t] if previous is None else [x_t, previous]
    # The map is in the network's own type: casting it anew costs every step.
    parts = [part.astype(condition['map'].dtype) for part in parts]
    out = model_lib.run(
      self.denoiser,
      params['net']['denoiser'],
      jnp.concatenate([*parts, condition['map']], -1),
      self.process.schedule.gamma(t),
      condition.get('tokens'),
      train=train,
      rng=rng,
    )
    if self.loss_kind == 'softmax':
      return Prediction(self.code.expected(out, self.mask_impossible), out)
    if self.loss_kind == 'sigmoid':
      return Prediction((2 * jax.nn.sigmoid(out) - 1) * self.scale, out)
    return Prediction(out, out)

  def loss(self, prediction, x_0, x_1, t, batch):
    """[b, hm, wm]: the cross-entropy of codes, the mean of class and id
    (section 3.2); of bits; or the squared error, whose mean is eq. 2 for x0."""
    out = prediction.aux  # the network's own, before any clipping
    if self.loss_kind == 'softmax':
      labels = batch['semantic'], batch['instance']
      return 0.5 * sum(
        optax.softmax_cross_entropy_with_integer_labels(*pair)
        for pair in zip(self.code.split_logits(out), labels, strict=True)
      )
    if self.loss_kind == 'sigmoid':
      agreement = jax.nn.sigmoid(out * x_0 / self.scale)
      return jnp.mean(-jnp.log(agreement + 1e-8), -1)
    expected = self.process.regression_target(x_0, x_1, t)
    return jnp.mean(jnp.square(out - expected), -1)

  def decode(self, params, x_0, batch):
    """Thresholds the bits (section 3.3)."""
    return self.code.decode(x_0)

  def postprocess(self, raw, meta):
    """At the original size; the task names each id's class (section 3.3)."""
    size = self.image_size, meta['unpadded'], meta['size']
    keys = 'semantic', 'instance', 'score'
    return Segmentation(
      **{key: panoptic_ids.to_original(raw[key], *size) for key in keys}
    )

  def encode_labels(
    self, semantic: bits.Ids, instance: bits.Ids
  ) -> bits.Analog:
    """Class and id maps -> x_0, on the host too: data.encode='host'."""
    return self.code.encode(semantic, instance)

  def _images(self, batch):
    """uint8 -> [0, 1], the padding filled with 0.3; no other normalisation."""
    images = batch['image']
    if images.dtype == jnp.uint8:
      images = images.astype(jnp.float32) / 255
    return jnp.where(batch['valid'][..., None], images, PAD_VALUE)
