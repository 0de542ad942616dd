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


@pytest.fixture(autouse=True)
def full_precision():
  with jax.default_matmul_precision('highest'):
    yield


@pytest.fixture(scope='module')
def tiny():
  """TINY's variables."""
  return oracles.random_variables(TINY, jnp.zeros((1, 4, 4, 3)))


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

  def encode(self, x):
    return run(self._encode, self.variables, nhwc(x).astype(self.dtype))

  def decode(self, z, scale=1.0):
    def decode(variables, z):
      return self.module.apply(variables, z, scale, method='decode')

    return run(decode, self.variables, nhwc(z).astype(self.dtype))

  def _encode(self, variables, x):
    return self.module.apply(variables, x, method='encode')

  def check(self, key, ours, theirs):
    theirs = nhwc(theirs) if theirs.ndim == 4 else theirs
    bound = FLOAT32
    if self.dtype == np.float64:
      bound = FLOORS.get((self.name, key), FLOAT64)
    name = np.dtype(self.dtype).name
    parity.check(self.name, f'{key} {name}', ours, theirs, bound=bound)


@pytest.fixture(params=[np.float32, np.float64], ids=['float32', 'float64'])
def original(request, shared):
  """(name, file of weights, config) -> the network, in both precisions."""
  with jax.enable_x64(request.param == np.float64):
    yield lambda *names: Original(shared / 'oracles', *names, request.param)


def test_diffusers(original, shared):
  folder = shared / 'oracles' / 'diffusers'
  config = json.loads((folder / 'vae_b.config.json').read_text())
  vae = original('diffusers/vae_b', 'diffusers/vae_b.safetensors', config)
  theirs = oracles.load_npz(folder / 'vae_b.npz')
  posterior = vae.encode(theirs['x'])
  noise = nhwc(theirs['noise']).astype(vae.dtype)
  for key, ours in (
    ('mean', posterior.mean),
    ('logvar', posterior.logvar),
    ('std', posterior.std),
    ('sample', posterior.sample(noise=noise)),
    ('z_scaled', posterior.mode(SCALE)),
    ('kl', posterior.kl()),
  ):
    vae.check(key, ours, theirs[key])
  vae.check('dec', vae.decode(theirs['z_scaled'], SCALE), theirs['dec'])
  vae.check('dec_rect', vae.decode(theirs['z_rect']), theirs['dec_rect'])


def test_compvis(original, shared):
  """The names of the first files, and the scale of U-ViT and PDM."""
  vae = original('uvit/compvis_ae', 'uvit/compvis_ae.safetensors', None)
  theirs = oracles.load_npz(shared / 'oracles/uvit/compvis_ae.npz')
  posterior = vae.encode(theirs['img'])
  moments = jnp.concatenate([posterior.mean, posterior.logvar], axis=-1)
  vae.check('moments', moments, theirs['moments'])
  noise = nhwc(theirs['noise']).astype(vae.dtype)
  vae.check('z', posterior.sample(noise=noise, scale=0.2301), theirs['z'])
  vae.check('dec', vae.decode(theirs['z'], 0.2301), theirs['dec'])


def test_semflow(original, shared):
  folder = shared / 'oracles' / 'semflow'
  config = json.loads((folder / 'meta.json').read_text())['vae']['config']
  vae = original('semflow/vae', 'semflow/vae.safetensors', config)
  theirs = oracles.load_npz(folder / 'train_and_sample.npz')
  pictures = np.concatenate([theirs['image'], theirs['perturbed_semseg']])
  both = vae.encode(pictures)
  rgb, mask = (
    sd_vae.Posterior(both.mean[i], both.logvar[i])
    for i in (slice(2), slice(2, 4))
  )
  noise = nhwc(theirs['rng/01_randn']).astype(vae.dtype)
  for key, ours in (
    ('rgb_moments_mean', rgb.mean),
    ('rgb_moments_logvar', rgb.logvar),
    ('rgb_latents_mode', rgb.mode(SCALE)),
    ('rgb_latents_z0', rgb.sample(noise=noise, scale=SCALE)),
    ('mask_latents', mask.mode(SCALE)),
  ):
    vae.check(key, ours, theirs[key])
  decoded = vae.decode(theirs['sample_seg/steps25_final'], SCALE)
  vae.check('vae_decode_of_seg25', decoded, theirs['vae_decode_of_seg25'])


def test_ldmseg(original, shared):
  """An encoder alone, in diffusers' old names; pictures in [0, 1]."""
  folder = shared / 'oracles' / 'ldmseg_ldm'
  config = json.loads((folder / 'meta.json').read_text())['vae_image']['config']
  vae = original(
    'ldmseg_ldm/pipe_vae_image', 'ldmseg_ldm/pipe_vae_image.safetensors', config
  )
  assert vae.module.parts == ('encoder',)
  theirs = oracles.load_npz(folder / 'pipe_u12_small.npz')
  latents = vae.encode(2 * theirs['image'] - 1).mode(SCALE)
  vae.check('rgb_latents', latents, theirs['rgb_latents'])


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
