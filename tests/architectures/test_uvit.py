"""The original's numbers, a training step and sampling with it, and laws."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import parity
import pytest
from safetensors.numpy import load_file

from pix2seqd_jax.architectures import uvit
from pix2seqd_jax.architectures.uvit import UViT
from pix2seqd_jax.diffusion import guidance, samplers, sampling, schedules
from pix2seqd_jax.diffusion import timesteps as timesteps_lib
from pix2seqd_jax.diffusion.process import Process
from pix2seqd_jax.pretrained import part
from pix2seqd_jax.pretrained import uvit as weights
from pix2seqd_jax.types import Prediction

FORWARD, LOOP = 'uvit/t2i_a.npz', 'uvit/train_sample_t2i.npz'
BOUND, LOOP_BOUND = 2e-6, 1e-4
PROCESS = Process(schedules.StableDiffusion(), 'x1')
# Compiles faster, where that takes the time.
quick_jit = functools.partial(
  jax.jit, compiler_options={'xla_backend_optimization_level': 0}
)


@pytest.fixture(autouse=True)
def full_precision():
  with jax.default_matmul_precision('highest'):
    yield


@pytest.fixture(scope='module')
def original(shared):
  """(module, variables, what the authors' code says of itself)."""
  folder = shared / 'oracles' / 'uvit'
  meta = json.loads((folder / 'meta.json').read_text())['t2i_a']
  tensors = load_file(folder / 't2i_a.safetensors')
  module, plan = part.plan(weights.PART, tensors, meta['config'])
  return module, plan.tree(tensors), meta


def arrays(shared, name):
  """An oracle's, images as [b, h, w, c]."""
  found = oracles.load_npz(shared / 'oracles' / name)
  for key, value in found.items():
    if value.ndim == 4 and 'grad/' not in key:
      value = value.transpose(0, 2, 3, 1)
    found[key] = jnp.asarray(value) if value.dtype == np.float32 else value
  return found


@pytest.fixture(scope='module')
def network(original):
  """(x, time, context) -> the module's output, compiled once for 12."""
  module, variables, _ = original
  m, shape = module, jax.ShapeDtypeStruct
  with jax.default_matmul_precision('highest'):
    run = jax.jit(module.apply).lower(
      variables,
      shape((12, m.image_size, m.image_size, m.in_channels), jnp.float32),
      shape((12,), jnp.float32),
      shape((12, m.context_tokens, m.context_dim), jnp.float32),
    )
    run = run.compile()

  def padded(*inputs):
    num = len(inputs[0])
    rows = np.arange(12) % num
    with jax.disable_jit(False):
      return run(variables, *(jnp.asarray(v)[rows] for v in inputs))[:num]

  return padded


CALLS = (('t', 'out'), ('t', 'out_f64'), ('t_int', 'out_t_int'))


def test_originals_forward_pass(shared, network):
  theirs = arrays(shared, FORWARD)
  for time, key in CALLS:
    time = np.float32(theirs[time])
    ours = network(theirs['x'], time, theirs['context'])
    parity.check(FORWARD, key, ours, theirs[key], BOUND)


def test_originals_forward_pass_unrolled_in_float64(shared, original):
  module, variables, _ = original
  theirs = arrays(shared, FORWARD)
  with jax.enable_x64(True):
    apply = jax.jit(module.clone(dtype=jnp.float64, scan=False).apply)
    for time, key in CALLS:
      time = np.float32(theirs[time])
      ours = apply(variables, theirs['x'], time, theirs['context'])
      assert ours.dtype == jnp.float64
      parity.check(FORWARD, f'{key} float64', ours, theirs[key], BOUND)


def test_half_precision_computes_in_it_and_keeps_parameters(shared, original):
  module, variables, _ = original
  module = module.clone(dtype=jnp.bfloat16)
  theirs = arrays(shared, FORWARD)
  ours = quick_jit(module.apply)(
    variables, theirs['x'], theirs['t'], theirs['context']
  )
  assert ours.dtype == jnp.bfloat16
  assert 1e-4 < parity.relative_error(ours, theirs['out']) < 0.05
  leaves = jax.tree.leaves(weights.shapes(module))
  assert {leaf.dtype for leaf in leaves} == {jnp.dtype('float32')}


@pytest.mark.parametrize(
  'changes', [{}, {'remat': True, 'attention': 'chunked'}], ids=str
)
def test_originals_gradients(shared, original, changes):
  module, variables, meta = original
  module = module.clone(**changes)
  theirs = arrays(shared, FORWARD)

  def loss(variables):
    out = module.apply(variables, theirs['x'], theirs['t'], theirs['context'])
    each = jnp.mean((out - theirs['grad_target']) ** 2, axis=(1, 2, 3))
    return each.mean(), each

  (_, each), tree = quick_jit(jax.value_and_grad(loss, has_aux=True))(variables)
  parity.check(FORWARD, 'loss', each, theirs['loss_per_sample'], LOOP_BOUND)
  ours = {
    entry.name: make()
    for entry, _, make in part.to_theirs(weights.PART, module, tree)
  }
  for key, expected in theirs.items():
    if key.startswith('grad/'):
      value = ours[key.removeprefix('grad/')]
      parity.check(FORWARD, key, value, expected, LOOP_BOUND)
  assert ours.keys() == meta['grad_norms'].keys()
  for name, expected in meta['grad_norms'].items():
    norm = np.linalg.norm(ours[name])
    parity.check(FORWARD, f'norm of grad/{name}', norm, expected, LOOP_BOUND)


def denoiser(network):
  def denoise(x, t, context, previous):
    del previous
    return Prediction(network(x, 1000 * t, context))

  return denoise


def test_originals_training_step_and_guidance(shared, network):
  theirs = arrays(shared, LOOP)
  betas = PROCESS.schedule.betas()
  parity.check(LOOP, 'betas', betas, theirs['betas_f64'], 1e-12)
  gamma = PROCESS.schedule.gamma(np.arange(1001) / 1000)
  parity.check(LOOP, 'alphas', gamma, theirs['cum_alphas_f64'], 1e-12)
  t = jnp.asarray(theirs['n'] / 1000, jnp.float32)
  x_0, x_1, context = (theirs[key] for key in ('x0', 'eps', 'context'))
  x_t = PROCESS.mix(x_0, x_1, t)
  parity.check(LOOP, 'xn', x_t, theirs['xn'], BOUND)
  found = denoiser(network)(x_t, t, context, None).value
  error = (found - PROCESS.regression_target(x_0, x_1, t)) ** 2
  parity.check(LOOP, 'lsimple', error.mean((1, 2, 3)), theirs['lsimple'], BOUND)
  null = theirs['empty_context'][None]
  for scale, key in (1, 'cfg_scale1'), (3.5, 'cfg_scale3p5'):
    guided = guidance.guide(denoiser(network), context, null, 1 + scale)
    value = guided(theirs['xn'], t, None).value
    # The difference of the two answers counts `scale` times more.
    parity.check(LOOP, key, value, theirs[key], BOUND * (1 + 2 * scale))


@pytest.mark.parametrize('num_steps', [10, 12, 50])
def test_originals_samples(shared, network, num_steps):
  """Guided, from noise to a latent, by the solver's plan of that length."""
  theirs = arrays(shared, LOOP)
  grid = timesteps_lib.Uniform(end=1e-3).make(PROCESS, num_steps)
  sampler = samplers.SAMPLERS['dpm_singlestep']()
  times = 1000 * sampler.times(PROCESS, grid)
  key = f'sample_steps{num_steps}'
  expected = theirs[f'{key}_model_t'][:, 0]
  parity.check(LOOP, f'{key}_model_t', times, expected, 1e-6)
  null = theirs['empty_context'][None]
  denoise = guidance.guide(denoiser(network), theirs['context'], null, 2.0)
  # The network is compiled already; the loop around it need not be.
  with jax.disable_jit():
    ours = sampling.sample(
      denoise,
      PROCESS,
      theirs['z_init'],
      jax.random.split(jax.random.key(0), 6),
      timesteps=grid,
      sampler=sampler,
      returns='state',
    )
  parity.check(LOOP, key, ours, theirs[key], LOOP_BOUND)


def normal(*shape, seed=0):
  return jnp.asarray(np.random.default_rng(seed).normal(size=shape), 'float32')


X = normal(2, 4, 6, 3)
TIME = jnp.asarray([3.0, 700.5])
CONDITIONS = {
  'text': normal(2, 3, 5, seed=1),
  'classes': jnp.asarray([0, 4]),
  'none': None,
}
FORMS = {
  'text': {'context_tokens': 3, 'context_dim': 5},
  'classes': {'context_tokens': 0, 'num_classes': 5},
  'none': {'context_tokens': 0},
}


def tiny(form='text', **changes):
  fields = {
    'image_size': (4, 6),
    'in_channels': 3,
    'out_channels': 2,
    'width': 8,
    'depth': 4,
    'num_heads': 2,
    'mlp_ratio': 1.5,
    'mlp_time_embed': True,
    'qkv_bias': True,
  }
  return UViT(**(fields | FORMS[form] | changes))


def random(module, form='text'):
  return oracles.random_variables(module, X, TIME, CONDITIONS[form])


@pytest.mark.parametrize('form', FORMS)
def test_forms_and_the_places_of_their_tokens(form):
  """A shift of a token is a shift of the positions where it stands."""
  module = tiny(form, depth=2)
  params = random(module, form)['params']
  run = quick_jit(lambda p, x, t, c: module.apply({'params': p}, x, t, c))
  condition = CONDITIONS[form]
  out = run(params, X, TIME, condition)
  assert out.shape == (2, 4, 6, 2)
  assert jnp.abs(run(params, X, TIME[::-1], condition) - out).max() > 1e-3
  if condition is not None:
    other = run(params, X, TIME, condition[::-1])
    assert (jnp.abs(other - out).max((1, 2, 3)) > 1e-3).all()

  shift = np.linspace(-1, 1, 8, dtype=np.float32)
  slices = {
    'text': {'time_embed_2': [0], 'context_embed': [1, 2, 3]},
    'classes': {'label_emb': [0], 'time_embed_2': [1]},
    'none': {'time_embed_2': [0]},
  }[form]
  num = params['pos_embed'].shape[1]
  slices['patch_embed'] = list(range(num - 6, num))
  assert sorted(i for rows in slices.values() for i in rows) == list(range(num))
  for name, rows in slices.items():
    moved = np.array(params['pos_embed'])
    moved[:, rows] += shift
    there = run(params | {'pos_embed': moved}, X, TIME, condition)
    changed = dict(params[name])
    if name == 'patch_embed':
      changed['proj'] = changed['proj'] | {
        'bias': changed['proj']['bias'] + shift
      }
    else:
      leaf = 'embedding' if name == 'label_emb' else 'bias'
      changed[leaf] = changed[leaf] + shift
    here = run(params | {name: changed}, X, TIME, condition)
    np.testing.assert_allclose(here, there, rtol=1e-4, atol=1e-5)
    assert jnp.abs(here - out).max() > 1e-3


def test_patches_are_the_inverse_of_pixels():
  tokens = jnp.arange(2 * 6 * 12.0).reshape(2, 6, 12)
  pixels = uvit.unpatchify(tokens, (2, 3), 2)
  assert pixels.shape == (2, 4, 6, 3)
  np.testing.assert_array_equal(pixels[0, 2, 4], tokens[0, 5, :3])
  np.testing.assert_array_equal(pixels[0, 2, 5], tokens[0, 5, 3:6])
  kernel = jnp.eye(12).reshape(2, 2, 3, 12)
  params = {'proj': {'kernel': kernel, 'bias': jnp.zeros(12)}}
  embed = uvit.PatchEmbed(2, 12)
  again = embed.apply({'params': params}, pixels)
  np.testing.assert_array_equal(again, tokens)


def test_remat_keeps_less():

  def residuals(**changes):
    module = tiny(depth=8, **changes)
    variables = weights.shapes(module)

    def loss(variables):
      return module.apply(variables, X, TIME, CONDITIONS['text']).sum()

    _, vjp = jax.eval_shape(lambda v: jax.vjp(loss, v), variables)
    return sum(leaf.size for leaf in jax.tree.leaves(vjp))

  assert residuals(remat=True) < 0.8 * residuals()


def test_options_are_arrays_that_are_there_or_not():
  def names(**changes):
    shapes = weights.shapes(tiny(**changes))
    return set(part.shapes_of(weights.PART, shapes))

  fewer = names(skip=False, conv=False, qkv_bias=False, mlp_time_embed=False)
  gone = ('skip_linear', 'final_layer', 'qkv.bias', 'time_embed')
  more = names()
  assert all(any(word in name for name in more) for word in gone)
  assert fewer == {n for n in more if not any(word in n for word in gone)}


def test_a_fresh_network():
  """PyTorch's draws for convolutions, the authors' for all else."""

  @quick_jit
  def draw(key):
    embed = uvit.PatchEmbed(2, 512).init(key, jnp.zeros((1, 4, 4, 4)))
    attention = uvit.Attention(4).init(key, jnp.zeros((1, 1, 64)))
    return embed['params']['proj'], attention['params']

  embed, attention = jax.tree.map(np.asarray, draw(jax.random.key(0)))
  for leaf in embed.values():
    assert 0.245 < np.abs(leaf).max() <= 0.25
    assert abs(leaf.std() - 0.25 / 3**0.5) < 0.01
  assert abs(attention['qkv']['kernel'].std() - 0.02) < 1e-3
  assert not attention['proj']['bias'].any()


def count(module):
  leaves = jax.tree.leaves(weights.shapes(module))
  return sum(leaf.size for leaf in leaves)


def test_number_of_parameters():
  assert count(UViT()) == 44_692_644
  assert count(UViT(depth=16)) == 58_345_636
  assert count(UViT(width=768, depth=16, num_heads=12)) == 130_772_132


@pytest.mark.parametrize(
  ('changes', 'match'),
  [
    ({'depth': 5}, 'depth=5 must be an even number'),
    ({'depth': 0}, 'depth=0 must be an even number'),
    ({'num_heads': 3}, 'width=8 must be a multiple of num_heads=3'),
    ({'image_size': (4, 5)}, 'must be a multiple of patch_size=2'),
    ({'image_size': 4}, r'x \(2, 4, 6, 3\) must be \(2, 4, 4, 3\)'),
    ({'in_channels': 4}, r'x \(2, 4, 6, 3\) must be \(2, 4, 6, 4\)'),
    ({'context_tokens': 77}, r'\(2, 3, 5\) must be \(2, 77, 5\)'),
    ({'num_classes': 3}, 'num_classes=3 and context_tokens=3'),
    ({'context_tokens': 0}, r'must be None, for a network of neither'),
    (FORMS['classes'], r'\(2, 3, 5\) must be \(2,\)'),
    ({'attention': 'flash'}, "attention='flash' is unknown"),
  ],
  ids=str,
)
def test_bad_sizes(changes, match):
  module = tiny(**changes)
  with pytest.raises(ValueError, match=match):
    jax.eval_shape(module.init, jax.random.key(0), X, TIME, CONDITIONS['text'])


@pytest.mark.parametrize(
  ('time', 'labels', 'match'),
  [
    (TIME[:1], jnp.zeros(2, jnp.int32), r'time \(1,\) must be \(2,\)'),
    (TIME, None, r'condition None must be \(2,\)'),
    (TIME, jnp.zeros(2), 'labels must be integers, not float32'),
  ],
  ids=['time', 'none', 'type'],
)
def test_bad_inputs(time, labels, match):
  module = tiny('classes')
  with pytest.raises(ValueError, match=match):
    jax.eval_shape(module.init, jax.random.key(0), X, time, labels)
