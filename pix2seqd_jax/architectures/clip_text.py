"""CLIP's text tower (arXiv 2103.00020), which Stable Diffusion reads with.

The defaults are ViT-L/14's, of Stable Diffusion 1.x, with 123,060,480
parameters. Stable Diffusion 2.x has OpenCLIP's ViT-H/14: width 1024, 16 heads,
mlp_dim 4096, 23 layers (the last of 24 is left out), activation 'gelu'.
"""

from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from pix2seqd_jax.architectures import attention, clip_layers


class TextStates(NamedTuple):
  """What the tower says of a text.

  Attributes:
    hidden: of each token, after the last norm; what diffusion attends to.
    pooled: of the token that ends the text; what CLIP compares.
  """

  hidden: Float[Array, 'b n d']
  pooled: Float[Array, 'b d']


class _Embeddings(nn.Module):
  """A vector for each token plus one for its position."""

  vocab_size: int
  num_positions: int
  width: int
  dtype: Any

  @nn.compact
  def __call__(self, ids):
    def table(size, name):
      return nn.Embed(size, self.width, dtype=self.dtype, name=name)

    positions = table(self.num_positions, 'position_embedding')
    tokens = table(self.vocab_size, 'token_embedding')(ids)
    return tokens + positions(jnp.arange(ids.shape[1]))


class CLIPText(nn.Module):
  """Token ids -> states; a token sees those before it.

  Attributes:
    vocab_size: ids are below it.
    width: of a token's state.
    num_layers, num_heads, mlp_dim: of the transformer.
    num_positions: the longest text, in tokens.
    activation: 'quick_gelu' or 'gelu', the exact one.
    eos_id: the token that ends a text: its first place is pooled. None: the
      place of the largest id, as in OpenAI's code and wherever a config.json
      says eos_token_id 2.
    attention: see attention.attend.
    remat: the backward pass computes each layer's inside again.
    scan: see clip_layers.Encoder.
    dtype: of the computation; parameters are float32.
  """

  vocab_size: int = 49408
  width: int = 768
  num_layers: int = 12
  num_heads: int = 12
  mlp_dim: int = 3072
  num_positions: int = 77
  activation: str = 'quick_gelu'
  eos_id: int | None = None
  attention: str = 'auto'
  remat: bool = False
  scan: bool = True
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(
    self,
    ids: Int[Array, 'b n'],
    mask: Bool[Array, 'b n'] | None = None,
    *,
    skip: int = 0,
  ) -> TextStates:
    """Reads texts.

    Args:
      ids: tokens. One that is not in the vocabulary gives NaN.
      mask: True for tokens that are no padding. Stable Diffusion, PDM and
        SemFlow give none: padding is read like words.
      skip: how many of the last layers are left out ('clip skip').

    Raises:
      ValueError: sizes that do not go together, or a text that is too long.
    """
    self._check(ids, skip)
    x = _Embeddings(
      self.vocab_size,
      self.num_positions,
      self.width,
      self.dtype,
      name='embeddings',
    )(ids)
    x, of_layers = clip_layers.Encoder(
      self.num_layers,
      self.num_heads,
      self.mlp_dim,
      self.activation,
      is_causal=True,
      attention=self.attention,
      remat=self.remat,
      scan=self.scan,
      dtype=self.dtype,
      name='encoder',
    )(x, mask)
    x = of_layers[-1 - skip] if skip else x
    x = clip_layers.layer_norm(dtype=self.dtype, name='final_layer_norm')(x)
    ends = ids if self.eos_id is None else ids == self.eos_id
    last = jnp.argmax(ends, axis=1)  # the first of equals
    pooled = jnp.take_along_axis(x, last[:, None, None], axis=1)[:, 0]
    return TextStates(x, pooled)

  def _check(self, ids, skip):
    clip_layers.check(self.width, self.num_heads, self.activation)
    attention.check(self.attention)
    if ids.shape[1] > self.num_positions:
      raise ValueError(
        f'a text of {ids.shape[1]} tokens is longer than num_positions='
        f'{self.num_positions}; cut it (the tokenizer does).'
      )
    if not 0 <= skip < self.num_layers:
      raise ValueError(
        f'skip={skip} must leave at least one of num_layers='
        f'{self.num_layers}: 0 <= skip < {self.num_layers}.'
      )
