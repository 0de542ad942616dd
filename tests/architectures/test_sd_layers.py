"""The blocks of Stable Diffusion, by what each of them must do."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from flax import traverse_util

from pix2seqd_jax.architectures import sd_layers

RNG = np.random.default_rng(0)
X = RNG.normal(size=(2, 4, 6, 4)).astype(np.float32)
TEMB = RNG.normal(size=(2, 5)).astype(np.float32)


@functools.cache
def compiled(module, **kwargs):
  """Its `apply`: to compile each operation alone takes longer."""
  options = {'xla_backend_optimization_level': 0}
  apply = functools.partial(module.apply, **kwargs)
  return jax.jit(apply, compiler_options=options)


def draw(module, *inputs):
  return oracles.random_variables(module, *map(jnp.asarray, inputs))


def middle_tap(channels, features):
  """A kernel that adds nothing of the neighbours."""
  kernel = jnp.zeros((3, 3, channels, features))
  return kernel.at[1, 1].set(jnp.eye(channels, features))


def changed(variables, path, function):
  """Variables whose leaves below `path` are changed."""
  flat = traverse_util.flatten_dict(variables['params'], sep='/')
  found = {k: function(v) if k.startswith(path) else v for k, v in flat.items()}
  assert any(k.startswith(path) for k in flat)
  return {'params': traverse_util.unflatten_dict(found, sep='/')}


def paths(variables):
  return {
    key.split('/')[0]
    for key in traverse_util.flatten_dict(variables['params'], sep='/')
  }


@pytest.mark.parametrize('padding, first', [((1, 1), 0), ((0, 1), 1)])
def test_downsample(padding, first):
  """The UNet pads on all sides, the autoencoder right and below."""
  layer = sd_layers.Downsample(3, padding)
  params = {'conv': {'kernel': middle_tap(4, 3), 'bias': jnp.arange(3.0)}}
  out = compiled(layer)({'params': params}, X)
  expected = X[:, first::2, first::2, :3] + jnp.arange(3.0)
  np.testing.assert_array_equal(out, expected)


def test_upsample():
  layer = sd_layers.Upsample(3)
  params = {'conv': {'kernel': middle_tap(4, 3), 'bias': jnp.arange(3.0)}}
  out = compiled(layer)({'params': params}, X)
  expected = np.repeat(np.repeat(X[..., :3], 2, axis=1), 2, axis=2)
  np.testing.assert_array_equal(out, expected + np.arange(3, dtype=np.float32))
  # The neighbours of the doubled map are what is convolved.
  kernel = jnp.zeros((3, 3, 4, 3)).at[1, 0].set(jnp.eye(4, 3))
  params = {'conv': {'kernel': kernel, 'bias': jnp.zeros(3)}}
  out = compiled(layer)({'params': params}, X)
  np.testing.assert_array_equal(out[:, :, 1:], expected[:, :, :-1])
  np.testing.assert_array_equal(out[:, :, 0], 0)


def test_resnet_is_its_shortcut_and_a_branch():
  block = sd_layers.ResnetBlock(4, groups=2)
  variables = draw(block, X, TEMB)
  assert paths(variables) == {
    'norm1',
    'conv1',
    'time_emb_proj',
    'norm2',
    'conv2',
  }
  silent = changed(variables, 'conv2', np.zeros_like)
  np.testing.assert_array_equal(compiled(block)(silent, X, TEMB), X)
  # The norm before it: the branch does not see a scale or a shift.
  branch = compiled(block)(variables, X, TEMB) - X
  other = 8 * X + 5
  np.testing.assert_allclose(
    compiled(block)(variables, other, TEMB) - other, branch, atol=1e-4
  )
  assert np.abs(branch).max() > 0.1

  wider = sd_layers.ResnetBlock(6, groups=2)
  variables = draw(wider, X, TEMB)
  silent = changed(variables, 'conv2', np.zeros_like)
  shortcut = variables['params']['conv_shortcut']
  np.testing.assert_allclose(
    compiled(wider)(silent, X, TEMB),
    X @ shortcut['kernel'] + shortcut['bias'],
    atol=1e-5,
  )


def test_resnet_and_time():
  """What is added between the convolutions is silu(temb) times a matrix."""
  block = sd_layers.ResnetBlock(4, groups=2)
  variables = draw(block, X, TEMB)
  dense = variables['params']['time_emb_proj']
  silu = TEMB[0] / (1 + np.exp(-TEMB[0]))
  shift = silu @ dense['kernel'] + dense['bias']
  timeless = {
    k: v for k, v in variables['params'].items() if k != 'time_emb_proj'
  }
  timeless = changed({'params': timeless}, 'conv1/bias', lambda b: b + shift)
  np.testing.assert_allclose(
    compiled(block)(variables, X, np.repeat(TEMB[:1], 2, axis=0)),
    compiled(block)(timeless, X),
    atol=1e-5,
  )
  # Each example has its own.
  both = compiled(block)(variables, X, TEMB)
  swapped = compiled(block)(variables, X[::-1], TEMB[::-1])
  np.testing.assert_allclose(both, swapped[::-1], atol=1e-5)


def test_dropout_is_before_the_second_convolution():
  block = sd_layers.ResnetBlock(4, groups=2, dropout=1.0)
  variables = draw(block, X)
  rngs = {'dropout': jax.random.key(0)}
  out = compiled(block, train=True)(variables, X, rngs=rngs)
  bias = variables['params']['conv2']['bias']
  np.testing.assert_allclose(out, X + bias, atol=1e-6)
  plain = compiled(block.clone(dropout=0.0))(variables, X)
  np.testing.assert_array_equal(compiled(block)(variables, X), plain)


def test_bfloat16_in_and_out():
  """Whatever comes; parameters stay float32."""
  for layer in (
    sd_layers.Downsample(3, dtype=jnp.bfloat16),
    sd_layers.Upsample(3, dtype=jnp.bfloat16),
    sd_layers.ResnetBlock(6, groups=2, dtype=jnp.bfloat16),
  ):
    out, variables = jax.eval_shape(
      lambda layer=layer: layer.init_with_output(
        jax.random.key(0), jnp.asarray(X)
      )
    )
    assert out.dtype == jnp.bfloat16
    dtypes = {leaf.dtype.name for leaf in jax.tree.leaves(variables)}
    assert dtypes == {'float32'}
