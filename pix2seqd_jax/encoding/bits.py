"""Analog bits: integers as points of a cube, and back.

An id of n bits becomes n channels of -scale or +scale, on which diffusion is
at home (Chen, Zhang, Hinton, "Analog Bits", arXiv 2208.04202; used for masks
in Pix2Seq-D, arXiv 2210.06366, section 3). Every function takes NumPy and JAX
arrays alike and gives the same values, so that the input pipeline may encode
on the host or the model on the device.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Integer

MAX_BITS = 16

Ids = Integer[np.ndarray, '*s'] | Integer[Array, '*s']
Analog = Float[np.ndarray, '*s n'] | Float[Array, '*s n']
Logits = Float[np.ndarray, '*s k'] | Float[Array, '*s k']
Score = Float[np.ndarray, '*s'] | Float[Array, '*s']

KINDS = ('binary', 'gray', 'random')
ORDERS = ('lsb', 'msb')


@dataclasses.dataclass(frozen=True)
class Code:
  """A bijection between the ids 0 .. 2^num_bits - 1 and words of bits.

  Attributes:
    num_bits: 1 to 16.
    kind: 'binary' (the paper's), 'gray' (neighbouring ids differ in one bit)
      or 'random' (a permutation drawn from `seed`).
    order: 'lsb' puts the bit worth 1 into channel 0 (the reference), 'msb'
      into the last channel.
    seed: of the permutation; unused by the other kinds.
  """

  num_bits: int
  kind: str = 'binary'
  order: str = 'lsb'
  seed: int = 0

  def __post_init__(self):
    if not 1 <= self.num_bits <= MAX_BITS:
      raise ValueError(
        f'num_bits={self.num_bits} must be 1 to {MAX_BITS}; set num_bits to '
        'the number of binary digits of the largest id.'
      )
    if self.kind not in KINDS:
      raise ValueError(f'code={self.kind!r} is unknown; use one of {KINDS}.')
    if self.order not in ORDERS:
      raise ValueError(
        f'bit order={self.order!r} is unknown; use one of {ORDERS}.'
      )

  @property
  def num_codes(self) -> int:
    """2^num_bits: the number of ids, and of logits for each id."""
    return 1 << self.num_bits

  def check(self, max_id: int, name: str) -> None:
    """Raises ValueError where the ids 0 .. max_id do not fit into the bits.

    Args:
      max_id: the largest id that will be encoded.
      name: what sets it, for the message ('data.num_ids=101').
    """
    if not 0 <= max_id < self.num_codes:
      raise ValueError(
        f'num_bits={self.num_bits} can name {self.num_codes} ids but {name} '
        f'needs id {max_id}; set num_bits >= {int(max_id).bit_length()}.'
      )

  def codebook(self) -> np.ndarray:
    """The word of every id, float32 [2^n, n] of 0 and 1."""
    return _codebook(self).copy()

  def encode(self, ids: Ids, scale: float | int) -> Analog:
    """Ids -> analog bits in {-scale, +scale}, float32 [..., n].

    Ids of 2^n or more keep their low n bits, as in the reference; nothing can
    be raised under jit, so call `check` where the sizes are set.
    """
    words = _words(self, ids)
    if isinstance(ids, np.ndarray):
      bits = words[..., None] >> _shifts(self) & 1
      return (2 * bits - 1).astype(np.float32) * np.float32(scale)
    bits = words[..., None] >> jnp.asarray(_shifts(self)) & 1
    return (2 * bits - 1).astype(jnp.float32) * jnp.float32(scale)

  def decode(self, analog: Analog, num_codes: int | None = None) -> Ids:
    """Analog bits -> int32 ids; a bit is set where its channel is > 0.

    Args:
      analog: any real numbers, the last axis holding the n bits.
      num_codes: ids of num_codes or more become num_codes - 1 (the
        reference's clamp); by default all 2^n ids may come out.

    Raises:
      ValueError: the last axis is not num_bits long.
    """
    if analog.shape[-1] != self.num_bits:
      raise ValueError(
        f'analog bits have {analog.shape[-1]} channels but '
        f'num_bits={self.num_bits}; split the groups before decoding.'
      )
    xp = _namespace(analog)
    weights = xp.asarray(1 << _shifts(self))
    words = xp.sum(xp.where(analog > 0, weights, 0), -1, dtype=np.int32)
    ids = _unword(self, words)
    if num_codes is not None:
      ids = xp.minimum(ids, np.int32(num_codes - 1))
    return xp.asarray(ids)

  def expected(
    self, logits: Logits, scale: float | int, num_codes: int | None = None
  ) -> Analog:
    """E[analog bits] = (2 softmax(logits) @ codebook - 1) * scale.

    Pix2Seq-D's estimate of x_0 (section 3.2): logit i belongs to id i,
    whatever the kind of the code.

    Args:
      logits: [..., 2^n].
      scale: the b of the paper.
      num_codes: ids of num_codes or more are given probability 0. The
        reference leaves those dead logits in, hence the default None.

    Returns:
      [..., n] in [-scale, scale]; float32, or float64 for float64 logits.

    Raises:
      ValueError: the last axis is not 2^n long, or num_codes is not in
        1 .. 2^n.
    """
    if logits.shape[-1] != self.num_codes:
      raise ValueError(
        f'{logits.shape[-1]} logits for num_bits={self.num_bits}, which has '
        f'{self.num_codes} codes; give the head 2^num_bits outputs an id.'
      )
    if num_codes is not None and not 1 <= num_codes <= self.num_codes:
      raise ValueError(
        f'num_codes={num_codes} must be 1 to {self.num_codes} '
        f'(2^num_bits with num_bits={self.num_bits}).'
      )
    xp = _namespace(logits)
    dtype = xp.promote_types(logits.dtype, np.float32)
    logits = logits.astype(dtype)
    if num_codes is not None:
      possible = np.arange(self.num_codes) < num_codes
      logits = xp.where(possible, logits, xp.asarray(-np.inf, dtype))
    words = xp.asarray(2 * _codebook(self) - 1, dtype)
    if isinstance(logits, np.ndarray):
      weights = np.exp(logits - logits.max(-1, keepdims=True))
      means = weights @ words / weights.sum(-1, keepdims=True)
      return means * dtype.type(scale)
    # HIGHEST: the default on TPU and on newer GPUs keeps 8 to 10 bits, and
    # the loss of precision would be as large as the scale's tenth.
    means = jnp.matmul(
      jax.nn.softmax(logits), words, precision=jax.lax.Precision.HIGHEST
    )
    return means * jnp.asarray(scale, dtype)


def confidence(analog: Analog, scale: float | int) -> Score:
  """How far bits are from undecided: mean over bits of |x| / scale, [0, 1].

  For an x_0 made of expected bits, |x| / scale is |2 p - 1| of that bit, so a
  pixel whose two ids are equally probable scores 0 in the bits in which these
  differ. Larger magnitudes count as 1.
  """
  xp = _namespace(analog)
  dtype = xp.promote_types(analog.dtype, np.float32)
  sizes = xp.minimum(xp.abs(analog.astype(dtype)) / xp.asarray(scale, dtype), 1)
  return xp.asarray(xp.mean(sizes, -1))


def _namespace(x):
  return np if isinstance(x, (np.ndarray, np.generic)) else jnp


@functools.cache
def _codebook(code: Code) -> np.ndarray:
  words = _words(code, np.arange(code.num_codes))
  return (words[:, None] >> _shifts(code) & 1).astype(np.float32)


def _shifts(code: Code) -> np.ndarray:
  shifts = np.arange(code.num_bits, dtype=np.int32)
  return shifts if code.order == 'lsb' else shifts[::-1].copy()


@functools.cache
def _permutation(seed: int, num_codes: int) -> np.ndarray:
  permutation = np.random.default_rng(seed).permutation(num_codes)
  return permutation.astype(np.int32)


@functools.cache
def _inverse(seed: int, num_codes: int) -> np.ndarray:
  return np.argsort(_permutation(seed, num_codes)).astype(np.int32)


def _words(code: Code, ids):
  """Ids -> the integer whose binary digits are the word."""
  ids = ids.astype(np.int32) & (code.num_codes - 1)
  if code.kind == 'gray':
    return ids ^ (ids >> 1)
  if code.kind == 'random':
    xp = _namespace(ids)
    return xp.asarray(_permutation(code.seed, code.num_codes))[ids]
  return ids


def _unword(code: Code, words):
  """The inverse of `_words`."""
  if code.kind == 'gray':
    # A prefix-xor by doubling: 1, 2, 4, 8 cover all of MAX_BITS = 16 bits.
    for shift in (1, 2, 4, 8):
      words = words ^ (words >> shift)
    return words
  if code.kind == 'random':
    xp = _namespace(words)
    return xp.asarray(_inverse(code.seed, code.num_codes))[words]
  return words
