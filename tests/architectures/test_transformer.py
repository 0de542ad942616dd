import jax
import jax.numpy as jnp
import numpy as np
import oracles

from pix2seqd_jax.architectures.transformer import TransformerLayer


def _layer(**kwargs):
  return TransformerLayer(num_heads=2, head_dim=4, mlp_dim=16, **kwargs)


def test_a_dropped_path_is_the_identity():
  x = jax.random.normal(jax.random.key(0), (3, 5, 8))
  memory = jax.random.normal(jax.random.key(1), (3, 2, 6))
  layer = _layer(is_decoder=True, drop_path=1.0, deterministic=False)
  kept = _layer(is_decoder=True)
  variables = oracles.random_variables(kept, x, memory)
  y = layer.apply(variables, x, memory, rngs={'dropout': jax.random.key(3)})
  np.testing.assert_array_equal(y, x)
  kept = kept.apply(variables, x, memory)
  assert jnp.abs(kept - x).max() > 0.01


def test_tokens_have_no_order_of_their_own():
  x = jax.random.normal(jax.random.key(0), (2, 5, 8))
  layer = _layer()
  variables = oracles.random_variables(layer, x)
  y = layer.apply(variables, x)
  np.testing.assert_allclose(
    layer.apply(variables, x[:, ::-1]), y[:, ::-1], atol=1e-6
  )


def test_dropout_is_random_only_in_training():
  x = jax.random.normal(jax.random.key(0), (2, 5, 8))
  variables = oracles.random_variables(_layer(), x)

  def run(key, **kwargs):
    layer = _layer(dropout=0.5, **kwargs)
    return layer.apply(variables, x, rngs={'dropout': jax.random.key(key)})

  assert (run(0) == run(1)).all()
  assert (run(0, deterministic=False) != run(1, deterministic=False)).any()
