"""What LDMSeg's UNet may attend to beside the image's latent.

Cross-attention of Stable Diffusion is kept for it (table 7 of the paper; the
release removes it). Each has

    width: of a token, or None where there is none
    init(key) -> (additions to params['net'], to params['frozen'])
    example() -> tokens [1, n, width] for the UNet's init, or None
    describe(params, batch) -> tokens [b, n, width], or None
"""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from pix2seqd_jax.architectures import clip_image, clip_text

# The empty text, as CLIP's tokenizer pads it: begin, and end to the end.
_BEGIN, _END = 49406, 49407


@dataclasses.dataclass(frozen=True)
class Nothing:
  """No cross-attention at all: the paper's choice."""

  dtype: str

  width = None

  def init(self, key):
    return {}, {}

  def example(self):
    return None

  def describe(self, params, batch):
    return None


@dataclasses.dataclass(frozen=True)
class Text:
  """CLIP's states of batch['tokens'] [b, n], or else of the empty text.

  The readers of this library make no tokens yet: it is the empty text there.
  Weights come by init_from: ('runs/sd15', 'net/text_encoder', 'frozen/clip',
  'exact') after `python -m pix2seqd_jax.pretrained --from sd15`.

  Attributes:
    network: keyword arguments of architectures.clip_text.CLIPText.
  """

  dtype: str
  network: Any = dataclasses.field(default_factory=dict)

  @property
  def net(self):
    return clip_text.CLIPText(dtype=jnp.dtype(self.dtype), **self.network)

  @property
  def width(self) -> int:
    return self.net.width

  def empty(self):
    """Tokens [1, n] of the empty text."""
    n, last = self.net.num_positions, self.net.vocab_size - 1
    ids = jnp.full((1, n), min(_END, last), jnp.int32)
    return ids.at[0, 0].set(min(_BEGIN, last))

  def init(self, key):
    return {}, {'clip': self.net.init(key, self.empty())['params']}

  def example(self):
    return jnp.zeros((1, self.net.num_positions, self.width))

  def describe(self, params, batch):
    tokens = batch.get('tokens')
    if tokens is None:
      tokens = self.empty()
    states = self.net.apply({'params': params['frozen']['clip']}, tokens)
    num = batch['image'].shape[0]
    return jnp.broadcast_to(states.hidden, (num, *states.hidden.shape[1:]))


@dataclasses.dataclass(frozen=True)
class ClipImage:
  """CLIP's states of the image, by a trained linear layer to `features`.

  Attributes:
    network: keyword arguments of architectures.clip_image.CLIPImage.
    features: of a token that the UNet attends to.
  """

  dtype: str
  network: Any = dataclasses.field(default_factory=dict)
  features: int = 768

  @property
  def net(self):
    return clip_image.CLIPImage(dtype=jnp.dtype(self.dtype), **self.network)

  @property
  def width(self) -> int:
    return self.features

  @property
  def _project(self):
    return nn.Dense(self.features, dtype=jnp.dtype(self.dtype))

  def init(self, key):
    k_net, k_project = jax.random.split(key)
    side = self.net.image_size
    clip = self.net.init(k_net, jnp.zeros((1, side, side, 3)))['params']
    states = jnp.zeros((1, 1, self.net.width))
    project = self._project.init(k_project, states)['params']
    return {'descriptor': project}, {'clip': clip}

  def example(self):
    num_patches = (self.net.image_size // self.net.patch_size) ** 2
    return jnp.zeros((1, num_patches + 1, self.features))

  def describe(self, params, batch):
    images = batch['image']
    if images.dtype == jnp.uint8:
      images = images.astype(jnp.float32) / 255
    side = self.net.image_size
    shape = (images.shape[0], side, side, 3)
    images = jax.image.resize(images, shape, 'bicubic', antialias=True)
    images = (images - jnp.array(clip_image.MEAN)) / jnp.array(clip_image.STD)
    states = self.net.apply({'params': params['frozen']['clip']}, images)
    return self._project.apply(
      {'params': params['net']['descriptor']}, states.hidden
    )


DESCRIPTORS = {'none': Nothing, 'text': Text, 'clip_image': ClipImage}
