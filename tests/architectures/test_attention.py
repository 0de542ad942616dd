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


def test_unknown_implementation():
  with pytest.raises(ValueError, match="attention='flash' is unknown"):
    attention.attend(*_qkv(2, 2), 'flash')
