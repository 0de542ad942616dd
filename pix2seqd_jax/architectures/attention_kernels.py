"""The ways to compute attention that `attention.attend` chooses from.

All take heads before tokens, q [b, heads, n, d] and k, v [b, heads, m, d], and
mean the same; see `attend` for `is_causal` and `mask`.
"""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from pix2seqd_jax.architectures import layers

# Larger chunks gain nothing: at 4,096 tokens these scores are 8 MB a head.
_CHUNK = 512
_LANES = 128  # of a TPU's registers: splash's blocks are multiples


def xla(
  q: Float[Array, 'b heads n d'],
  k: Float[Array, 'b heads m d'],
  v: Float[Array, 'b heads m d'],
  is_causal: bool = False,
  mask: Bool[Array, '#b #heads #n m'] | None = None,
  first: int | Int[Array, ''] = 0,
) -> Float[Array, 'b heads n d']:
  """All scores at once; `first` is the index of the first query."""
  q = q * q.shape[-1] ** -0.5
  scores = jnp.einsum(
    'bhqd,bhkd->bhqk', q, k, preferred_element_type=layers.wide(q.dtype)
  )
  if is_causal:
    queries = first + jnp.arange(q.shape[2])
    sees = queries[:, None] >= jnp.arange(k.shape[2])
    mask = sees if mask is None else mask & sees
  if mask is not None:
    # Not -inf, of which a query that sees nothing would make NaN.
    scores = jnp.where(mask, scores, jnp.finfo(scores.dtype).min)
  weights = jax.nn.softmax(scores, axis=-1).astype(v.dtype)
  return jnp.einsum('bhqk,bhkd->bhqd', weights, v)


def chunked(
  q: Float[Array, 'b heads n d'],
  k: Float[Array, 'b heads m d'],
  v: Float[Array, 'b heads m d'],
  is_causal: bool = False,
  mask: Bool[Array, '#b #heads #n m'] | None = None,
) -> Float[Array, 'b heads n d']:
  """Scores of at most 512 queries at once, and again in the backward pass.

  On CPU of one head at a time, too: products of two matrices are fast there,
  those of two stacks are not.
  """
  run = functools.partial(_by_queries, is_causal)
  if jax.default_backend() == 'cpu':
    run = _one_by_one(_one_by_one(run, axis=1), axis=0)
  return run(q, k, v, mask)


def _one_by_one(function, axis):
  """The function of q, k, v, mask looped over an axis, which it keeps."""

  def run(q, k, v, mask):
    if q.shape[axis] == 1:
      return function(q, k, v, mask)

    def split(x):
      return jnp.expand_dims(jnp.moveaxis(x, axis, 0), axis + 1)

    each = tuple(map(split, (q, k, v)))
    if mask is None or mask.shape[axis] == 1:
      out = jax.lax.map(lambda x: function(*x, mask), each)
    else:
      out = jax.lax.map(lambda x: function(*x), (*each, split(mask)))
    return jnp.moveaxis(out.squeeze(axis + 1), 0, axis)

  return run


def _by_queries(is_causal, q, k, v, mask):
  b, heads, n, d = q.shape
  num_chunks = -(-n // min(_CHUNK, max(1, n // 2)))
  size = -(-n // num_chunks)  # even chunks: 4,097 queries are 9 of 456
  padding = num_chunks * size - n

  def split(x):
    """Chunks of queries, the third axis, as a new first axis."""
    x = jnp.pad(x, [(0, padding if i == 2 else 0) for i in range(x.ndim)])
    x = x.reshape(*x.shape[:2], num_chunks, size, x.shape[3])
    return jnp.moveaxis(x, 2, 0)

  chunks = {'q': split(q), 'first': size * jnp.arange(num_chunks)}
  if mask is not None and mask.shape[2] > 1:
    chunks['mask'] = split(mask)
    mask = None

  def one(chunk):
    return xla(k=k, v=v, is_causal=is_causal, **{'mask': mask, **chunk})

  # lax.map is a scan, which needs no guard against common subexpressions.
  out = jax.lax.map(jax.checkpoint(one, prevent_cse=False), chunks)
  out = jnp.moveaxis(out, 0, 2)  # [b, heads, chunks, size, d]
  return out.reshape(b, heads, num_chunks * size, d)[:, :, :n]


def splash(
  q: Float[Array, 'b heads n d'],
  k: Float[Array, 'b heads m d'],
  v: Float[Array, 'b heads m d'],
  is_causal: bool = False,
  mask: Bool[Array, '#b 1 1 m'] | None = None,
  interpret: bool = False,
) -> Float[Array, 'b heads n d']:
  """jax's splash attention, for TPU; `interpret` runs it anywhere, slowly.

  Tokens and features are filled up to multiples of 128 (with those that
  nothing sees, and zeros). The scores are never in memory.
  """
  from jax.experimental.pallas.ops.tpu import splash_attention as splash_lib

  b, heads, n, d = q.shape
  m = k.shape[2]
  q = q * d**-0.5
  q, k, v = (_fill(_fill(x, 2), 3) for x in (q, k, v))
  sizes = q.shape[2], k.shape[2]
  kind = splash_lib.CausalMask if is_causal else splash_lib.FullMask
  block_q, block_k = map(_block, sizes)
  kernel = splash_lib.make_splash_mha(
    splash_lib.MultiHeadMask([kind(sizes)] * heads),
    block_sizes=splash_lib.BlockSizes(
      block_q=block_q,
      block_kv=block_k,
      block_kv_compute=block_k,
      block_q_dkv=block_q,
      block_kv_dkv=block_k,
      block_kv_dkv_compute=block_k,
      block_q_dq=block_q,
      block_kv_dq=block_k,
    ),
    head_shards=1,
    q_seq_shards=1,
    interpret=interpret,
  )
  # Queries see keys of their own segment: 0, but 1 for what is masked.
  keys = jnp.zeros((b, m), jnp.int32)
  if mask is not None:
    keys += ~mask[:, 0, 0]
  keys = jnp.pad(keys, ((0, 0), (0, sizes[1] - m)), constant_values=1)
  queries = jnp.zeros((b, sizes[0]), jnp.int32)
  segments = splash_lib.SegmentIds(q=queries, kv=keys)
  return jax.vmap(kernel)(q, k, v, segments)[:, :, :n, :d]


def _fill(x, axis):
  """Zeros behind, up to a multiple of 128."""
  pads = [(0, 0)] * x.ndim
  pads[axis] = (0, -x.shape[axis] % _LANES)
  return jnp.pad(x, pads)


def _block(size):
  return next(b for b in (512, 256, _LANES) if size % b == 0)


def cudnn(
  q: Float[Array, 'b heads n d'],
  k: Float[Array, 'b heads m d'],
  v: Float[Array, 'b heads m d'],
  is_causal: bool = False,
  mask: None = None,
) -> Float[Array, 'b heads n d']:
  """cuDNN's flash attention, for GPUs of NVIDIA in half precision."""
  del mask
  q, k, v = (jnp.swapaxes(x, 1, 2) for x in (q, k, v))
  out = jax.nn.dot_product_attention(
    q, k, v, is_causal=is_causal, implementation='cudnn'
  )
  return jnp.swapaxes(out, 1, 2)
