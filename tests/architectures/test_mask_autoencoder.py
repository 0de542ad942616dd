"""LDMSeg's autoencoder of masks against the original, and its laws."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import parity
import pytest

from pix2seqd_jax.architectures.mask_autoencoder import MaskAutoencoder
from pix2seqd_jax.pretrained import mask_autoencoder as pretrained
from pix2seqd_jax.pretrained import part, torch_files

SCALE = 0.18215


@pytest.fixture(scope='module')
def tiny():
  module = MaskAutoencoder(
    widths=(8, 8, 16), hidden=16, upscale_channels=8, groups=8, out_channels=9
  )
  return module, oracles.random_variables(module, jnp.zeros((1, 8, 12, 7)))


@pytest.fixture(scope='module')
def original(shared):
  """(our module with the original's weights, its arrays), NHWC."""
  folder = shared / 'oracles' / 'ldmseg_ae'
  tensors = torch_files.read(folder / 'default_tiny.safetensors')
  module, plan = part.plan(pretrained.PART, tensors)
  arrays = {
    key: np.moveaxis(value, 1, -1) if value.ndim == 4 else value
    for key, value in oracles.load_npz(folder / 'default_tiny.npz').items()
  }
  return module, plan.tree(tensors), arrays


@pytest.mark.parametrize('dtype, bound', [('float32', 8e-6), ('float64', 2e-6)])
def test_the_original(original, dtype, bound):
  module, variables, theirs = original
  with jax.enable_x64(dtype == 'float64'):
    module = module.clone(dtype=jnp.dtype(dtype))
    variables = jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), variables)
    with jax.default_matmul_precision('highest'):
      posterior = module.apply(
        variables,
        jnp.asarray(2 * theirs['bits'] - 1, dtype),
        method='encode',
      )
      mean = jnp.asarray(theirs['mean'], dtype)
      logits = module.apply(variables, mean, method='decode')
      whole = module.apply(variables, mean, interpolate=True, method='decode')
    noise = jnp.asarray(theirs['noise'], dtype)
    ours = {
      'mean': posterior.mean,
      'logvar': posterior.logvar,
      'std': posterior.std,
      'kl': posterior.kl(),
      'sample': posterior.sample(noise=noise),
      'ldm_latent': posterior.mode(SCALE),
      'dec_nointerp': logits,
      'dec_interp_img0_ch0to15': whole[:1, ..., :16],
    }
    for key, value in ours.items():
      name = f'ldmseg_ae/{dtype}'
      parity.check(name, key, value, theirs[key], bound=bound)
    ids = np.argmax(whole, -1)
    np.testing.assert_array_equal(ids, theirs['dec_interp_argmax'])


def test_released_sizes():
  shapes = pretrained.shapes_of(MaskAutoencoder())['params']

  def count(tree):
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))

  assert count(shapes['encoder']) == 1_192_360
  assert count(shapes['decoder']) == 830_848
  x = jax.ShapeDtypeStruct((2, 512, 512, 7), jnp.float32)
  module = MaskAutoencoder()
  moments = jax.eval_shape(
    lambda v, x: module.apply(v, x, method='encode'), {'params': shapes}, x
  )
  assert moments.mean.shape == (2, 64, 64, 4)
  logits = jax.eval_shape(
    lambda v, z: module.apply(v, z, method='decode'),
    {'params': shapes},
    moments.mean,
  )
  assert logits.shape == (2, 256, 256, 128)


def test_scale_cancels(tiny):
  module, variables = tiny
  z = jax.random.normal(jax.random.key(0), (1, 2, 3, 4))
  decode = functools.partial(module.apply, variables, method='decode')
  ours, plain = jax.jit(lambda z: (decode(0.2 * z, 0.2), decode(z)))(z)
  np.testing.assert_allclose(ours, plain, atol=1e-5)
  assert plain.shape == (1, 8, 12, 9)


def test_bfloat16_keeps_wide_results(tiny):
  module, variables = tiny
  x = jnp.sign(jax.random.normal(jax.random.key(0), (1, 8, 12, 7)))
  narrow = module.clone(dtype=jnp.bfloat16)
  ours, plain = (jax.jit(m.apply)(variables, x) for m in (narrow, module))
  assert ours.dtype == jnp.float32 and ours.shape == (1, 8, 12, 9)
  assert parity.relative_error(ours, plain) < 0.05


@pytest.mark.parametrize(
  'fields, shape, words',
  [
    ({}, (1, 8, 10, 7), '8x10 pixels cannot be encoded'),
    ({}, (1, 8, 8, 3), 'in_channels=7'),
    ({'num_upscalers': 3}, (1, 8, 8, 7), 'num_upscalers=3 enlarge beyond'),
    ({'hidden': 12}, (1, 8, 8, 7), 'hidden=12 must be a multiple'),
  ],
)
def test_refused(tiny, fields, shape, words):
  module = tiny[0].clone(**fields)
  with pytest.raises(ValueError, match=words):
    jax.eval_shape(module.init, jax.random.key(0), jnp.zeros(shape))


def test_a_latent_of_other_channels(tiny):
  module, variables = tiny
  with pytest.raises(ValueError, match='latent_channels=4'):
    module.apply(variables, jnp.zeros((1, 2, 2, 8)), method='decode')
