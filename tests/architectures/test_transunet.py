import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest

from pix2seqd_jax.architectures.transunet import TransUNet

SMALL = {
  'out_channels': 6,
  'dim': 4,
  'multipliers': (1, 2),
  'transformer_dim': 8,
  'transformer_blocks': 1,
  'head_dim': 4,
}
KEY = jax.random.key(0)
X = jax.random.normal(jax.random.key(1), (2, 8, 12, 5))
TIME = jnp.asarray([0.2, 0.9])
TOKENS = jax.random.normal(jax.random.key(2), (2, 7, 10))


@pytest.fixture(scope='module')
def variables():
  """Weights of which none is nearly zero, unlike fresh ones."""
  return oracles.random_variables(TransUNet(**SMALL), X, TIME, TOKENS)


def _run(variables, x=X, time=TIME, tokens=TOKENS, **kwargs):
  module = TransUNet(**(SMALL | kwargs))
  return jax.jit(module.apply)(variables, x, time, tokens)


def test_a_fresh_network_answers_nothing():
  """Both softmaxes start uniform: the loss starts at the log of the codes."""
  y, _ = jax.jit(TransUNet(**SMALL).init_with_output)(KEY, X, TIME, TOKENS)
  assert y.shape == (2, 8, 12, 6)
  np.testing.assert_allclose(y, 0, atol=1e-3)


def test_every_input_matters(variables):
  y = _run(variables)
  for changed in (
    {'x': X + 0.1},
    {'time': TIME / 2},
    {'tokens': TOKENS + jax.random.normal(KEY, TOKENS.shape)},
  ):
    assert jnp.abs(_run(variables, **changed) - y).max() > 1e-3


def test_examples_are_apart(variables):
  y = _run(variables)
  one = _run(variables, X[1:], TIME[1:], TOKENS[1:])
  np.testing.assert_allclose(y[1:], one, atol=1e-5)


def test_tokens_have_no_order(variables):
  np.testing.assert_allclose(
    _run(variables, tokens=TOKENS[:, ::-1]), _run(variables), atol=1e-5
  )


def test_chunked_attention_changes_nothing(variables):
  np.testing.assert_allclose(
    _run(variables, attention='chunked'), _run(variables), atol=1e-5
  )


def test_remat_changes_nothing(variables):
  def gradient(remat):
    def loss(variables):
      return jnp.sum(jnp.sin(_run(variables, remat=remat)))

    return jax.jit(jax.grad(loss))(variables)

  for a, b in zip(*map(jax.tree.leaves, (gradient(False), gradient(True)))):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


def test_without_attention_to_tokens():
  module = TransUNet(**SMALL, cross_attention=False)
  y, variables = jax.eval_shape(module.init_with_output, KEY, X, TIME)
  assert y.shape == (2, 8, 12, 6)
  layer = variables['params']['transformer']['layer_0']
  assert not [name for name in layer if name.startswith('cross')]


def test_numbers_of_blocks():
  module = TransUNet(**SMALL, num_res_blocks=(2, 1))
  y, variables = jax.eval_shape(module.init_with_output, KEY, X, TIME, TOKENS)
  assert y.shape == (2, 8, 12, 6)
  names = [name for name in variables['params'] if '_block_' in name]
  assert sorted(names) == [
    'down_0_block_0', 'down_0_block_1', 'down_1_block_0',
    'up_0_block_0', 'up_0_block_1', 'up_0_block_2',
    'up_1_block_0', 'up_1_block_1',
  ]  # fmt: skip


def test_bfloat16_answers_in_float32(variables):
  wide = _run(variables)
  y = _run(variables, dtype=jnp.bfloat16)
  assert y.dtype == jnp.float32
  np.testing.assert_allclose(y, wide, atol=0.1 * float(jnp.abs(wide).max()))


def test_runs_in_float64(variables):
  """Nothing casts down to float32 on the way."""
  single = _run(variables)
  with jax.enable_x64(True):
    variables, x, time, tokens = jax.tree.map(
      lambda a: jnp.asarray(np.asarray(a), jnp.float64),
      (variables, X, TIME, TOKENS),
    )
    y = _run(variables, x, time, tokens, dtype=jnp.float64)
    assert y.dtype == jnp.float64
    # A change far below float32's resolution is seen.
    nudged = _run(variables, x * (1 + 1e-12), time, tokens, dtype=jnp.float64)
    later = _run(variables, x, time + 1e-12, tokens, dtype=jnp.float64)
    assert 0 < np.abs(nudged - y).max() < 1e-9
    assert 0 < np.abs(later - y).max() < 1e-6
    np.testing.assert_allclose(single, y, atol=1e-4)


@pytest.mark.parametrize(
  ('size', 'override', 'message'),
  [
    ((8, 9), {}, r'mask_size=\(8, 9\).*multiples of 2'),
    ((8, 8), {'num_res_blocks': (1, 1, 1)}, 'one entry for each'),
    ((8, 8), {'head_dim': 3}, 'head_dim=3'),
    ((8, 8), {'cross_attention': False}, 'tokens are given'),
    ((8, 8), {'attention': 'flash'}, "attention='flash' is unknown"),
  ],
)
def test_wrong_sizes(size, override, message):
  module = TransUNet(**(SMALL | override))
  with pytest.raises(ValueError, match=message):
    module.init(KEY, jnp.zeros((2, *size, 5)), TIME, TOKENS)


def test_missing_tokens():
  with pytest.raises(ValueError, match='tokens are missing'):
    TransUNet(**SMALL).init(KEY, X, TIME)
