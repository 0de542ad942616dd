"""The pre-norm transformer layer of the image encoder and of the denoiser."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from pix2seqd_jax.architectures import layers
from pix2seqd_jax.architectures.attention import MultiHeadAttention


class TransformerLayer(nn.Module):
  """x += attend(LN x); [x += attend(LN x, memory)]; x += MLP(LN x).

  With `is_decoder` there is attention to a memory, which is taken as it comes,
  without a norm of its own. The MLP is Dense, exact (erf) GELU, Dropout,
  Dense. Each branch passes through DropPath.
  """

  num_heads: int
  head_dim: int
  mlp_dim: int
  is_decoder: bool = False
  dropout: float | int = 0.0
  drop_path: float | int = 0.0
  attention: str = 'auto'
  dtype: Any = jnp.float32
  deterministic: bool = True

  @nn.compact
  def __call__(
    self,
    x: Float[Array, 'b n d'],
    memory: Float[Array, 'b m e'] | None = None,
  ) -> Float[Array, 'b n d']:
    attend = {
      'num_heads': self.num_heads,
      'head_dim': self.head_dim,
      'attention': self.attention,
      'dtype': self.dtype,
    }
    x += self._drop(
      MultiHeadAttention(**attend, name='self_attention')(
        layers.layer_norm(dtype=self.dtype, name='self_norm')(x)
      )
    )
    if self.is_decoder:
      x += self._drop(
        MultiHeadAttention(**attend, name='cross_attention')(
          layers.layer_norm(dtype=self.dtype, name='cross_norm')(x), memory
        )
      )
    return x + self._drop(self._mlp(x))

  def _mlp(self, x):
    h = layers.layer_norm(dtype=self.dtype, name='mlp_norm')(x)
    h = self._dense(self.mlp_dim, 'mlp_in')(h)
    h = nn.gelu(h, approximate=False)
    h = nn.Dropout(self.dropout, deterministic=self.deterministic)(h)
    return self._dense(x.shape[-1], 'mlp_out')(h)

  def _dense(self, features, name):
    return nn.Dense(
      features, kernel_init=layers.GLOROT, dtype=self.dtype, name=name
    )

  def _drop(self, x):
    return layers.DropPath(self.drop_path, self.deterministic)(x)
