"""Stable Diffusion's UNet: the originals' numbers, sizes and laws."""

import collections
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import parity
import pytest
from flax import traverse_util

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


# What the oracles trace, of the first two examples, and our modules.
TRACES = {
  'trace/time_embedding': 'time_embedding',
  'trace/conv_in': 'conv_in',
  'trace/down_0_resnet_0': 'down_blocks_0/resnets_0',
  'trace/down_0_attn_0': 'down_blocks_0/attentions_0',
  **{f'trace/down_{i}': f'down_blocks_{i}' for i in range(4)},
  'trace/mid_block': 'mid_block',
  **{f'trace/up_{i}': f'up_blocks_{i}' for i in range(4)},
  'trace/conv_norm_out': 'conv_norm_out',
}
# Of `out_float_t`. The files do not hold them: they are where the error of
# each example falls from 1e-2 to 1e-6.
FLOAT_TIMES = [0.5, 421.25, 998.75]
GRADIENTS = 1e-4


def nhwc(x):
  """NCHW -> NHWC; vectors as they are."""
  return np.moveaxis(x, 1, -1) if x.ndim == 4 else x


@pytest.fixture(
  params=[('float32', 8e-6), ('float64', 2e-6)], ids=lambda p: p[0]
)
def precision(request):
  """(type, bound)."""
  with (
    jax.enable_x64(request.param[0] == 'float64'),
    jax.default_matmul_precision('highest'),
  ):
    yield request.param


def original(root, name, config, dtype):
  """(module, variables) of a file of weights, by way of the converter."""
  tensors = torch_files.read(root / f'{name}.safetensors')
  module, plan = part.plan(pretrained.PART, tensors, config)
  return module.clone(dtype=jnp.dtype(dtype)), plan.tree(tensors, dtype)


def check_blocks(name, module, variables, z, inputs, dtype, bound):
  """Three runs, the first of them block by block."""

  def run(variables, x, time, *context):
    return module.apply(
      variables, x, time, *context, capture_intermediates=True, mutable=True
    )

  run = jax.jit(run, compiler_options=QUICK)
  x, time, *context = inputs
  for key, times in (
    ('out', time),
    ('out_scalar_t500', [500] * 3),
    ('out_float_t', FLOAT_TIMES),
  ):
    # The original's code of time is in float32, whatever the network's type.
    times = jnp.asarray(times, jnp.float32)
    maps = (jnp.asarray(v, dtype) for v in (nhwc(x), *context))
    out, found = run(variables, next(maps), times, *maps)
    parity.check(name, f'{key} {dtype}', out, nhwc(z[key]), bound=bound)
    if key == 'out':
      taps = traverse_util.flatten_dict(found['intermediates'], sep='/')
  for key in TRACES.keys() & z.keys():
    ours = taps[f'{TRACES[key]}/__call__'][0]
    ours = ours[0] if isinstance(ours, tuple) else ours  # DownBlock's map
    expected = nhwc(z[key])
    ours = ours[: len(expected)]
    parity.check(name, f'{key} {dtype}', ours, expected, bound=bound)


def test_diffusers(shared, precision):
  root, name = shared / 'oracles', 'diffusers/unet_small_in4'
  config = json.loads((root / f'{name}.config.json').read_text())
  module, variables = original(root, name, config, precision[0])
  z = oracles.load_npz(root / f'{name}.npz')
  inputs = [z[k] for k in ('sample', 'timestep', 'encoder_hidden_states')]
  assert set(TRACES) < z.keys()
  check_blocks(name, module, variables, z, inputs, *precision)


def test_ldmseg(shared, precision):
  """Twelve channels in, and no attention to a context; weights alone."""
  root, name = shared / 'oracles', 'ldmseg_ldm/u12_small'
  config = {'attention_head_dim': 4, 'norm_num_groups': 8}
  module, variables = original(root, name, config, precision[0])
  assert module.in_channels == 12 and module.context_dim is None
  z = oracles.load_npz(root / f'{name}.npz')
  check_blocks(name, module, variables, z, [z['x'], z['t']], *precision)


