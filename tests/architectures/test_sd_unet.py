"""Stable Diffusion's UNet: the originals' numbers, sizes and laws."""

import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import parity
import pytest

from pix2seqd_jax.architectures.sd_unet import SDUNet, time_code
from pix2seqd_jax.pretrained import part, torch_files
from pix2seqd_jax.pretrained import sd_unet as pretrained

TINY = SDUNet(
  channels=(8, 16),
  has_attention=(True, False),
  num_layers=1,
  num_heads=2,
  context_dim=6,
  groups=4,
)
# Compiled without LLVM's optimisation, which takes most of the time.
QUICK = {'xla_backend_optimization_level': 0}


def nhwc(x):
  return np.moveaxis(x, 1, -1)


def of_diffusers(folder):
  config = json.loads((folder / 'unet_small_in4.config.json').read_text())
  z = oracles.load_npz(folder / 'unet_small_in4.npz')
  told = (z['sample'], z['timestep'], z['encoder_hidden_states'])
  return 'unet_small_in4', config, [(*told, z['out'])]


def of_ldmseg(folder):
  """Twelve channels in, and no attention to a context."""
  config = json.loads((folder / 'meta.json').read_text())['u12_small']['config']
  config |= {'in_channels': 12, 'cross_attention_dim': None}
  z = oracles.load_npz(folder / 'u12_small.npz')
  return 'u12_small', config, [(z['x'], z['t'], None, z['out'])]


def of_semflow(folder):
  """Times between the whole ones, and whole ones."""
  config = json.loads((folder / 'meta.json').read_text())['unet']['config']
  z = oracles.load_npz(folder / 'train_and_sample.npz')
  null = np.broadcast_to(z['null_condition'], (2, 7, 32))
  names = ('perturb_latent', 'unet_timesteps', 'model_pred')
  cases = []
  for kind in ('continuous', 'discrete'):
    x, time, out = (z[f'{kind}/{name}'] for name in names)
    cases.append((x, time, null, out))
  return 'unet', config, cases


@pytest.mark.parametrize('dtype, bound', [('float32', 8e-6), ('float64', 2e-6)])
@pytest.mark.parametrize(
  'source, read',
  [
    ('diffusers', of_diffusers),
    ('ldmseg_ldm', of_ldmseg),
    ('semflow', of_semflow),
  ],
)
def test_the_originals(shared, source, read, dtype, bound):
  folder = shared / 'oracles' / source
  file, config, cases = read(folder)
  tensors = torch_files.read(folder / f'{file}.safetensors')
  module, plan = part.plan(pretrained.PART, tensors, config)
  with jax.enable_x64(dtype == 'float64'):
    module = module.clone(dtype=jnp.dtype(dtype))
    variables = jax.tree.map(
      lambda leaf: jnp.asarray(leaf, dtype), plan.tree(tensors)
    )
    apply = jax.jit(module.apply, compiler_options=QUICK)
    for i, (x, time, context, wanted) in enumerate(cases):
      if context is not None:
        context = jnp.asarray(context, dtype)
      x, time = jnp.asarray(nhwc(x), dtype), jnp.asarray(time, dtype)
      with jax.default_matmul_precision('highest'):
        out = apply(variables, x, time, context)
      name = f'{source}/{file}/{dtype}'
      parity.check(name, f'out {i}', out, nhwc(wanted), bound=bound)


def test_the_time_code_of_diffusers(shared):
  path = shared / 'oracles' / 'diffusers' / 'unet_small_in4.npz'
  z = oracles.load_npz(path)
  code = time_code(jnp.asarray(z['timestep']), 16)
  name = 'diffusers/unet_small_in4'
  wanted = z['trace/time_proj']
  parity.check(name, 'time_proj', code[: len(wanted)], wanted, bound=2e-6)


def test_options_of_the_time_code():
  time = jnp.array([0, 3, 999])
  plain, other = (time_code(time, 8, flip_sin_to_cos=b) for b in (True, False))
  np.testing.assert_array_equal(plain, jnp.roll(other, 4, -1))
  np.testing.assert_array_equal(time_code(time, 9)[:, 8], 0)
  whole = time_code(time.astype(jnp.float32), 8)
  np.testing.assert_array_equal(plain, whole)
  last = time_code(jnp.array([1e4]), 8, freq_shift=1)[0, 3]
  np.testing.assert_allclose(last, np.cos(1), rtol=1e-5)


