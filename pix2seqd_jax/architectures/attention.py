"""Multi-head attention, in one piece or in chunks of queries."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from pix2seqd_jax.architectures import layers

IMPLEMENTATIONS = ('auto', 'xla', 'chunked')
# From this many queries on the scores outgrow a CPU's caches: at 4,096 tokens
# chunks run at two to three times the speed of one piece.
_LONG = 1024
_CHUNK = 512
# Elsewhere chunks are for memory: this many scores are a GiB in float32.
_MANY = 2**28


def attend(
  q: Float[Array, 'b n heads d'],
  k: Float[Array, 'b m heads d'],
  v: Float[Array, 'b m heads d'],
  implementation: str = 'auto',
) -> Float[Array, 'b n heads d']:
  """softmax(q k^T / sqrt(d)) v for each head; the softmax in float32 at least.

  Args:
    q: queries.
    k: keys.
    v: values.
    implementation: 'xla' forms all scores at once; 'chunked' those of at most
      512 queries at a time, and again in the backward pass, so memory grows
      with m and not with n m; 'auto' is 'chunked' for 1,024 queries or more
      on CPU and for more than 2^28 scores anywhere, else 'xla'. The results
      are equal up to rounding.

  Returns:
    For each query the weighted mean of the values.
  """
  check(implementation)
  if implementation == 'auto':
    on_cpu = jax.default_backend() == 'cpu'
    scores = q.shape[0] * q.shape[2] * q.shape[1] * k.shape[1]
    is_long = (on_cpu and q.shape[1] >= _LONG) or scores > _MANY
    implementation = 'chunked' if is_long else 'xla'
  if implementation == 'xla' or q.shape[1] <= 1:
    return _attend(q, k, v)
  return _attend_chunked(q, k, v)


def check(implementation: str) -> None:
  """Raises ValueError for an unknown implementation."""
  if implementation not in IMPLEMENTATIONS:
    raise ValueError(
      f'attention={implementation!r} is unknown; choose one of '
      f'{", ".join(IMPLEMENTATIONS)}.'
    )


def _attend(q, k, v):
  q = q * q.shape[-1] ** -0.5
  scores = jnp.einsum(
    'bqhd,bkhd->bhqk', q, k, preferred_element_type=layers.wide(q.dtype)
  )
  weights = jax.nn.softmax(scores, axis=-1).astype(v.dtype)
  return jnp.einsum('bhqk,bkhd->bqhd', weights, v)


def _attend_chunked(q, k, v):
  b, n, heads, d = q.shape
  num_chunks = -(-n // min(_CHUNK, max(1, n // 2)))
  size = -(-n // num_chunks)  # even chunks: 4,097 queries are 9 of 456
  padding = num_chunks * size - n
  q = jnp.pad(q, ((0, 0), (0, padding), (0, 0), (0, 0)))
  q = jnp.moveaxis(q.reshape(b, num_chunks, size, heads, d), 1, 0)
  # lax.map is a scan, which needs no guard against common subexpressions.
  one = jax.checkpoint(lambda chunk: _attend(chunk, k, v), prevent_cse=False)
  out = jnp.moveaxis(jax.lax.map(one, q), 0, 1)  # [b, chunks, size, heads, d]
  return out.reshape(b, num_chunks * size, heads, d)[:, :n]


class MultiHeadAttention(nn.Module):
  """Attention of x to itself or to a memory.

  Kernels are stored as (in, heads, head_dim) and (heads, head_dim, out), and
  drawn by Glorot's rule on these three axes, as Keras does: for 512 features
  in 16 heads the limit of queries is 1/64, a fifth of what the flattened
  matrix would have.
  """

  num_heads: int
  head_dim: int
  attention: str = 'auto'
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(
    self,
    x: Float[Array, 'b n d'],
    memory: Float[Array, 'b m e'] | None = None,
  ) -> Float[Array, 'b n d']:
    heads = (self.num_heads, self.head_dim)
    memory = x if memory is None else memory
    q, k, v = (
      _Projection(heads, 1, dtype=self.dtype, name=name)(source)
      for name, source in (('query', x), ('key', memory), ('value', memory))
    )
    x_out = attend(q, k, v, self.attention)
    return _Projection((x.shape[-1],), 2, dtype=self.dtype, name='out')(x_out)


class _Projection(nn.Module):
  """A dense layer over the last `num_in` axes, its kernel never flattened."""

  features: tuple[int, ...]
  num_in: int
  dtype: Any

  @nn.compact
  def __call__(self, x):
    shape = (*x.shape[x.ndim - self.num_in :], *self.features)
    kernel = self.param('kernel', layers.GLOROT, shape, jnp.float32)
    bias = self.param('bias', nn.initializers.zeros, self.features, jnp.float32)
    x, kernel, bias = (
      jnp.asarray(value, self.dtype) for value in (x, kernel, bias)
    )
    return jnp.tensordot(x, kernel, self.num_in) + bias
