"""The image encoder of Pix2Seq and Pix2Seq-D: a ResNet, then a transformer.

https://arxiv.org/abs/2210.06366, section 3.1; it runs once an image.
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from pix2seqd_jax.architectures import attention, layers, positions
from pix2seqd_jax.architectures.resnet import ResNetC4
from pix2seqd_jax.architectures.transformer import TransformerLayer


class Encoder(nn.Module):
  """Image in [0, 1] -> features at 1/4 and 1/8, and tokens at 1/16.

  The features at 1/16 are projected and normalised, get their places' codes,
  and pass `num_layers` transformer layers and a last norm. The defaults are
  the released config (the paper's text says 6 layers; its parameter count
  says 12). Images are not normalised by mean and deviation, as there.

  `dropout` applies before the projection and inside the MLPs, `drop_path` to
  every residual branch, both with the rng 'dropout'. `remat` recomputes each
  block in the backward pass.
  """

  dim: int = 512
  num_layers: int = 12
  num_heads: int = 16
  mlp_dim: int = 2048
  blocks: tuple[int, ...] = (3, 4, 6)
  width_multiplier: float | int = 1.0
  dropout: float | int = 0.1
  drop_path: float | int = 0.1
  attention: str = 'auto'
  remat: bool = False
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(
    self, image: Float[Array, 'b h w 3'], *, train: bool
  ) -> tuple[
    tuple[Float[Array, 'b h4 w4 c4'], Float[Array, 'b h8 w8 c8']],
    Float[Array, 'b n {self.dim}'],
  ]:
    """Encodes images; tokens run row by row, n = (h / 16) * (w / 16)."""
    self._check(image.shape)
    *hidden, x = ResNetC4(
      blocks=self.blocks,
      width_multiplier=self.width_multiplier,
      remat=self.remat,
      dtype=self.dtype,
      name='resnet',
    )(image.astype(self.dtype), train=train)
    b, h, w, c = x.shape
    x = x.reshape(b, h * w, c)
    x = nn.Dropout(self.dropout, deterministic=not train)(x)
    x = nn.Dense(
      self.dim, kernel_init=layers.GLOROT, dtype=self.dtype, name='projection'
    )(x)
    x = layers.layer_norm(dtype=self.dtype, name='projection_norm')(x)
    x += jnp.asarray(positions.table_2d(h, w, self.dim), x.dtype)
    layer = nn.remat(TransformerLayer) if self.remat else TransformerLayer
    for i in range(self.num_layers):
      x = layer(
        num_heads=self.num_heads,
        head_dim=self.dim // self.num_heads,
        mlp_dim=self.mlp_dim,
        dropout=self.dropout,
        drop_path=self.drop_path,
        attention=self.attention,
        dtype=self.dtype,
        deterministic=not train,
        name=f'layer_{i}',
      )(x)
    tokens = layers.layer_norm(dtype=self.dtype, name='out_norm')(x)
    return tuple(hidden), tokens

  def _check(self, shape):
    attention.check(self.attention)
    if self.dim % 4 or self.dim % self.num_heads:
      raise ValueError(
        f'encoder dim={self.dim} must be a multiple of 4 (sines and cosines '
        f'of y and x) and of num_heads={self.num_heads}.'
      )
    if shape[1] % 16 or shape[2] % 16:
      raise ValueError(
        f'image_size={shape[1:3]}: the ResNet halves an image four times; '
        'choose sides that are multiples of 16.'
      )
