"""SemFlow against the release: what it is trained on, a training step, both of
its samplers."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import parity
import pytest
from flax import traverse_util

from pix2seqd_jax.diffusion import samplers
from pix2seqd_jax.diffusion import timesteps as timesteps_lib
from pix2seqd_jax.encoding import anchors
from pix2seqd_jax.models.semflow import SemFlow
from pix2seqd_jax.pretrained import mapping, part, sd_unet, sd_vae, torch_files
from pix2seqd_jax.train import optimizer
from pix2seqd_jax.types import Encoded

ORACLE = 'semflow'
BOUND = 1e-4
# Compiling takes most of the time.
quick = functools.partial(
  jax.jit, compiler_options={'xla_backend_optimization_level': 0}
)


def nhwc(array):
  return jnp.asarray(np.moveaxis(array, 1, -1))


class Compiled(SemFlow):
  """Each network is compiled once, whatever calls it how often."""

  programs: dict = {}

  def _program(self, name, function, *args):
    program = self.programs.setdefault(name, quick(function))
    with jax.disable_jit(False):
      return program(*args)

  def posterior_of(self, params, images):
    return self._program('encode', super().posterior_of, params, images)

  def _unet(self, params, x, time, train, rng):
    if train:
      return super()._unet(params, x, time, train, rng)
    parent = functools.partial(super()._unet, train=False, rng=None)
    return self._program('unet', parent, params, x, time)

  def start(self, params, batch, keys):
    return batch.get('x_0')  # theirs


@pytest.fixture(scope='module')
def original(shared):
  """(our model of the original's sizes, its weights, its numbers, and which
  array of its UNet became which of ours)."""
  folder = shared / 'oracles' / ORACLE
  meta = json.loads((folder / 'meta.json').read_text())
  z = oracles.load_npz(folder / 'train_and_sample.npz')

  def load(entry, name):
    tensors = torch_files.read(folder / f'{name}.safetensors')
    _, found = part.plan(entry, tensors, meta[name]['config'])
    return found.tree(tensors)['params'], found.rows

  unet, rows = load(sd_unet.PART, 'unet')
  params = {
    'net': {'unet': unet},
    'stats': {},
    'frozen': {
      'image': load(sd_vae.PART, 'vae')[0],
      'prompt': {'tokens': z['null_condition'][0]},
    },
  }
  model = Compiled(
    num_classes=len(meta['celeb_classes']),
    num_ids=20,
    image_size=(64, 64),
    mask_size=(64, 64),
    unet={
      'channels': (16, 32, 32, 32),
      'num_layers': 1,
      'num_heads': 4,
      'context_dim': 32,
      'groups': 8,
    },
    image_autoencoder={
      'block_out_channels': (16, 16, 32, 32),
      'layers_per_block': 1,
      'groups': 8,
    },
    prompt_tokens=7,
  )
  return model, jax.tree.map(jnp.asarray, params), z, rows


@pytest.fixture(autouse=True)
def _precise():
  with jax.default_matmul_precision('highest'):
    yield


def batch_of(z):
  """The original's images and label maps, as a batch of ours."""
  image = (nhwc(z['image']) + 1) / 2
  ids = z['gt'].astype(np.int32)
  return {
    'image': image,
    'valid': jnp.ones(image.shape[:3], bool),
    'semantic': jnp.asarray(np.where(ids == 255, 0, ids + 1)),
  }


def record_draws(z, monkeypatch):
  """jax.random gives what the original drew."""
  u, e = nhwc(z['rng/00_rand_like']), nhwc(z['rng/01_randn'])

  def uniform(key, shape, dtype=None, minval=0, maxval=1):
    assert shape == u.shape
    return minval + (maxval - minval) * u

  monkeypatch.setattr(jax.random, 'uniform', uniform)
  monkeypatch.setattr(jax.random, 'normal', lambda *a, **k: e)


