"""The transformer in the UNet, by what it must do."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest

from pix2seqd_jax.architectures import sd_transformer

RNG = np.random.default_rng(0)
X = RNG.normal(size=(2, 2, 3, 8)).astype(np.float32)
CONTEXT = RNG.normal(size=(2, 5, 6)).astype(np.float32)
BLOCK = sd_transformer.SpatialTransformer(num_heads=2, groups=4)
# To compile each operation alone takes longer.
apply = jax.jit(
  BLOCK.apply, compiler_options={'xla_backend_optimization_level': 0}
)


@pytest.fixture(scope='module')
def variables():
  return oracles.random_variables(BLOCK, jnp.asarray(X), jnp.asarray(CONTEXT))


@pytest.fixture(scope='module')
def out(variables):
  return apply(variables, X, CONTEXT)


def test_places_have_no_order(variables, out):
  """Nor has the context: no positions are coded."""
  flipped = apply(variables, X[:, ::-1], CONTEXT[:, ::-1])
  np.testing.assert_allclose(flipped[:, ::-1], out, atol=1e-5)
  turned = X.swapaxes(1, 2).reshape(X.shape)
  expected = out.swapaxes(1, 2).reshape(X.shape)
  found = apply(variables, turned, CONTEXT)
  np.testing.assert_allclose(found, expected, atol=1e-5)


def test_examples_have_their_own_context(variables, out):
  other = apply(variables, X, np.stack([CONTEXT[0], CONTEXT[1] + 1]))
  np.testing.assert_allclose(other[0], out[0], atol=1e-6)
  assert np.abs(other[1] - out[1]).max() > 1e-2


def test_it_is_added(variables):
  params = dict(variables['params'])
  params['proj_out'] = jax.tree.map(np.zeros_like, params['proj_out'])
  silent = apply({'params': params}, X, CONTEXT)
  np.testing.assert_array_equal(silent, X)


def test_without_a_context(variables):
  """Self-attention and the MLP are the same, the rest is not there."""
  inner = dict(variables['params']['transformer_blocks_0'])
  assert inner.keys() == {'norm1', 'attn1', 'norm2', 'attn2', 'norm3', 'ff'}
  attn2 = inner['attn2']
  assert (
    attn2['to_k']['kernel'].shape == attn2['to_v']['kernel'].shape == (6, 8)
  )
  assert 'bias' not in attn2['to_q'] and 'bias' in attn2['to_out_0']
  # Attention whose result is zero is none.
  silent = attn2 | {'to_out_0': jax.tree.map(np.zeros_like, attn2['to_out_0'])}
  params = variables['params']
  with_context = params | {'transformer_blocks_0': inner | {'attn2': silent}}
  left = {k: v for k, v in inner.items() if k not in ('norm2', 'attn2')}
  without = params | {'transformer_blocks_0': left}
  shapes = jax.eval_shape(lambda: BLOCK.init(jax.random.key(0), jnp.asarray(X)))
  assert shapes['params']['transformer_blocks_0'].keys() == left.keys()
  np.testing.assert_allclose(
    apply({'params': without}, X),
    apply({'params': with_context}, X, CONTEXT),
    atol=1e-6,
  )


def test_geglu():
  """The first half is the value; the gate's gelu is that of the erf."""
  layer = sd_transformer.GEGLU(1)
  kernel = jnp.array([[1.0, 0.0], [0.0, 1.0]])
  params = {'proj': {'kernel': kernel, 'bias': jnp.zeros(2)}}
  x = jnp.array([[[3.0, 1.3], [1.3, -0.7]]])
  gelu = [[v * (1 + math.erf(v / math.sqrt(2))) / 2] for v in (1.3, -0.7)]
  expected = np.array([[[3.0], [1.3]]]) * np.array([gelu])
  out = layer.apply({'params': params}, x)
  np.testing.assert_allclose(out, expected, rtol=2e-6)
