"""Multi-head attention, computed in the way that suits the device."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from pix2seqd_jax.architectures import attention_kernels, layers

IMPLEMENTATIONS = ('auto', 'xla', 'chunked', 'splash', 'cudnn')
# From this many queries on the scores outgrow a CPU's caches: at 4,096 tokens
# chunks run at two to three times the speed of one piece.
_LONG = 1024
# On a TPU from 1,024 queries and as many keys on.
_SPLASH_SCORES = 2**20
# Elsewhere chunks are for memory: this many scores are a GiB in float32.
_MANY = 2**28
_CUDNN_HEAD_DIM = 128


class Device(NamedTuple):
  """What a choice of implementation depends on.

  Attributes:
    kind: 'cpu', 'gpu', 'tpu' or another of jax's backends.
    count: how many there are.
    capability: of CUDA, 8.0 for an A100; 0 for others.
  """

  kind: str
  count: int = 1
  capability: float = 0.0

  @classmethod
  def here(cls) -> 'Device':
    """jax's default."""
    kind = jax.default_backend()
    capability = 0.0
    if kind == 'gpu':
      text = getattr(jax.devices()[0], 'compute_capability', '')
      # A GPU of AMD says gfx90a or the like.
      is_number = text.replace('.', '', 1).isdigit()
      capability = float(text) if is_number else 0.0
    return cls(kind, jax.device_count(), capability)


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
    implementation: see `choose`. The results are equal up to rounding.
    is_causal: query i sees the keys 0..i only.
    mask: True where a query sees a key; [b, m] for padded keys. A query that
      sees no key gets finite values that mean nothing.

  Returns:
    For each query the weighted mean of the values.

  Raises:
    ValueError: the implementation is unknown, or cannot run here.
  """
  if mask is not None and mask.ndim == 2:
    mask = mask[:, None, None, :]
  name = choose(
    implementation,
    Device.here(),
    q.dtype,
    q.shape,
    k.shape[1],
    None if mask is None else mask.shape,
  )
  q, k, v = (jnp.swapaxes(x, 1, 2) for x in (q, k, v))
  run = getattr(attention_kernels, name)
  return jnp.swapaxes(run(q, k, v, is_causal=is_causal, mask=mask), 1, 2)


def choose(
  implementation: str,
  device: Device,
  dtype: Any,
  shape: Sequence[int],
  num_keys: int,
  mask: Sequence[int] | None = None,
) -> str:
  """The name of the function in `attention_kernels` that will run.

  'xla' forms all scores at once. 'chunked' forms those of 512 queries at a
  time, and again in the backward pass, so memory grows with the keys and not
  with queries x keys. 'splash' (TPU) and 'cudnn' (NVIDIA) never form them, and
  run where `obstacle` finds none.

  'auto' is, of those that can run: on NVIDIA cudnn; on a single TPU splash,
  from 2^20 scores a head on (of several, XLA would have each compute the
  whole batch: wrap the model in shard_map and ask for it); else chunked from
  1,024 queries on CPU, or for more than 2^28 scores anywhere; else xla.

  Args:
    implementation: one of IMPLEMENTATIONS.
    device: where it shall run.
    dtype: of queries, keys and values.
    shape: of the queries, [b, n, heads, d].
    num_keys: m.
    mask: shape of the mask, 4-D, if there is one.

  Raises:
    ValueError: the implementation is unknown, or cannot run.
  """
  check(implementation)
  case = device, dtype, shape, mask
  if implementation in ('splash', 'cudnn'):
    reason = obstacle(implementation, *case)
    if reason:
      raise ValueError(
        f'attention={implementation!r} cannot run: {reason}. Choose "auto", or '
        f'"chunked", which runs everywhere.'
      )
  if shape[1] <= 1 and implementation == 'chunked':
    return 'xla'
  if implementation != 'auto':
    return implementation
  b, n, heads, _ = shape
  if obstacle('cudnn', *case) is None:
    return 'cudnn'
  if (
    device.count == 1
    and n * num_keys >= _SPLASH_SCORES
    and obstacle('splash', *case) is None
  ):
    return 'splash'
  is_long = device.kind == 'cpu' and n >= _LONG
  return 'chunked' if is_long or b * heads * n * num_keys > _MANY else 'xla'


def obstacle(
  implementation: str,
  device: Device,
  dtype: Any,
  shape: Sequence[int],
  mask: Sequence[int] | None = None,
) -> str | None:
  """Why 'splash' or 'cudnn' cannot run, in words; None where it can."""
  name, head_dim = jnp.dtype(dtype).name, shape[3]
  if implementation == 'splash':
    if device.kind != 'tpu':
      return f'it is for TPU, and the backend is {device.kind}'
    if name not in ('float32', 'bfloat16'):
      return f'it takes float32 and bfloat16, not {name}'
    if mask is not None and (mask[1], mask[2]) != (1, 1):
      return f'it takes masks of keys [b, 1, 1, m], not {tuple(mask)}'
    return None
  if device.kind != 'gpu':
    return f'it is for GPUs of NVIDIA, and the backend is {device.kind}'
  if device.capability < 8:
    return 'it needs an NVIDIA GPU of compute capability 8.0 (Ampere) or later'
  if name not in ('float16', 'bfloat16'):
    return f'it takes float16 and bfloat16, not {name} (set dtype)'
  if head_dim % 8 or head_dim > _CUDNN_HEAD_DIM:
    most = _CUDNN_HEAD_DIM
    return f'it takes heads of 8, 16, ... {most} features, not {head_dim}'
  return None if mask is None else 'it takes no mask'


def check(implementation: str) -> None:
  """Raises ValueError for an unknown implementation."""
  if implementation not in IMPLEMENTATIONS:
    raise ValueError(
      f'attention={implementation!r} is unknown; choose one of '
      f'{", ".join(IMPLEMENTATIONS)}.'
    )


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
