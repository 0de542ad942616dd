"""LDMSeg's second stage against the original: latents, losses, two training
steps, its sampling function."""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import parity
import pytest

from configs import common
from pix2seqd_jax.diffusion import samplers
from pix2seqd_jax.diffusion import timesteps as timesteps_lib
from pix2seqd_jax.models.ldmseg import LDMSeg
from pix2seqd_jax.pretrained import (
  mask_autoencoder,
  part,
  sd_unet,
  sd_vae,
  torch_files,
)
from pix2seqd_jax.train import optimizer

ORACLE = 'ldmseg_ldm'
# Compiling takes most of the time.
quick = functools.partial(
  jax.jit, compiler_options={'xla_backend_optimization_level': 0}
)


def nhwc(array):
  return jnp.asarray(np.moveaxis(array, 1, -1))


@pytest.fixture(scope='module')
def original(shared):
  """(our model of the original's sizes, its weights, its numbers)."""
  folder = shared / 'oracles' / ORACLE
  meta = json.loads((folder / 'meta.json').read_text())

  def load(entry, file, config):
    tensors = torch_files.read(folder / file)
    _, plan = part.plan(entry, tensors, config)
    return plan.tree(tensors)['params']

  heads = {'attention_head_dim': 4, 'norm_num_groups': 8}
  params = {
    'net': {'unet': load(sd_unet.PART, 'u12_small.safetensors', heads)},
    'stats': {},
    'frozen': {
      'image': load(
        sd_vae.PART, 'pipe_vae_image.safetensors', meta['vae_image']['config']
      ),
      'mask': load(
        mask_autoencoder.PART,
        'pipe_ae_seg.safetensors',
        {'norm_num_groups': 16},
      ),
    },
  }
  model = LDMSeg(
    num_classes=1,
    num_ids=128,
    image_size=(128, 128),
    mask_size=(128, 128),
    unet={
      'channels': (16, 32, 32, 32),
      'num_layers': 1,
      'num_heads': 4,
      'groups': 8,
    },
    image_autoencoder={
      'block_out_channels': (16, 16, 32, 32),
      'layers_per_block': 1,
      'groups': 8,
    },
    mask_autoencoder={
      'network': {
        'widths': (16, 16, 24, 32),
        'hidden': 32,
        'upscale_channels': 32,
        'groups': 16,
      }
    },
  )
  params = jax.tree.map(jnp.asarray, params)
  return model, params, oracles.load_npz(folder / 'pipe_u12_small.npz')


def batch_of(image, ids):
  """Their image in [0, 1] and their ids, as a batch of ours."""
  image = nhwc(image)
  return {
    'image': image,
    'valid': jnp.ones(image.shape[:3], bool),
    'instance': jnp.asarray(ids, jnp.int32),
  }


@pytest.fixture(autouse=True)
def _precise():
  with jax.default_matmul_precision('highest'):
    yield


def test_there_and_back(original):
  model, params, z = original
  shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), None))
  assert jax.tree.map(np.shape, shapes) == jax.tree.map(np.shape, params)
  batch = batch_of(z['image'], z['semseg'])

  @quick
  def run(params, batch):
    encoded = model.encode(params, batch, None)
    x_0, weight = model.target(params, batch, None)
    return (
      encoded.condition['map'],
      x_0,
      weight,
      model.decode(params, x_0, batch)['logits'],
    )

  image, x_0, weight, logits = run(params, batch)
  parity.check(ORACLE, 'rgb_latents', image, nhwc(z['rgb_latents']), 1e-5)
  parity.check(ORACLE, 'seg_latents', x_0, nhwc(z['seg_latents']), 1e-5)
  np.testing.assert_array_equal(weight[..., 0], z['loss_mask/ignore'])
  counts = dataclasses.replace(model, loss_mask='counts')
  found = counts.target(params, batch, None)[1]
  np.testing.assert_allclose(found[..., 0], z['loss_mask/counts'], rtol=1e-6)
  whole = jax.image.resize(logits, (2, 128, 128, 128), 'bilinear')
  parity.check(
    ORACLE,
    'decoded logits',
    whole[:1, ..., :4],
    nhwc(z['decoded_logits_img0_ch0to3']),
    1e-5,
  )
  same = np.mean(np.argmax(whole, -1) == z['decoded_argmax'])
  assert same > 0.9999  # equals may fall to either side