@pytest.mark.parametrize(
  'fields, count, tensors',
  [
    ({}, 859_520_964, 686),
    ({'in_channels': 12, 'context_dim': None}, 815_556_484, 574),
    (
      {'num_heads': (5, 10, 20, 20), 'context_dim': 1024, 'linear': True},
      865_910_724,
      686,
    ),
  ],
)
def test_published_sizes(fields, count, tensors):
  module = SDUNet(**fields)
  leaves = jax.tree.leaves(pretrained.shapes_of(module))
  assert sum(math.prod(leaf.shape) for leaf in leaves) == count
  assert len(leaves) == tensors


def test_time_may_be_one_for_all_and_bfloat16_keeps_wide_results():
  x = jax.random.normal(jax.random.key(0), (2, 4, 6, 4))
  context = jax.random.normal(jax.random.key(1), (2, 3, 6))
  variables = oracles.random_variables(TINY, x, 0.0, context)

  def run(time, **fields):
    module = TINY.clone(**fields)
    apply = jax.jit(module.apply, compiler_options=QUICK)
    return apply(variables, x, time, context)

  plain = run(jnp.array([7.0, 7.0]))
  np.testing.assert_allclose(run(jnp.asarray(7)), plain, atol=1e-5)
  assert np.abs(run(jnp.array([7.0, 7.5])) - plain).max() > 1e-5
  narrow = run(jnp.asarray(7.0), dtype=jnp.bfloat16)
  assert narrow.dtype == jnp.float32
  assert parity.relative_error(narrow, plain) < 0.05


def test_remat_and_dropout():
  module = SDUNet(
    channels=(8,),
    has_attention=(False,),
    num_layers=1,
    num_heads=1,
    context_dim=None,
    groups=4,
    dropout=0.5,
  )
  x = jax.random.normal(jax.random.key(0), (1, 4, 4, 4))
  variables = oracles.random_variables(module, x, 0.0)

  def loss(variables, remat, train):
    rngs = {'dropout': jax.random.key(3)}
    out = module.clone(remat=remat).apply(
      variables, x, 3.0, train=train, rngs=rngs
    )
    return jnp.sum(out**2), out

  grad = jax.jit(
    jax.grad(loss, has_aux=True),
    static_argnums=(1, 2),
    compiler_options=QUICK,
  )
  (wanted, out), (found, same) = (
    grad(variables, remat, True) for remat in (False, True)
  )
  np.testing.assert_allclose(out, same, atol=1e-5)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4),
    wanted,
    found,
  )
  assert np.abs(grad(variables, False, False)[1] - out).max() > 1e-2


@pytest.mark.parametrize(
  'fields, shape, context, words',
  [
    ({}, (1, 5, 4, 4), 6, 'the map is 5x4: 2 levels halve it 1 times'),
    ({}, (1, 4, 4, 8), 6, 'x has 8 channels, but in_channels=4'),
    ({}, (1, 4, 4, 4), None, 'context_dim=6, but the context is missing'),
    ({}, (1, 4, 4, 4), 7, 'the context has 7 features'),
    ({'context_dim': None}, (1, 4, 4, 4), 6, 'or none where context_dim is'),
    ({'groups': 3}, (1, 4, 4, 4), 6, 'must all be multiples of groups=3'),
    ({'num_heads': (2,)}, (1, 4, 4, 4), 6, 'needs one entry for each'),
    ({'num_heads': 3}, (1, 4, 4, 4), 6, 'num_heads=3 must divide channels=8'),
    ({'attention': 'fast'}, (1, 4, 4, 4), 6, "attention='fast' is unknown"),
  ],
)
def test_refused(fields, shape, context, words):
  module = TINY.clone(**fields)
  if context is not None:
    context = jnp.zeros((1, 3, context))
  with pytest.raises(ValueError, match=words):
    jax.eval_shape(
      lambda: module.init(jax.random.key(0), jnp.zeros(shape), 0.0, context)
    )
