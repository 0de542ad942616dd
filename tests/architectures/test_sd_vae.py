"""Stable Diffusion's autoencoder: the originals' numbers, counts, laws."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import parity
import pytest

from pix2seqd_jax.architectures import sd_vae
from pix2seqd_jax.pretrained import part, torch_files
from pix2seqd_jax.pretrained import sd_vae as pretrained

SCALE = 0.18215
FLOAT32, FLOAT64 = 8e-6, 2e-6
# Two oracles are float32 themselves by more than that: diffusers in float64,
# to which ours is equal to 6e-15, is 2.3e-6 from both.
FLOORS = {
  ('diffusers/vae_b', 'dec'): 3e-6,
  ('semflow/vae', 'vae_decode_of_seg25'): 3e-6,
}

TINY = sd_vae.SDVAE(block_out_channels=(8, 8), layers_per_block=1, groups=4)


def image(*shape, seed=0):
  values = np.random.default_rng(seed).uniform(-1, 1, size=shape)
  return jnp.asarray(values, jnp.float32)


# One size for all laws, not square: each further one is compiled.
X, Z = image(1, 4, 6, 3), image(1, 2, 3, 4)


@pytest.fixture(autouse=True)
def full_precision():
  with jax.default_matmul_precision('highest'):
    yield


@pytest.fixture(scope='module')
def tiny():
  """TINY's variables."""
  return oracles.random_variables(TINY, X)


def nhwc(x):
  """NCHW -> NHWC, of jax."""
  return jnp.moveaxis(jnp.asarray(x), 1, -1)


def run(function, *inputs):
  """Compiled without optimisation, which takes longer than the network."""
  options = {'xla_backend_optimization_level': 0}
  compiled = jax.jit(function).lower(*inputs).compile(options)
  return compiled(*inputs)


class Original:
  """A network with an oracle's weights, through the converter."""

  def __init__(self, root, name, weights, config, dtype):
    tensors = torch_files.read(root / weights)
    module, plan = part.plan(pretrained.PART, tensors, config)
    self.name, self.dtype = name, dtype
    self.module = module.clone(dtype=dtype)
    self.variables = plan.tree(tensors, dtype)

  def check(self, function, theirs, **inputs):
    """Compares what `function(module with weights, **inputs)` returns.

    Inputs are NCHW, as `theirs` are.
    """

    def compute(variables, inputs):
      return function(self.module.bind(variables), **inputs)

    inputs = {k: nhwc(v).astype(self.dtype) for k, v in inputs.items()}
    dtype = np.dtype(self.dtype).name
    for key, ours in run(compute, self.variables, inputs).items():
      expected = theirs[key]
      bound = FLOAT32
      if self.dtype == np.float64:
        bound = FLOORS.get((self.name, key), FLOAT64)
      expected = nhwc(expected) if expected.ndim == 4 else expected
      parity.check(self.name, f'{key} {dtype}', ours, expected, bound=bound)


@pytest.fixture(params=[np.float32, np.float64], ids=['float32', 'float64'])
def original(request, shared):
  """(name, file of weights, config) -> the network, in both precisions."""
  with jax.enable_x64(request.param == np.float64):
    yield lambda *names: Original(shared / 'oracles', *names, request.param)


def test_diffusers(original, shared):
  folder = shared / 'oracles' / 'diffusers'
  config = json.loads((folder / 'vae_b.config.json').read_text())
  theirs = oracles.load_npz(folder / 'vae_b.npz')

  def compute(vae, x, noise, z_scaled, z_rect):
    posterior = vae.encode(x)
    return {
      'mean': posterior.mean,
      'logvar': posterior.logvar,
      'std': posterior.std,
      'sample': posterior.sample(noise=noise),
      'z_scaled': posterior.mode(SCALE),
      'kl': posterior.kl(),
      'dec': vae.decode(z_scaled, SCALE),
      'dec_rect': vae.decode(z_rect),
    }

  vae = original('diffusers/vae_b', 'diffusers/vae_b.safetensors', config)
  inputs = ('x', 'noise', 'z_scaled', 'z_rect')
  vae.check(compute, theirs, **{name: theirs[name] for name in inputs})


def test_compvis(original, shared):
  """The names of the first files, and the scale of U-ViT and PDM."""
  theirs = oracles.load_npz(shared / 'oracles/uvit/compvis_ae.npz')

  def compute(vae, img, noise, z):
    posterior = vae.encode(img)
    return {
      'moments': jnp.concatenate([posterior.mean, posterior.logvar], axis=-1),
      'z': posterior.sample(noise=noise, scale=0.2301),
      'dec': vae.decode(z, 0.2301),
    }

  vae = original('uvit/compvis_ae', 'uvit/compvis_ae.safetensors', None)
  inputs = ('img', 'noise', 'z')
  vae.check(compute, theirs, **{name: theirs[name] for name in inputs})


