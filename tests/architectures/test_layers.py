import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from flax import linen as nn

from pix2seqd_jax.architectures import layers


def test_groups_divide_every_width():
  for channels in range(1, 520):
    groups = layers.num_groups(channels)
    expected = min(channels // 4, 32)
    assert channels % groups == 0
    assert 1 <= groups <= max(expected, 1)
    if expected and channels % expected == 0:
      assert groups == expected


def test_groups_of_another_width():
  assert layers.num_groups(24, width=32) == 8
  assert layers.num_groups(256, width=512) == 32


@pytest.mark.parametrize('groups', [1, 3, 12])
def test_group_norm_equals_flax(groups):
  x = 3 + 2 * jax.random.normal(jax.random.key(0), (2, 5, 4, 12))
  ours = layers.GroupNorm(num_groups=groups)
  theirs = nn.GroupNorm(
    num_groups=groups, epsilon=1e-5, use_fast_variance=False
  )
  variables = oracles.random_variables(ours, x)

  def gradient(norm):
    return jax.grad(lambda v, x: jnp.sin(norm.apply(v, x)).sum(), (0, 1))(
      variables, x
    )

  np.testing.assert_allclose(
    ours.apply(variables, x), theirs.apply(variables, x), atol=1e-5
  )
  for a, b in zip(*map(jax.tree.leaves, (gradient(ours), gradient(theirs)))):
    np.testing.assert_allclose(a, b, atol=1e-4)


def test_group_norm_makes_groups_standard():
  x = 3 + 2 * jax.random.normal(jax.random.key(0), (2, 8, 8, 12))
  norm = layers.group_norm(12, dtype=jnp.float32, name='norm')
  y = norm.apply(norm.init(jax.random.key(0), x), x)
  groups = np.asarray(y).reshape(2, 64, 3, 4)
  np.testing.assert_allclose(groups.mean((1, 3)), 0, atol=1e-6)
  np.testing.assert_allclose(groups.std((1, 3)), 1, atol=1e-4)


def test_norms_of_bfloat16_use_float32():
  # A mean of 300 leaves bfloat16 no digit for a deviation of 1.
  x = (300 + jnp.arange(64.0) % 4).reshape(1, 1, 1, 64).astype(jnp.bfloat16)
  for norm in (
    layers.group_norm(64, width=4, dtype=jnp.bfloat16, name='norm'),
    layers.layer_norm(dtype=jnp.bfloat16, name='norm'),
  ):
    y = norm.apply(norm.init(jax.random.key(0), x), x)
    assert y.dtype == jnp.bfloat16
    wide = np.asarray(x, np.float64).ravel()
    expected = (wide - wide.mean()) / wide.std()
    np.testing.assert_allclose(
      np.asarray(y, np.float64).ravel(), expected, atol=0.01
    )


@pytest.mark.parametrize('factor', [1, 2, 3])
def test_upsample_repeats(factor):
  x = np.random.default_rng(0).normal(size=(2, 3, 4, 5)).astype(np.float32)
  expected = x.repeat(factor, axis=1).repeat(factor, axis=2)
  np.testing.assert_array_equal(
    layers.upsample(jnp.asarray(x), factor), expected
  )


def test_drop_path_drops_whole_examples():
  x = 1 + jax.random.uniform(jax.random.key(0), (400, 3, 2))
  y = layers.DropPath(0.25, deterministic=False).apply(
    {}, x, rngs={'dropout': jax.random.key(1)}
  )
  is_kept = np.asarray(y != 0).all((1, 2))
  np.testing.assert_allclose(y[is_kept], x[is_kept] / 0.75, rtol=1e-6)
  assert not y[~is_kept].any()
  assert abs(is_kept.mean() - 0.75) < 0.08
  np.testing.assert_array_equal(
    layers.DropPath(0.25, deterministic=True).apply({}, x), x
  )