def semflow(root, dtype):
  """(module, variables, {kind: what is recorded}, their loss)."""
  folder = root / 'oracles' / 'semflow'
  config = json.loads((folder / 'meta.json').read_text())['unet']['config']
  module, variables = original(folder, 'unet', config, dtype)
  z = oracles.load_npz(folder / 'train_and_sample.npz')
  context = jnp.asarray(np.broadcast_to(z['null_condition'], (2, 7, 32)), dtype)
  batches = {
    kind: {
      key.removeprefix(f'{kind}/'): nhwc(value)
      for key, value in z.items()
      if key.startswith(f'{kind}/')
    }
    for kind in ('continuous', 'discrete')
  }

  def loss(variables, batch):
    x, target = (
      jnp.asarray(batch[key], dtype) for key in ('perturb_latent', 'target')
    )
    out = module.apply(variables, x, batch['unet_timesteps'], context)
    return jnp.mean((out - target) ** 2), out

  return module, variables, batches, loss


INPUTS = ('perturb_latent', 'unet_timesteps', 'target')


def test_semflow_in_float64(shared):
  """At times whole and not."""
  with jax.enable_x64(True):
    _, variables, batches, loss = semflow(shared, 'float64')
    run = jax.jit(loss, compiler_options=QUICK)
    for kind, theirs in batches.items():
      batch = {key: np.float32(theirs[key]) for key in INPUTS}
      _, out = run(variables, batch)
      key, expected = f'{kind}/model_pred', theirs['model_pred']
      parity.check('semflow/train', f'{key} float64', out, expected, bound=2e-6)


def test_semflow_trains(shared):
  """The velocity, the loss and its gradients, in float32."""
  module, variables, batches, loss = semflow(shared, 'float32')
  run = jax.value_and_grad(loss, has_aux=True)
  run = jax.jit(run, compiler_options=QUICK)
  for kind, theirs in batches.items():
    with jax.default_matmul_precision('highest'):
      batch = {key: np.float32(theirs[key]) for key in INPUTS}
      (value, out), grads = run(variables, batch)
    leaves = [np.asarray(leaf, np.float64) for leaf in jax.tree.leaves(grads)]
    ours = {
      f'grad/{entry.name}': nhwc(make())
      for entry, _, make in part.to_theirs(pretrained.PART, module, grads)
    }
    ours |= {
      'model_pred': out,
      'loss': value,
      'grad_norm': np.sqrt(sum(np.sum(leaf**2) for leaf in leaves)),
    }
    bounds = {'model_pred': 8e-6, 'loss': 8e-6, 'grad_norm': GRADIENTS}
    bounds |= {k: GRADIENTS for k in theirs if k.startswith('grad/')}
    assert len(bounds) == 3 + 5
    for key, bound in bounds.items():
      name = f'{kind}/{key} float32'
      parity.check('semflow/train', name, ours[key], theirs[key], bound=bound)


def test_the_time_code_of_diffusers(shared):
  path = shared / 'oracles' / 'diffusers' / 'unet_small_in4.npz'
  z = oracles.load_npz(path)
  code = time_code(jnp.asarray(z['timestep']), 16)
  name = 'diffusers/unet_small_in4'
  expected = z['trace/time_proj']
  parity.check(name, 'time_proj', code[: len(expected)], expected, bound=2e-6)


def test_options_of_the_time_code():
  time = jnp.array([0, 3, 999])
  plain, other = (time_code(time, 8, flip_sin_to_cos=b) for b in (True, False))
  np.testing.assert_array_equal(plain, jnp.roll(other, 4, -1))
  np.testing.assert_array_equal(time_code(time, 9)[:, 8], 0)
  whole = time_code(time.astype(jnp.float32), 8)
  np.testing.assert_array_equal(plain, whole)
  last = time_code(jnp.array([1e4]), 8, freq_shift=1)[0, 3]
  np.testing.assert_allclose(last, np.cos(1), rtol=1e-5)


def test_the_default_is_stable_diffusion_1():
  """Other published sizes: tests/pretrained/test_sd_unet.py."""
  x, context = jnp.zeros((1, 64, 96, 4)), jnp.zeros((1, 77, 768))
  out, variables = jax.eval_shape(
    lambda: SDUNet().init_with_output(jax.random.key(0), x, 1.5, context)
  )
  assert out.shape == (1, 64, 96, 4)
  leaves = jax.tree.leaves(variables)
  assert sum(math.prod(leaf.shape) for leaf in leaves) == 859_520_964
  assert len(leaves) == 686


