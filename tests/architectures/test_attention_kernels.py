"""splash runs in Pallas' interpreter here; cudnn itself only on a GPU."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pix2seqd_jax.architectures import attention_kernels


def _qkv(n, m, heads=2, d=8, batch=2):
  keys = jax.random.split(jax.random.key(0), 3)
  return tuple(
    jax.random.normal(key, (batch, heads, length, d))
    for key, length in zip(keys, (n, m, m))
  )


def _mask(*shape):
  mask = np.random.default_rng(0).random(shape) < 0.5
  mask[..., 0] = True  # the causal rule leaves query 0 nothing else
  return jnp.asarray(mask)


@pytest.mark.parametrize(
  ('n', 'm', 'is_causal', 'is_masked'),
  [(130, 77, False, True), (128, 128, True, False)],
)
def test_splash_is_equal_to_xla(n, m, is_causal, is_masked):
  inputs = _qkv(n, m)
  mask = _mask(2, 1, 1, m) if is_masked else None

  def values(function, **options):
    def loss(inputs):
      out = function(*inputs, is_causal, mask, **options)
      return jnp.mean(jnp.sin(out)), out

    gradients, out = jax.grad(loss, has_aux=True)(inputs)
    return [out, *(n * gradient for gradient in gradients)]

  ours = values(attention_kernels.splash, interpret=True)
  theirs = values(attention_kernels.xla)
  for array, expected in zip(ours, theirs):
    np.testing.assert_allclose(array, expected, atol=1e-6)


def test_splash_of_what_sees_nothing_is_finite():
  mask = jnp.zeros((2, 1, 1, 130), bool)
  out = attention_kernels.splash(*_qkv(128, 130), mask=mask, interpret=True)
  assert np.isfinite(out).all()


@pytest.mark.parametrize('dtype', [jnp.float32, jnp.bfloat16])
def test_splash_compiles_for_tpu(dtype):
  # As far as a machine without one gets: to the kernel, with its blocks.
  shape = jax.ShapeDtypeStruct((1, 8, 4096, 40), dtype)
  traced = jax.jit(attention_kernels.splash).trace(shape, shape, shape)
  assert (
    'tpu_custom_call' in traced.lower(lowering_platforms=('tpu',)).as_text()
  )


@pytest.mark.parametrize('shape', [(2, 3, 37, 41), (2, 1, 1, 41)])
def test_masks_of_each_example(shape):
  inputs = _qkv(37, 41, heads=3)
  mask = _mask(*shape)
  np.testing.assert_allclose(
    attention_kernels.chunked(*inputs, mask=mask),
    attention_kernels.xla(*inputs, mask=mask),
    atol=1e-6,
  )


@pytest.mark.parametrize('is_causal', [False, True])
def test_cudnn_is_equal_to_xla(is_causal, monkeypatch):
  """On a GPU the kernel itself; elsewhere all but it, on JAX's other one."""
  asked = []
  if jax.default_backend() != 'gpu':
    attend = jax.nn.dot_product_attention

    def other(*args, implementation, **kwargs):
      asked.append(implementation)
      return attend(*args, implementation='xla', **kwargs)

    monkeypatch.setattr(jax.nn, 'dot_product_attention', other)
  inputs = [x.astype(jnp.bfloat16) for x in _qkv(300, 300, heads=3, d=40)]
  ours = attention_kernels.cudnn(*inputs, is_causal)
  theirs = attention_kernels.xla(
    *(x.astype(jnp.float32) for x in inputs), is_causal
  )
  assert asked in ([], ['cudnn'])
  np.testing.assert_allclose(ours.astype(jnp.float32), theirs, atol=2e-2)
