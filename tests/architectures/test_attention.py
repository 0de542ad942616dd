import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from pix2seqd_jax.architectures import attention
from pix2seqd_jax.architectures.attention import MultiHeadAttention


def _qkv(n, m, heads=2, d=8):
  keys = jax.random.split(jax.random.key(0), 3)
  return tuple(
    jax.random.normal(key, (1, length, heads, d))
    for key, length in zip(keys, (n, m, m))
  )


# Long, not a multiple of the chunk, a prime number, and too short to divide.
@pytest.mark.parametrize('n', [1100, 512, 37, 3, 2, 1])
def test_chunks_change_nothing(n):
  q, k, v = _qkv(n, 50)
  whole = attention.attend(q, k, v, 'xla')
  chunked = attention.attend(q, k, v, 'chunked')
  np.testing.assert_allclose(whole, chunked, atol=1e-6)


def test_chunks_change_no_gradient():
  inputs = _qkv(37, 20)

  def gradients(implementation):
    def loss(inputs):
      out = attention.attend(*inputs, implementation)
      return jnp.sum(jnp.sin(out))

    return jax.jit(jax.grad(loss))(inputs)

  for whole, chunked in zip(gradients('xla'), gradients('chunked')):
    np.testing.assert_allclose(whole, chunked, atol=1e-6)


def _by_hand(q, k, v, sees):
  """A loop over queries and heads that leaves out the keys unseen."""
  q, k, v = map(np.asarray, (q, k, v))
  sees = np.broadcast_to(sees, (*q.shape[:3], k.shape[1]))  # [b, n, heads, m]
  out = np.zeros(q.shape)
  for b, n, h in np.ndindex(*q.shape[:3]):
    keys = np.flatnonzero(sees[b, n, h])
    scores = k[b, keys, h] @ q[b, n, h] / q.shape[-1] ** 0.5
    weights = np.exp(scores - scores.max())
    out[b, n, h] = weights @ v[b, keys, h] / weights.sum()
  return out


@pytest.mark.parametrize('implementation', ['xla', 'chunked'])
def test_keys_unseen_do_not_count(implementation):
  n, m = 37, 41
  inputs = _qkv(n, m)
  rng = np.random.default_rng(0)
  masks = [None]
  for shape in (1, m), (1, 1, 1, m), (1, 1, n, m), (1, 2, n, m):
    masks.append(rng.random(shape) < 0.5)
    masks[-1][..., 0] = True  # the causal rule leaves query 0 nothing else
  for mask in masks:
    sees = np.ones((1, m), bool) if mask is None else mask
    sees = np.moveaxis(sees[:, None, None] if sees.ndim == 2 else sees, 1, 2)
    for is_causal in False, True:
      if is_causal:
        sees = sees & np.tri(n, m, dtype=bool)[:, None]
      given = None if mask is None else jnp.asarray(mask)
      ours = attention.attend(*inputs, implementation, is_causal, given)
      np.testing.assert_allclose(ours, _by_hand(*inputs, sees), atol=1e-6)


@pytest.mark.parametrize('implementation', ['xla', 'chunked'])
def test_a_query_that_sees_nothing_is_finite(implementation):
  inputs = _qkv(5, 7)
  mask = jnp.zeros((1, 7), bool)

  def loss(inputs):
    return attention.attend(*inputs, implementation, mask=mask).sum()

  value, gradients = jax.value_and_grad(loss)(inputs)
  for array in (value, *gradients):
    assert np.isfinite(array).all()


def _holds_scores(n, m, implementation):
  q, k, v = _qkv(n, m)
  jaxpr = jax.make_jaxpr(
    lambda *inputs: attention.attend(*inputs, implementation)
  )(q, k, v)
  return f'[1,2,{n},{m}]' in str(jaxpr)


def test_auto_chunks_long_sequences_on_cpu():
  assert _holds_scores(1100, 60, 'xla')
  assert not _holds_scores(1100, 60, 'chunked')
  assert not _holds_scores(1100, 60, 'auto')
  assert _holds_scores(1000, 60, 'auto')


def test_equals_flax():
  x = jax.random.normal(jax.random.key(1), (2, 7, 12))
  theirs = nn.MultiHeadDotProductAttention(
    num_heads=3, bias_init=nn.initializers.normal()
  )
  variables = theirs.init(jax.random.key(2), x)
  ours = MultiHeadAttention(num_heads=3, head_dim=4)
  np.testing.assert_allclose(
    ours.apply(variables, x), theirs.apply(variables, x), atol=1e-6
  )


def test_memory_has_no_order():
  x, memory = (
    jax.random.normal(jax.random.key(i), (2, 5 + i, 8 * (i + 1)))
    for i in range(2)
  )
  module = MultiHeadAttention(num_heads=2, head_dim=3)
  variables = module.init(jax.random.key(3), x, memory)
  np.testing.assert_allclose(
    module.apply(variables, x, memory),
    module.apply(variables, x, memory[:, ::-1]),
    atol=1e-6,
  )


