"""SemFlow: one flow, image -> mask and mask -> image.

Wang et al. 2024, "SemFlow: Binding Semantic Segmentation and Image Synthesis
via Rectified Flow", https://arxiv.org/abs/2405.20282. x_0 is the latent of the
mask, painted in the colours of encoding.anchors and moved a little
(sec. 3.3), x_1 that of the image, by one frozen autoencoder; the UNet of
Stable Diffusion predicts the velocity of the straight path between them
(eq. 5). Followed to t = 0 it segments; followed back to t = 1, it draws.
"""

import dataclasses
import functools
import warnings
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pix2seqd_jax import checking
from pix2seqd_jax.architectures import sd_unet, sd_vae
from pix2seqd_jax.diffusion import process as process_lib
from pix2seqd_jax.diffusion import schedules, time_sampling
from pix2seqd_jax.encoding import anchors as anchors_lib
from pix2seqd_jax.encoding import mask_logits, panoptic_ids
from pix2seqd_jax.models import model as model_lib
from pix2seqd_jax.models import origins
from pix2seqd_jax.models.image_autoencoder import signed_images
from pix2seqd_jax.registry import MODELS, did_you_mean
from pix2seqd_jax.types import Encoded, Prediction, Segmentation

POSTERIORS = ('sample', 'mode')
RESIZES = ('labels', 'colors')
# Arguments of the networks that follow from the model's own.
_UNET_SET = ('in_channels', 'out_channels', 'dtype', 'remat', 'parent', 'name')
_IMAGE_SET = ('parts', 'in_channels', 'out_channels', 'dtype', 'parent', 'name')
_CLOCK = schedules.NUM_TABULATED