def test_losses(original):
  model, params, z = original
  batch = batch_of(z['image'], z['semseg'])
  x_0, x_1 = nhwc(z['seg_latents']), nhwc(z['cl_noise'])
  t = jnp.asarray((z['cl_t'] + 1) / 1000, jnp.float32)
  x_t = model.process.mix(x_0, x_1, t)
  parity.check(ORACLE, 'cl_noisy', x_t, nhwc(z['cl_noisy']), 1e-5)
  condition = {'map': nhwc(z['rgb_latents'])}
  weight = model.target(params, batch, None)[1]

  @quick
  def run(params, x_t):
    return model.denoise(params, x_t, t, condition, previous=nhwc(z['cl_cond']))

  prediction = run(params, x_t)
  for kind in ('l2', 'l1', 'smooth_l1'):
    model = dataclasses.replace(model, loss_kind=kind)
    loss = jnp.mean(model.loss(prediction, x_0, x_1, t, batch) * weight)
    parity.check(ORACLE, kind, loss, z[f'compute_loss/{kind}'], 1e-4)
  estimate = model.process.endpoints(x_t, prediction.value, t).x_0
  expected = nhwc(z['compute_loss/pred_latents'])
  parity.check(ORACLE, 'pred_latents', estimate, expected, 1e-4)


def test_sampling_function(original, steps=10):
  model, params, z = original
  batch = batch_of(z['image'], z['semseg'])
  x_1 = nhwc(z[f'sample/steps{steps}_z_init'])

  class Injected(LDMSeg):
    def source(self, *args, **kwargs):
      return x_1

  model = Injected(
    **{f.name: getattr(model, f.name) for f in dataclasses.fields(model)}
  )
  found = quick(
    lambda params, keys: model.sample(
      params,
      batch,
      keys,
      timesteps=timesteps_lib.Blocks().make(model.process, steps),
      sampler=samplers.SAMPLERS['ddim'](),
    )
  )(params, jax.random.split(jax.random.key(0), 2))
  expected = nhwc(z[f'sample/steps{steps}_final'])
  parity.check(ORACLE, f'sample {steps}', found, expected, 1e-4)


def test_two_training_steps(original, shared):
  model, params, _ = original
  z = oracles.load_npz(shared / 'oracles' / ORACLE / 'trainstep_u12_small.npz')
  tx = optimizer.make_optimizer(
    'torch_adamw',
    1e-4,
    weight_decay=0.05,
    clip_norm=1.0,
    decay_mask=common.NO_NORMS,
    freeze=('time_embedding',),
  )
  net = params['net']
  opt_state = tx.init(net)
  module = model.unet_net

  def theirs(net):
    return {
      entry.name: make()
      for entry, _, make in part.to_theirs(
        sd_unet.PART, module, {'params': net['unet']}
      )
    }

  def loss_fn(net, batch, x_1, t):
    whole = {**params, 'net': net}
    encoded = model.encode(whole, batch, None)
    x_0, weight = model.target(whole, batch, None)
    return model.loss_at(whole, batch, encoded, x_0, x_1, t, weight, train=True)

  grad_fn = quick(jax.value_and_grad(loss_fn))
  for step in (0, 1):
    batch = batch_of(z[f'step{step}/image'], z[f'step{step}/semseg'])
    x_1 = nhwc(z[f'rng/0{2 * step}_randn_like'])
    t = jnp.asarray((z[f'rng/0{2 * step + 1}_randint'] + 1) / 1000, jnp.float32)
    loss, gradients = grad_fn(net, batch, x_1, t)
    parity.check(ORACLE, f'loss {step}', loss, z['losses'][step], 1e-4)
    for name, value in theirs(gradients).items():
      key = f'step{step}/grad/{name}'
      if key in z:
        parity.check(ORACLE, key, value, z[key], 1e-4)
    trained = {
      k: v for k, v in gradients['unet'].items() if k != 'time_embedding'
    }
    norm = np.sqrt(sum(float(jnp.sum(g**2)) for g in jax.tree.leaves(trained)))
    expected = z['grad_norm_before_clip'][step]
    parity.check(ORACLE, f'norm {step}', norm, expected, 1e-4)
    updates, opt_state = tx.update(gradients, opt_state, net)
    net = jax.tree.map(jnp.add, net, updates)
  for name, value in theirs(net).items():
    if f'after/{name}' in z:
      parity.check(ORACLE, f'after/{name}', value, z[f'after/{name}'], 1e-4)