def test_kernels_are_drawn_as_keras_draws_them():
  module = MultiHeadAttention(num_heads=16, head_dim=32)
  x = jnp.zeros((1, 1, 512))
  params = module.init(jax.random.key(0), x)['params']
  assert params['query']['kernel'].shape == (512, 16, 32)
  assert params['out']['kernel'].shape == (16, 32, 512)
  # Glorot's limits, sqrt(6 / (fan in + fan out)), on the three axes.
  for name, fans in (
    ('query', 512 * 16 + 512 * 32),
    ('key', 512 * 16 + 512 * 32),
    ('value', 512 * 16 + 512 * 32),
    ('out', 16 * 32 + 16 * 512),
  ):
    limit = (6 / fans) ** 0.5
    largest = float(jnp.abs(params[name]['kernel']).max())
    assert 0.999 * limit < largest <= limit
    assert not params[name]['bias'].any()


_CPU, _TPU = attention.Device('cpu'), attention.Device('tpu')
_AMPERE = attention.Device('gpu', 8, 8.0)
_TURING, _AMD = attention.Device('gpu', 1, 7.5), attention.Device('gpu')
_BF16, _F32 = jnp.bfloat16, jnp.float32
_SD = (1, 4096, 8, 40)


@pytest.mark.parametrize(
  ('device', 'dtype', 'shape', 'num_keys', 'mask', 'expected'),
  [
    (_CPU, _F32, _SD, 4096, None, 'chunked'),
    (_CPU, _BF16, (1, 1023, 8, 40), 4096, None, 'xla'),
    (_CPU, _F32, (32, 1023, 12, 64), 1023, None, 'chunked'),  # of memory
    (_AMPERE, _BF16, _SD, 4096, None, 'cudnn'),
    (_AMPERE, _BF16, _SD, 4096, (1, 1, 1, 4096), 'xla'),
    (_AMPERE, _BF16, (1, 4096, 8, 36), 4096, None, 'xla'),
    (_AMPERE, _BF16, (1, 4096, 1, 512), 4096, None, 'xla'),
    (_AMPERE, _F32, _SD, 4096, None, 'xla'),
    (_AMPERE, _F32, (4, *_SD[1:]), 4096, None, 'chunked'),
    (_TURING, _BF16, _SD, 4096, None, 'xla'),
    (_AMD, _BF16, _SD, 4096, None, 'xla'),
    (_TPU, _F32, _SD, 4096, None, 'splash'),
    (_TPU, _BF16, _SD, 4096, (1, 1, 1, 4096), 'splash'),
    (_TPU, _BF16, _SD, 4096, (1, 1, 4096, 4096), 'xla'),
    (_TPU, _BF16, _SD, 77, None, 'xla'),
    (attention.Device('tpu', 4), _BF16, _SD, 4096, None, 'xla'),
  ],
)
def test_auto(device, dtype, shape, num_keys, mask, expected):
  args = device, dtype, shape, num_keys, mask
  assert attention.choose('auto', *args) == expected
  # What was chosen may be asked for.
  assert attention.choose(expected, *args) == expected


@pytest.mark.parametrize(
  ('name', 'device', 'dtype', 'shape', 'mask', 'message'),
  [
    ('splash', _CPU, _F32, _SD, None, 'is for TPU, and the backend is cpu'),
    ('cudnn', _TPU, _BF16, _SD, None, 'NVIDIA, and the backend is tpu'),
    ('cudnn', _TURING, _BF16, _SD, None, 'capability 8.0'),
    ('cudnn', _AMPERE, _F32, _SD, None, 'not float32'),
    ('cudnn', _AMPERE, _BF16, (1, 9, 1, 12), None, 'not 12'),
    ('cudnn', _AMPERE, _BF16, _SD, (1, 1, 1, 9), 'no mask'),
    ('splash', _TPU, jnp.float16, _SD, None, 'not float16'),
    ('splash', _TPU, _F32, _SD, (1, 1, 9, 9), 'masks of keys'),
  ],
)
def test_what_cannot_run_says_why(name, device, dtype, shape, mask, message):
  pattern = f"attention='{name}' cannot run: .*{message}.*Choose"
  with pytest.raises(ValueError, match=pattern):
    attention.choose(name, device, dtype, shape, 9, mask)


def test_the_device_here():
  device = attention.Device.here()
  assert device.kind == jax.default_backend()
  assert device.count == jax.device_count()
  if device.kind == 'cpu':
    with pytest.raises(ValueError, match='backend is cpu'):
      attention.attend(*_qkv(2, 2), 'splash')


def test_chunks_save_memory():
  """Memory of a step beside arguments and gradients, 4,096 tokens, 8 heads."""
  array = jax.ShapeDtypeStruct((1, 4096, 8, 40), jnp.float32)

  def temporary(name):
    def loss(q, k, v):
      return jnp.sin(attention.attend(q, k, v, name)).sum()

    compiled = jax.jit(jax.grad(loss)).lower(array, array, array).compile()
    return compiled.memory_analysis().temp_size_in_bytes

  scores = 8 * 4096**2 * 4
  assert temporary('xla') > scores
  assert temporary('chunked') < scores / 8


def test_unknown_implementation():
  with pytest.raises(ValueError, match="attention='flash' is unknown"):
    attention.attend(*_qkv(2, 2), 'flash')