@MODELS.register('semflow')
@dataclasses.dataclass(frozen=True)
class SemFlow(model_lib.DiffusionModel):
  """The latent flow; its autoencoder is trained before and apart.

  Parameters: net/unet, frozen/image (the autoencoder, both halves), and
  frozen/prompt with `prompt_tokens`.

  Attributes:
    num_classes: without void.
    num_ids: above num_classes, so that an image may show them all; it
      is not looked at here.
    image_size: (h, w) of images.
    mask_size: the same.
    unet: keyword arguments of architectures.sd_unet.SDUNet.
    image_autoencoder: of architectures.sd_vae.SDVAE.
    anchors: `levels` and `spacing` of encoding.anchors.Anchors.
    perturbation: half the width of the uniform noise on masks, in levels of
      0 .. 255: 6 in the paper, 6.375 in the release. Images drawn from one
      mask differ by it alone; it must be below spacing / 2.
    posterior: 'sample' or 'mode' of the image's latent, in training. When
      sampling, and of masks, it is the mode.
    latent_scale: latents are multiplied by it.
    prompt_tokens: of the one prompt that the UNet attends to (the release: the
      empty one), frozen/prompt/tokens [prompt_tokens, unet.context_dim]; 0: no
      cross-attention.
    train_times: (name, keyword arguments) of diffusion.times.TIMES.
    resize: where a segmentation gets its original size: 'labels', the nearest
      pixel's class, or 'colors', which are resized bilinearly before anchors
      are looked for. (The release evaluates none.)
    dtype: of the networks' arithmetic; parameters stay float32.
    remat: the backward pass computes the UNet's blocks again.
  """

  num_classes: int
  num_ids: int
  image_size: tuple[int, int]
  mask_size: tuple[int, int]
  unet: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  image_autoencoder: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  anchors: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  perturbation: float | int = 6.375
  posterior: str = 'sample'
  latent_scale: float | int = 0.18215
  prompt_tokens: int = 77
  train_times: tuple[str, Mapping[str, Any]] = ('uniform', {})
  resize: str = 'labels'
  dtype: str = 'float32'
  remat: bool = False

  returns = 'state'
  source_is_noise = False
  draws_images = True
  known_times = tuple(time_sampling.TIMES)

  def __post_init__(self):
    drawn, drawn_kwargs = self.train_times
    for key, value, known in (
      ('posterior', self.posterior, POSTERIORS),
      ('resize', self.resize, RESIZES),
      ('train_times', drawn, self.known_times),
    ):
      if value not in known:
        raise ValueError(
          f'model.{key}={value!r} is unknown.{did_you_mean(value, known)} '
          f'Known: {", ".join(known)}.'
        )
    unet_set = _UNET_SET if self.prompt_tokens else (*_UNET_SET, 'context_dim')
    for key, entry, kwargs, skip in (
      ('unet', sd_unet.SDUNet, self.unet, unet_set),
      ('image_autoencoder', sd_vae.SDVAE, self.image_autoencoder, _IMAGE_SET),
      ('anchors', anchors_lib.Anchors, self.anchors, ('num_classes',)),
      ('train_times', time_sampling.TIMES[drawn], drawn_kwargs, ()),
    ):
      checking.check_arguments(f'model.{key}', entry, kwargs, skip=skip)
    time_sampling.TIMES[drawn](**drawn_kwargs)  # its numbers are checked there
    self.check_perturbation(self.perturbation, 'model.perturbation')
    if not self.latent_scale > 0:
      raise ValueError(
        f'model.latent_scale={self.latent_scale} must be above 0.'
      )
    if self.prompt_tokens < 0:
      raise ValueError(
        f'model.prompt_tokens={self.prompt_tokens} must be 0 (no prompt) or '
        'more.'
      )
    self._warn_of_void()
    self._check_sizes()

  def _warn_of_void(self):
    if self.palette.is_void_near(self.perturbation):
      warnings.warn(
        f'model.anchors: the colour of class {self.num_classes} is so near to '
        "void's white that model.perturbation="
        f'{self.perturbation} mixes the two: it learns from pixels that have '
        'no class. Lower spacing (with more levels if need be) or '
        'perturbation.',
        stacklevel=3,
      )

  def check_perturbation(self, value, name='perturbation'):
    """Raises ValueError for noise that would make one class another.

    Args:
      value: half of its width, in levels of 0 .. 255.
      name: of it, in the error.
    """
    spacing = self.palette.spacing
    number = isinstance(value, int | float | np.number)
    if not (number and 0 <= value < spacing / 2):
      raise ValueError(
        f'{name}={value!r} must be 0 or more and below {spacing / 2:g} levels, '
        f'half of model.anchors.spacing={spacing}: moved further, a colour may '
        f'be that of another class. The model has {self.perturbation}.'
      )

  def check_origin(self, folder, target, theirs):
    """Raises ValueError for weights that fit in shape but not in meaning."""
    origins.check(self, folder, target, theirs)

  teacher = ()  # where another flow's weights are

  def _check_sizes(self):
    if tuple(self.mask_size) != tuple(self.image_size):
      raise ValueError(
        f'data.mask_size={self.mask_size} must be data.image_size='
        f'{self.image_size}: masks are encoded as images are.'
      )
    halvings = len(self.unet_net.channels) - 1
    whole = self.image_net.factor * 2**halvings
    if any(side % whole for side in self.image_size):
      raise ValueError(
        f'data.image_size={self.image_size} must be divisible by {whole}: '
        f'model.image_autoencoder divides sides by {self.image_net.factor}, '
        f'model.unet by {2**halvings}.'
      )

  # What the networks are.

  @functools.cached_property
  def process(self) -> process_lib.Process:
    return process_lib.Process(schedules.Straight(), 'velocity')

  @functools.cached_property
  def times(self) -> Any:
    """Which of them a training step sees."""
    name, kwargs = self.train_times
    return time_sampling.TIMES[name](**kwargs)

  @functools.cached_property
  def palette(self) -> anchors_lib.Anchors:
    """The colours of classes."""
    return anchors_lib.Anchors(self.num_classes, **self.anchors)

  @property
  def image_net(self) -> sd_vae.SDVAE:
    """The autoencoder, of images and of painted masks."""
    return sd_vae.SDVAE(dtype=jnp.dtype(self.dtype), **self.image_autoencoder)

  @property
  def unet_net(self) -> sd_unet.SDUNet:
    channels = self.image_net.latent_channels
    context = {} if self.prompt_tokens else {'context_dim': None}
    return sd_unet.SDUNet(
      in_channels=self.unet_inputs * channels,
      out_channels=channels,
      dtype=jnp.dtype(self.dtype),
      remat=self.remat,
      **{**self.unet, **context},
    )

  unet_inputs = 1  # latents side by side

  @property
  def latent_shape(self) -> tuple[int, int, int]:
    """(h, w, c) of x_0 and x_1."""
    net = self.image_net
    sides = [side // net.factor for side in self.image_size]
    return (*sides, net.latent_channels)

  def init(self, rng, batch):
    """Parameters; the batch is not looked at."""
    del batch
    k_unet, k_image, k_prompt = jax.random.split(rng, 3)
    image = jnp.zeros((1, *self.image_size, 3))
    unet = self.unet_net
    h, w, _ = self.latent_shape
    x = jnp.zeros((1, h, w, unet.in_channels))
    frozen = {'image': self.image_net.init(k_image, image)['params']}
    if self.prompt_tokens:
      shape = (self.prompt_tokens, unet.context_dim)
      frozen['prompt'] = {'tokens': jax.random.normal(k_prompt, shape)}
    context = self._context({'frozen': frozen}, 1)
    net = {'unet': unet.init(k_unet, x, jnp.zeros((1,)), context)['params']}
    return {'net': net, 'stats': {}, 'frozen': frozen}

  def _context(self, params, num):
    """The prompt for each example, or None."""
    if not self.prompt_tokens:
      return None
    tokens = params['frozen']['prompt']['tokens']
    return jnp.broadcast_to(tokens, (num, *tokens.shape))

  # The blanks that the paper fills in.

  def encode(self, params, batch, rng, *, train=False):
    """Image -> {'latent': its own, scaled}; {} where a mask is given."""
    if is_given(batch):
      return Encoded({})
    draws = train and self.posterior == 'sample'
    latent = batch.get(
      'image_latent'
    )  # cached; see pix2seqd_jax.cli.cache_latents
    if latent is not None and draws:
      raise ValueError(
        "model.posterior='sample' draws latents of images, but data.latents "
        "has their modes; set model.posterior='mode', or data.latents=''."
      )
    if latent is None:
      found = self.posterior_of(params, signed_images(batch))
      latent = found.sample(rng) if draws else found.mean
    latent = latent.astype(jnp.float32) * self.latent_scale
    return Encoded({'latent': latent}, stats={} if train else None)

  def source(self, params, batch, encoded, keys, *, train=False):
    return encoded.condition['latent']

  def target(self, params, batch, rng):
    """The latent of the mask, moved at random; all of it counts, void too.

    Classes beyond the palette are refused where masks are read; those of a
    batch that is made by hand are clamped, as indices in JAX are.
    """
    colors = batch.get('colors')
    if colors is None:
      self._check_mask(batch['semantic'])
      colors = self.palette.paint(batch['semantic'])
    width = self.perturbation / anchors_lib.HALF
    moves = jax.random.uniform(rng, colors.shape, minval=-width, maxval=width)
    return self.latents(params, anchors_lib.signed(colors) + moves), None

  def start(self, params, batch, keys):
    """The latent of the given mask, each sample's moved by its own noise."""
    if not is_given(batch):
      return None
    given = batch['given']
    num = len(given['semantic'])
    self._check_mask(given['semantic'])
    width = given.get('perturbation', jnp.full(num, float(self.perturbation)))
    width = jnp.asarray(width, jnp.float32) / anchors_lib.HALF
    colors = given.get('colors')  # painted on the host
    if colors is None:
      colors = self.palette.paint(given['semantic'])
    painted = anchors_lib.signed(colors)

    def moved(key, image, width):
      u = jax.random.uniform(key, image.shape, minval=-1.0, maxval=1.0)
      return image + width * u

    each = keys.shape[0] // num
    repeated = (jnp.repeat(x, each, axis=0) for x in (painted, width))
    return self.latents(params, jax.vmap(moved)(keys, *repeated))

  def denoise(
    self, params, x_t, t, condition, *, previous=None, train=False, rng=None
  ):
    """Their clock is 1,000 (1 - t) and their velocity x_0 - x_1."""
    out = self._unet(params, x_t, _CLOCK * (1 - t), train, rng)
    return Prediction(-out)

  def _unet(self, params, x, time, train, rng):
    out = self.unet_net.apply(
      {'params': params['net']['unet']},
      x,
      time,
      self._context(params, len(x)),
      train,
      rngs=None if rng is None else {'dropout': rng},
    )
    return out.astype(jnp.promote_types(out.dtype, jnp.float32))

  # The autoencoder.

  def posterior_of(self, params, images) -> sd_vae.Posterior:
    """Images in [-1, 1] -> their latents, unscaled."""
    variables = {'params': params['frozen']['image']}
    return self.image_net.apply(variables, images, method='encode')

  def latents(self, params, images):
    """Images in [-1, 1] -> the modes of their latents, scaled."""
    mean = self.posterior_of(params, images).mean
    return mean.astype(jnp.float32) * self.latent_scale

  def _check_mask(self, semantic):
    if tuple(semantic.shape[1:3]) != tuple(self.image_size):
      raise ValueError(
        f'masks are {tuple(semantic.shape[1:3])} but images data.image_size='
        f'{tuple(self.image_size)}; resize masks by the nearest pixel.'
      )

  # Latents -> classes, or an image where a mask was given.

  def decode(self, params, x_0, batch):
    """{'semantic' [b, h, w], 'score'}, {'colors' [b, h, w, 3] in [-1, 1]}, or
    {'image' [b, h, w, 3] in [0, 1]}."""
    variables = {'params': params['frozen']['image']}
    z = x_0 / self.latent_scale
    made = self.image_net.apply(variables, z, method='decode')
    if is_given(batch):
      return {'image': jnp.clip((made + 1) / 2, 0, 1)}
    if self.resize == 'colors':
      return {'colors': made}
    semantic, score = self.palette.nearest(made)
    return {'semantic': semantic, 'score': score}

  def postprocess(self, raw, meta):
    """Classes at the original size; images as the network made them.

    Images are without padding, and cut to whole levels as in the release.
    """
    h, w = meta['unpadded']
    image = None
    if 'image' in raw:
      image = 255 * np.asarray(raw['image'], np.float32)[:h, :w]
      image = image.astype(np.uint8)
    if 'colors' in raw:
      colors = np.asarray(raw['colors'], np.float32)[:h, :w]
      colors = mask_logits.resize_bilinear(colors, tuple(meta['size']))
      semantic, score = self.palette.nearest(colors)
    elif 'semantic' in raw:
      semantic, score = (
        panoptic_ids.resize_nearest(np.asarray(raw[k])[:h, :w], meta['size'])
        for k in ('semantic', 'score')
      )
    else:
      semantic, score = np.zeros((h, w), np.int32), None
    return Segmentation(semantic, semantic, score=score, image=image)


def is_given(batch: Mapping[str, Any]) -> bool:
  """Whether a mask is handed over, to draw an image of."""
  return 'semantic' in batch.get('given', {})
