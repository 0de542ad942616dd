"""Multi-head attention, in one piece or in chunks of queries."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

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
  is_causal: bool = False,
  mask: Bool[Array, 'b m'] | Bool[Array, '#b #heads #n m'] | None = None,
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
    is_causal: query i sees the keys 0..i only.
    mask: True where a query sees a key; [b, m] for padded keys. A query that
      sees no key gets finite values that mean nothing.

  Returns:
    For each query the weighted mean of the values.
  """
  check(implementation)
  if implementation == 'auto':
    on_cpu = jax.default_backend() == 'cpu'
    scores = q.shape[0] * q.shape[2] * q.shape[1] * k.shape[1]
    is_long = (on_cpu and q.shape[1] >= _LONG) or scores > _MANY
    implementation = 'chunked' if is_long else 'xla'
  if mask is not None and mask.ndim == 2:
    mask = mask[:, None, None, :]
  if implementation == 'xla' or q.shape[1] <= 1:
    return _attend(q, k, v, is_causal=is_causal, mask=mask)
  return _attend_chunked(q, k, v, is_causal, mask)


def check(implementation: str) -> None:
  """Raises ValueError for an unknown implementation."""
  if implementation not in IMPLEMENTATIONS:
    raise ValueError(
      f'attention={implementation!r} is unknown; choose one of '
      f'{", ".join(IMPLEMENTATIONS)}.'
    )


def _attend(q, k, v, is_causal=False, mask=None, first=0):
  """`first` is the index of the first query, for the causal rule."""
  q = q * q.shape[-1] ** -0.5
  scores = jnp.einsum(
    'bqhd,bkhd->bhqk', q, k, preferred_element_type=layers.wide(q.dtype)
  )
  if is_causal:
    queries = first + jnp.arange(q.shape[1])
    sees = queries[:, None] >= jnp.arange(k.shape[1])
    mask = sees if mask is None else mask & sees
  if mask is not None:
    # Not -inf, of which a query that sees nothing would make NaN.
    scores = jnp.where(mask, scores, jnp.finfo(scores.dtype).min)
  weights = jax.nn.softmax(scores, axis=-1).astype(v.dtype)
  return jnp.einsum('bhqk,bkhd->bqhd', weights, v)


def _attend_chunked(q, k, v, is_causal, mask):
  b, n, heads, d = q.shape
  num_chunks = -(-n // min(_CHUNK, max(1, n // 2)))
  size = -(-n // num_chunks)  # even chunks: 4,097 queries are 9 of 456
  padding = num_chunks * size - n

  def split(x, axis):
    """Chunks of the axis of queries, as a new first axis."""
    pads = [(0, padding if i == axis else 0) for i in range(x.ndim)]
    shape = (*x.shape[:axis], num_chunks, size, *x.shape[axis + 1 :])
    return jnp.moveaxis(jnp.pad(x, pads).reshape(shape), axis, 0)

  chunks = {'q': split(q, 1), 'first': size * jnp.arange(num_chunks)}
  if mask is not None and mask.shape[2] > 1:
    chunks['mask'] = split(mask, 2)
    mask = None

  def one(chunk):
    return _attend(k=k, v=v, is_causal=is_causal, **{'mask': mask, **chunk})

  # lax.map is a scan, which needs no guard against common subexpressions.
  out = jax.lax.map(jax.checkpoint(one, prevent_cse=False), chunks)
  out = jnp.moveaxis(out, 0, 1)  # [b, chunks, size, heads, d]
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