def test_bfloat16_keeps_wide_results():
  """Each example has its own time; sides need not be equal."""
  x = jax.random.normal(jax.random.key(0), (2, 4, 6, 4))
  context = jax.random.normal(jax.random.key(1), (2, 3, 6))
  variables = oracles.random_variables(TINY, x, 0.0, context)

  def compiled(**fields):
    return jax.jit(TINY.clone(**fields).apply, compiler_options=QUICK)

  run, time = compiled(), jnp.array([7.0, 7.5])
  plain = run(variables, x, time, context)
  swapped = run(variables, x[::-1], time[::-1], context[::-1])
  np.testing.assert_allclose(swapped[::-1], plain, atol=1e-5)
  other = run(variables, x, jnp.array([7.0, 7.0]), context)
  np.testing.assert_allclose(other[0], plain[0], atol=1e-5)
  assert jnp.abs(other[1] - plain[1]).max() > 1e-4
  narrow = compiled(dtype=jnp.bfloat16)(variables, x, time, context)
  assert narrow.dtype == jnp.float32
  assert 0 < parity.relative_error(narrow, plain) < 0.05


def test_times():
  """A number, one for all or one for each; not those of other examples."""

  def trace(time):
    x, context = jnp.zeros((2, 2, 2, 4)), jnp.zeros((2, 3, 6))
    return jax.eval_shape(
      lambda: TINY.init_with_output(jax.random.key(0), x, time, context)[0]
    )

  for time in (3, jnp.zeros(1, int)):
    assert trace(time).shape == (2, 2, 2, 4)
  for time in (jnp.zeros(3), jnp.zeros((2, 1))):
    with pytest.raises(ValueError, match=r'time has shape .* 2 examples'):
      trace(time)


def equations(jaxpr):
  """The names of all of a jaxpr's operations, nested ones too."""
  for eqn in jaxpr.eqns:
    yield eqn.primitive.name
    for value in jax.tree.leaves(
      eqn.params, is_leaf=lambda v: hasattr(v, 'eqns') or hasattr(v, 'jaxpr')
    ):
      inner = getattr(value, 'jaxpr', value)
      if hasattr(inner, 'eqns'):
        yield from equations(inner)


def test_options_reach_all_blocks():
  x, context = jnp.zeros((1, 2, 4, 4)), jnp.zeros((1, 3, 6))
  variables = pretrained.shapes_of(TINY)

  def found(**change):
    module = TINY.clone(**change)
    jaxpr = jax.make_jaxpr(module.apply)(variables, x, 3.0, context)
    return collections.Counter(equations(jaxpr.jaxpr))

  # Down, in the middle, up.
  resnets, transformers = 2 + 2 + 4, 1 + 1 + 2
  plain = found()
  assert plain['remat2'] == plain['scan'] == 0
  assert found(remat=True)['remat2'] == resnets + transformers
  # Two attentions in each, and each a loop over heads and one over queries.
  assert found(attention='chunked')['scan'] == 2 * 2 * transformers


def test_remat_and_dropout():
  module = SDUNet(
    channels=(8,),
    has_attention=(False,),
    num_layers=0,
    num_heads=1,
    context_dim=None,
    groups=4,
    dropout=0.5,
  )
  x = jax.random.normal(jax.random.key(0), (1, 4, 4, 4))
  variables = oracles.random_variables(module, x, 0.0)

  def grad(remat):
    def loss(variables, key):
      out = module.clone(remat=remat).apply(
        variables, x, 3.0, train=True, rngs={'dropout': key}
      )
      return jnp.sum(out**2), out

    return jax.jit(jax.grad(loss, has_aux=True), compiler_options=QUICK)

  plain, key = grad(False), jax.random.key(3)
  (expected, out), (found, same) = (
    plain(variables, key),
    grad(True)(variables, key),
  )
  np.testing.assert_allclose(out, same, atol=1e-5)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4),
    expected,
    found,
  )
  other = plain(variables, jax.random.key(4))[1]
  assert np.abs(other - out).max() > 1e-2
  # In evaluation none is drawn, or asked for.
  jaxprs = (
    str(jax.make_jaxpr(net.apply)(variables, x, 3.0))
    for net in (module, module.clone(dropout=0.0))
  )
  assert len(set(jaxprs)) == 1


@pytest.mark.parametrize(
  'fields, shape, context, words',
  [
    ({}, (1, 5, 4, 4), 6, 'the map is 5x4: 2 levels halve it 1 times'),
    ({}, (1, 4, 4, 8), 6, 'x has 8 channels, but in_channels=4'),
    ({}, (1, 4, 4, 4), None, 'context_dim=6, but the context is missing'),
    ({}, (1, 4, 4, 4), 7, 'the context has 7 features'),
    ({'context_dim': None}, (1, 4, 4, 4), 6, 'or none where context_dim is'),
    ({}, (2, 4, 4, 4), 6, 'context is of 1 examples and x of 2; repeat'),
    ({'channels': ()}, (1, 4, 4, 4), 6, 'channels=.* one level at least'),
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