def test_semflow(original, shared):
  folder = shared / 'oracles' / 'semflow'
  config = json.loads((folder / 'meta.json').read_text())['vae']['config']
  theirs = oracles.load_npz(folder / 'train_and_sample.npz')

  def compute(vae, images, noise, z):
    both = vae.encode(images)
    rgb, mask = (
      sd_vae.Posterior(both.mean[some], both.logvar[some])
      for some in (slice(2), slice(2, 4))
    )
    return {
      'rgb_moments_mean': rgb.mean,
      'rgb_moments_logvar': rgb.logvar,
      'rgb_latents_mode': rgb.mode(SCALE),
      'rgb_latents_z0': rgb.sample(noise=noise, scale=SCALE),
      'mask_latents': mask.mode(SCALE),
      'vae_decode_of_seg25': vae.decode(z, SCALE),
    }

  vae = original('semflow/vae', 'semflow/vae.safetensors', config)
  vae.check(
    compute,
    theirs,
    images=np.concatenate([theirs['image'], theirs['perturbed_semseg']]),
    noise=theirs['rng/01_randn'],
    z=theirs['sample_seg/steps25_final'],
  )


def test_ldmseg(original, shared):
  """An encoder alone, in diffusers' old names; images in [0, 1]."""
  folder = shared / 'oracles' / 'ldmseg_ldm'
  config = json.loads((folder / 'meta.json').read_text())['vae_image']['config']
  theirs = oracles.load_npz(folder / 'pipe_u12_small.npz')

  def compute(vae, x):
    return {'rgb_latents': vae.encode(2 * x - 1).mode(SCALE)}

  name = 'ldmseg_ldm/pipe_vae_image'
  vae = original(name, f'{name}.safetensors', config)
  assert vae.module.parts == ('encoder',)
  vae.check(compute, theirs, x=theirs['image'])


def test_counts():
  def count(**kwargs):
    tree = pretrained.shapes(sd_vae.SDVAE(**kwargs))
    sizes = {
      name: sum(leaf.size for leaf in jax.tree.leaves(part))
      for name, part in tree['params'].items()
    }
    return sizes, len(jax.tree.leaves(tree))

  whole, num_tensors = count()
  assert sum(whole.values()) == 83_653_863 and num_tensors == 248
  assert whole == {
    'encoder': 34_163_592,
    'decoder': 49_490_179,
    'quant_conv': 72,
    'post_quant_conv': 20,
  }
  encoder, _ = count(parts=('encoder',))
  decoder, _ = count(parts=('decoder',))
  assert encoder == {k: whole[k] for k in ('encoder', 'quant_conv')}
  assert decoder == {k: whole[k] for k in ('decoder', 'post_quant_conv')}


def test_posterior():
  moments = image(2, 3, 5, 8) * 100
  posterior = sd_vae.Posterior.from_moments(moments)
  np.testing.assert_array_equal(posterior.mean, moments[..., :4])
  np.testing.assert_array_equal(
    posterior.logvar, jnp.clip(moments[..., 4:], -30, 20)
  )
  assert posterior.logvar.min() == -30 and posterior.logvar.max() == 20

  standard = sd_vae.Posterior.from_moments(jnp.zeros((2, 3, 5, 8)))
  np.testing.assert_array_equal(standard.kl(), [0, 0])
  # KL(N(m, s^2) || N(0, 1)) = (m^2 + s^2 - 1) / 2 - log s at 60 places.
  wide = sd_vae.Posterior(
    jnp.full((1, 3, 5, 4), 3.0), jnp.full((1, 3, 5, 4), 2 * np.log(2))
  )
  np.testing.assert_allclose(wide.kl(), 60 * (6 - np.log(2)), rtol=1e-6)
  np.testing.assert_allclose(wide.std, 2, rtol=1e-6)

  draws = [wide.sample(jax.random.key(i)) for i in (0, 0, 1)]
  np.testing.assert_array_equal(draws[0], draws[1])
  assert not np.any(draws[0] == draws[2])
  np.testing.assert_allclose(
    wide.sample(jax.random.key(0), scale=0.5), draws[0] / 2, rtol=1e-6
  )
  normal = (draws[0] - 3) / 2
  np.testing.assert_allclose(wide.sample(noise=normal), draws[0], rtol=1e-5)
  assert abs(normal.mean()) < 0.5 and 0.7 < normal.std() < 1.3
  for arguments in ({}, {'rng': jax.random.key(0), 'noise': normal}):
    with pytest.raises(ValueError, match='either rng or noise'):
      wide.sample(**arguments)


def test_scales_cancel(tiny):
  z = Z
  posterior = sd_vae.Posterior(z, jnp.zeros_like(z))
  latents = posterior.mode(0.25)  # exact in float32
  np.testing.assert_array_equal(latents, z / 4)

  def decode(z, scale):
    return TINY.apply(tiny, z, scale, method='decode')

  plain = decode(z, 1)
  np.testing.assert_array_equal(decode(latents, 0.25), plain)
  # A scale that is learned or read from a file is a value under jit.
  assert jax.eval_shape(decode, latents, jnp.float32(0.25)).shape == X.shape
  compiled = jax.jit(lambda scale: posterior.mode(scale))(jnp.float32(0.25))
  np.testing.assert_array_equal(compiled, latents)


