"""CLIP's image tower and both towers' projections (arXiv 2103.00020).

The defaults are ViT-B/32, which the CLIP score is defined with: 151,277,313
parameters. ViT-L/14, 427,616,513, is

  CLIP(text={}, image={'width': 1024, 'num_layers': 24, 'num_heads': 16,
       'mlp_dim': 4096, 'patch_size': 14}, embedding_dim=768)
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from flax.core import FrozenDict
from jaxtyping import Array, Bool, Float, Int, UInt8
from PIL import Image

from pix2seqd_jax.architectures import attention, clip_layers, layers
from pix2seqd_jax.architectures.clip_text import CLIPText

# Of the images that CLIP was trained on, in [0, 1].
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)


def prepare(
  image: UInt8[np.ndarray, 'h w 3'], size: int = 224
) -> Float[np.ndarray, 's s 3']:
  """An image as CLIP takes it, as transformers' CLIPImageProcessorPil does.

  The shorter side becomes `size` (bicubic, Pillow's, with levels rounded: it
  cannot be a part of a compiled program), the centre is cut out, and channels
  are made (x - MEAN) / STD. Runs on the host.

  Args:
    image: RGB, 0..255.
    size: the image tower's image_size.

  Returns:
    float32.
  """
  h, w = image.shape[:2]
  short = min(h, w)
  # The longer side is cut to whole pixels, in this order of operations.
  new_h, new_w = (
    size if side == short else int(size * side / short) for side in (h, w)
  )
  resized = Image.fromarray(image).resize(
    (new_w, new_h), Image.Resampling.BICUBIC
  )
  top, left = (new_h - size) // 2, (new_w - size) // 2
  pixels = np.asarray(resized)[top : top + size, left : left + size]
  scaled = pixels.astype(np.float32) / np.float32(255)
  return (scaled - np.float32(MEAN)) / np.float32(STD)


class ImageStates(NamedTuple):
  """What the tower says of an image.

  Attributes:
    hidden: of the class token and then of each patch, row by row; no norm.
    pooled: of the class token, after the last norm; what CLIP compares.
  """

  hidden: Float[Array, 'b n d']
  pooled: Float[Array, 'b d']


class _Embeddings(nn.Module):
  """A class token and a vector for each patch, plus one for its position."""

  width: int
  patch_size: int
  dtype: Any

  @nn.compact
  def __call__(self, image):
    patch = (self.patch_size, self.patch_size)
    x = nn.Conv(
      self.width,
      patch,
      strides=patch,
      padding='VALID',
      use_bias=False,
      dtype=self.dtype,
      name='patch_embedding',
    )(image)
    x = x.reshape(x.shape[0], -1, self.width)
    init = nn.initializers.normal(self.width**-0.5)
    first = self.param('class_embedding', init, (self.width,), jnp.float32)
    first = jnp.broadcast_to(first.astype(x.dtype), (x.shape[0], 1, self.width))
    x = jnp.concatenate([first, x], axis=1)  # [b, 1 + patches, d]
    positions = nn.Embed(
      x.shape[1], self.width, dtype=self.dtype, name='position_embedding'
    )
    return x + positions(jnp.arange(x.shape[1]))


class CLIPImage(nn.Module):
  """A prepared image -> states.

  Attributes:
    image_size: of the images, which are square.
    patch_size: of a token's square; a last incomplete one is left out.
    width, num_layers, num_heads, mlp_dim, activation: of the transformer.
    attention, remat, scan, dtype: see CLIPText.
  """

  image_size: int = 224
  patch_size: int = 32
  width: int = 768
  num_layers: int = 12
  num_heads: int = 12
  mlp_dim: int = 3072
  activation: str = 'quick_gelu'
  attention: str = 'auto'
  remat: bool = False
  scan: bool = True
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, image: Float[Array, 'b h w c']) -> ImageStates:
    """Sees images, made by `prepare`.

    Raises:
      ValueError: sizes that do not go together, or images of another size.
    """
    clip_layers.check(self.width, self.num_heads, self.activation)
    attention.check(self.attention)
    if image.shape[1:3] != (self.image_size, self.image_size):
      raise ValueError(
        f'images of {image.shape[1:3]} must be of image_size='
        f'{self.image_size} on both sides; clip_image.prepare makes them so.'
      )
    x = _Embeddings(self.width, self.patch_size, self.dtype, name='embeddings')(
      image
    )
    x = clip_layers.layer_norm(dtype=self.dtype, name='pre_layrnorm')(x)
    x, _ = clip_layers.Encoder(
      self.num_layers,
      self.num_heads,
      self.mlp_dim,
      self.activation,
      attention=self.attention,
      remat=self.remat,
      scan=self.scan,
      dtype=self.dtype,
      name='encoder',
    )(x)
    norm = clip_layers.layer_norm(dtype=self.dtype, name='post_layernorm')
    return ImageStates(x, norm(x[:, 0]))


class Embeddings(NamedTuple):
  """Images and texts as unit vectors of one space.

  The CLIP score (arXiv 2104.08718, without its factor) of a pair is 100 times
  the sum of image * text.

  Attributes:
    image: of length 1, in float32 at least.
    text: likewise.
    scale: with which CLIP multiplies the cosines before its softmax; it was
      learned, and ended at its bound of 100.
  """

  image: Float[Array, 'b e']
  text: Float[Array, 't e']
  scale: Float[Array, '']


class CLIP(nn.Module):
  """Both towers, each with a linear map to a common space.

  Attributes:
    text: arguments of CLIPText.
    image: arguments of CLIPImage.
    embedding_dim: of the common space.
    attention, remat, scan, dtype: of both towers, see CLIPText.
  """

  text: Mapping[str, Any] = FrozenDict(width=512, num_heads=8, mlp_dim=2048)
  image: Mapping[str, Any] = FrozenDict()
  embedding_dim: int = 512
  attention: str = 'auto'
  remat: bool = False
  scan: bool = True
  dtype: Any = jnp.float32

  def setup(self):
    both = {
      'attention': self.attention,
      'remat': self.remat,
      'scan': self.scan,
      'dtype': self.dtype,
    }
    self.text_model = CLIPText(**self.text, **both)
    self.vision_model = CLIPImage(**self.image, **both)
    self.text_projection, self.visual_projection = (
      nn.Dense(self.embedding_dim, use_bias=False, dtype=self.dtype)
      for _ in range(2)
    )
    # What the original begins with: 1 / 0.07.
    begin = nn.initializers.constant(np.log(1 / 0.07))
    self.logit_scale = self.param('logit_scale', begin, (), jnp.float32)

  def embed_text(
    self, ids: Int[Array, 'b n'], mask: Bool[Array, 'b n'] | None = None
  ) -> Float[Array, 'b e']:
    """Texts as unit vectors; see CLIPText."""
    return self._unit(self.text_projection(self.text_model(ids, mask).pooled))

  def embed_image(self, image: Float[Array, 'b h w c']) -> Float[Array, 'b e']:
    """Images as unit vectors; see CLIPImage."""
    return self._unit(self.visual_projection(self.vision_model(image).pooled))

  def _unit(self, x):
    x = x.astype(layers.wide(self.dtype))
    return x / jnp.sqrt(jnp.sum(x * x, axis=-1, keepdims=True))

  def __call__(
    self,
    image: Float[Array, 'b h w c'],
    ids: Int[Array, 't n'],
    mask: Bool[Array, 't n'] | None = None,
  ) -> Embeddings:
    """Embeds images and texts, of which there may be other numbers."""
    return Embeddings(
      self.embed_image(image),
      self.embed_text(ids, mask),
      jnp.exp(self.logit_scale.astype(layers.wide(self.dtype))),
    )