def test_what_is_learnt(original, monkeypatch):
  """Painted masks, their noise, both latents, the gradients, AdamW."""
  model, params, z, rows = original
  batch = batch_of(z)
  painted = anchors.signed(model.palette.paint(batch['semantic']))
  parity.check(ORACLE, 'image_semseg', painted, nhwc(z['image_semseg']), 1e-6)
  record_draws(z, monkeypatch)

  key = jax.random.key(0)
  x_0, _ = model.target(params, batch, key)
  x_1 = model.encode(params, batch, key, train=True).condition['latent']
  mode = model.encode(params, batch, None).condition['latent']
  parity.check(ORACLE, 'z0', x_1, nhwc(z['rgb_latents_z0']), 1e-5)
  parity.check(ORACLE, 'mode', mode, nhwc(z['rgb_latents_mode']), 1e-5)
  parity.check(ORACLE, 'mask_latents', x_0, nhwc(z['mask_latents']), 1e-5)

  @quick
  @jax.value_and_grad
  def learn(net, t):
    told = (Encoded({}), x_0, x_1, t, None)
    return model.loss_at({**params, 'net': net}, batch, *told, train=True)

  for kind in ('continuous', 'discrete'):
    check = functools.partial(_check, z, kind)
    t = 1 - z[f'{kind}/unet_timesteps'].astype(np.float64) / 1000
    t = jnp.asarray(t, jnp.float32)
    x_t = model.process.mix(x_0, x_1, t)
    check('perturb_latent', x_t)
    check('model_pred', -model.denoise(params, x_t, t, {}).value)
    check('target', -model.process.regression_target(x_0, x_1, t))
    loss, gradients = learn(params['net'], t)
    check('loss', loss)
    _check_step(check, z, kind, rows, params['net'], gradients)


def _check_step(check, z, kind, rows, net, gradients):
  """AdamW of the weights that the original noted; all count in the norm."""
  net, gradients = (
    traverse_util.flatten_dict({'params': tree['unet']})
    for tree in (net, gradients)
  )
  noted = {row.theirs: row for row in rows if f'{kind}/grad/{row.theirs}' in z}
  chosen = [row.path for row in noted.values()]
  rest = [np.ravel(g) for path, g in gradients.items() if path not in chosen]
  gradients = {name: gradients[row.path] for name, row in noted.items()}
  weights = {name: net[row.path] for name, row in noted.items()}
  gradients['rest'] = jnp.concatenate(rest)
  weights['rest'] = jnp.zeros_like(gradients['rest'])
  norms = [np.linalg.norm(np.ravel(g)) for g in gradients.values()]
  check('grad_norm', np.linalg.norm(norms))
  tx = optimizer.make_optimizer(
    'torch_adamw', 2e-5, weight_decay=0.01, clip_norm=1.0, decay_mask='all'
  )
  updates, _ = tx.update(gradients, tx.init(weights), weights)
  for name, row in noted.items():
    after = weights[name] + updates[name]
    # A step is 2e-5 of weights of about 0.2.
    for key, value, bound in (
      (f'grad/{name}', gradients[name], BOUND),
      (f'after/{name}', after, 1e-6),
    ):
      expected = z[f'{kind}/{key}'].shape
      check(
        key, mapping.to_theirs(np.asarray(value), row.layout, expected), bound
      )


def _check(z, kind, key, ours, bound=BOUND):
  key = f'{kind}/{key}'
  expected = nhwc(z[key]) if z[key].shape == (2, 4, 8, 8) else z[key]
  parity.check(ORACLE, key, ours, expected, bound)


def test_both_ways(original):
  model, params, z, _ = original
  batch = batch_of(z)
  del batch['semantic']
  keys = jax.random.split(jax.random.key(0), 2)
  for steps in (5, 25):
    found = {}
    for way, told in (('seg', {}), ('gen', {'x_0': nhwc(z['mask_latents'])})):
      with jax.disable_jit():
        found[way] = model.sample(
          params,
          batch | told,
          keys,
          timesteps=timesteps_lib.SemFlow().make(model.process, steps),
          sampler=samplers.Euler(),
        )
      expected = nhwc(z[f'sample_{way}/steps{steps}_final'])
      parity.check(ORACLE, f'{way} {steps}', found[way], expected, BOUND)
  _check_decoded(model, params, found['seg'], z)


def _check_decoded(model, params, latent, z):
  variables = {'params': params['frozen']['image']}
  decode = quick(functools.partial(model.image_net.apply, method='decode'))
  made = decode(variables, latent / model.latent_scale)
  expected = nhwc(z['vae_decode_of_seg25'])
  parity.check(ORACLE, 'decode of seg', made, expected, BOUND)
  image = np.clip((np.asarray(made) + 1) / 2, 0, 1)
  meta = {'unpadded': (64, 64), 'size': (64, 64)}
  for ours, theirs in zip(image, z['l2i_bgr_u8'], strict=True):
    ours = model.postprocess({'image': ours}, meta).image[..., ::-1]
    off = np.abs(ours.astype(int) - theirs)
    # Cut to whole levels, not rounded, which half of them would show.
    assert off.max() <= 1 and np.mean(off > 0) < 1e-2