@pytest.mark.parametrize('scale', [0, -0.18215, float('nan'), float('inf')])
def test_scales_that_cannot_be(tiny, scale):
  posterior = sd_vae.Posterior(Z, Z)
  for function in (
    lambda: posterior.mode(scale),
    lambda: posterior.sample(noise=Z, scale=scale),
    lambda: TINY.apply(tiny, Z, scale, method='decode'),
  ):
    with pytest.raises(ValueError, match='must be positive'):
      function()


def test_sizes(tiny):
  posterior = TINY.apply(tiny, X, method='encode')
  assert posterior.mean.shape == posterior.logvar.shape == Z.shape
  decoded = TINY.apply(tiny, posterior.mode(), method='decode')
  assert decoded.shape == X.shape
  np.testing.assert_array_equal(TINY.apply(tiny, X), decoded)


@pytest.mark.parametrize(
  'method, shape, message',
  [
    ('encode', (1, 6, 9, 3), '6x9 pixels .* divisible by 2'),
    ('encode', (1, 6, 8, 4), 'height, width, 3'),
    ('decode', (1, 6, 8, 3), 'height, width, 4'),
  ],
)
def test_wrong_images(tiny, method, shape, message):
  with pytest.raises(ValueError, match=message):
    TINY.apply(tiny, jnp.zeros(shape), method=method)


@pytest.mark.parametrize(
  'change, message',
  [
    ({'groups': 3}, 'groups=3'),
    ({'block_out_channels': ()}, 'block_out_channels'),
    ({'parts': ()}, 'must hold one or both'),
    ({'parts': ('encoder', 'middle')}, 'must hold one or both'),
    ({'attention': 'fast'}, "attention='fast'"),
  ],
)
def test_wrong_options(tiny, change, message):
  with pytest.raises(ValueError, match=message):
    TINY.clone(**change).apply(tiny, X)


def test_halves(tiny):
  """Each has its own parameters only, and does what the whole does."""
  inputs = {'encoder': X, 'decoder': Z}
  names = {
    'encoder': {'encoder', 'quant_conv'},
    'decoder': {'decoder', 'post_quant_conv'},
  }
  for half, method, other in (
    ('encoder', 'encode', 'decode'),
    ('decoder', 'decode', 'encode'),
  ):
    module, x = TINY.clone(parts=(half,)), inputs[half]
    params = {name: tiny['params'][name] for name in names[half]}
    shapes = jax.eval_shape(module.init, jax.random.key(0), x)
    assert shapes['params'].keys() == names[half]
    ours = module.apply({'params': params}, x, method=method)
    # The whole network needs no parameters of the half that is not used.
    whole = TINY.apply({'params': params}, x, method=method)
    jax.tree.map(np.testing.assert_array_equal, ours, whole)
    with pytest.raises(ValueError, match=f'has no {other[:5]}'):
      module.apply(tiny, inputs['encoder'], method=other)


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


def test_options_reach_all_blocks(tiny):
  def count(name, **change):
    module = TINY.clone(**change)
    jaxpr = jax.make_jaxpr(module.apply)(tiny, X)
    return list(equations(jaxpr.jaxpr)).count(name)

  # Residual blocks: 2 and 4, and 2 in the middle of each half; attention.
  assert count('remat2', remat=True) == 2 + 4 + 2 * (2 + 1)
  assert count('remat2') == 0
  assert count('scan', attention='chunked') == 2
  assert count('scan') == 0


def test_remat(tiny):
  """The same gradients, of the blocks in the middle."""
  module = TINY.clone(block_out_channels=(8,), layers_per_block=0)
  params = tiny['params']
  params = {
    'quant_conv': params['quant_conv'],
    'encoder': {k: v for k, v in params['encoder'].items() if 'down' not in k},
  }

  def grad(module):
    def loss(params):
      posterior = module.apply({'params': params}, X, method='encode')
      return (posterior.mean**2 + posterior.logvar).sum()

    return run(jax.grad(loss), params)

  ours, theirs = grad(module.clone(remat=True)), grad(module)
  largest = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(theirs))
  assert largest > 1
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6 * largest),
    ours,
    theirs,
  )


def test_bfloat16(tiny):
  """Only the computation: moments and images stay float32."""
  module = TINY.clone(dtype=jnp.bfloat16)
  shapes = jax.eval_shape(module.init, jax.random.key(0), X)
  assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(shapes))

  assert jax.eval_shape(module.apply, tiny, X).dtype == jnp.float32

  def mean(variables):
    return module.apply(variables, X, method='encode').mean

  ours, theirs = run(mean, tiny), TINY.apply(tiny, X, method='encode').mean
  assert ours.dtype == jnp.float32
  assert 0 < parity.relative_error(ours, theirs) < 0.03
