"""Given the original's weights and inputs: the original's outputs."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import parity
import pytest
from flax import traverse_util

from pix2seqd_jax.architectures import positions
from pix2seqd_jax.encoding import bits
from pix2seqd_jax.pretrained import pix2seq_tf

SCALE = 0.1
# What the oracles' authors summarise for files without a floor for each key,
# relative to the largest magnitude.
FEATURES_TRAIN = 3e-5
LOSS = 2e-5
GRADIENTS = 1e-4
KEY_BIAS = 1e-8  # absolute: these gradients are zero but for rounding


@pytest.fixture(autouse=True)
def full_precision():
  with jax.default_matmul_precision('highest'):
    yield


@pytest.fixture(scope='module')
def root(shared):
  return shared / 'oracles' / 'pix2seq'


@pytest.fixture(scope='module')
def floors(root):
  return parity.read_floors(root / 'noise_floor.json')


@pytest.fixture(scope='module')
def networks(shared):
  """(params, modules) of a configuration's weights, read once."""

  @functools.cache
  def get(name, kind):
    params, config = oracles.load_pix2seq(shared, name, kind)
    return params, oracles.modules(config)

  return get


def encode(params, modules, image, train=False):
  """-> (features, tokens, merged map, running statistics)."""
  variables = {
    'params': params['net']['encoder'],
    'batch_stats': params['stats']['encoder'],
  }
  (hidden, tokens), updated = modules.encoder.apply(
    variables, image, train=train, mutable=['batch_stats']
  )
  merged = modules.merge.apply(
    {'params': params['net']['merge']},
    hidden,
    tokens,
    mask_size=modules.mask_size,
  )
  return hidden, tokens, merged, updated['batch_stats']


def denoise(params, modules, noisy, gamma, merged, tokens, *past, train=False):
  """-> logits [b, h, w, 2, codes]; input order: noisy, merged, past."""
  logits = modules.denoiser.apply(
    {'params': params['net']['denoiser']},
    jnp.concatenate([noisy, merged, *past], axis=-1),
    gamma,
    tokens,
    train=train,
  )
  return logits.reshape(*logits.shape[:-1], 2, -1)


def expected_bits(logits, num_bits):
  code = bits.Code(num_bits // 2)
  parts = [code.expected(logits[..., i, :], SCALE) for i in range(2)]
  return jnp.concatenate(parts, axis=-1)


def theirs_by_name(stats):
  flat = traverse_util.flatten_dict({'stats': {'encoder': stats}})
  return {pix2seq_tf.their_name(path): value for path, value in flat.items()}


def taps(module, variables, *inputs, **kwargs):
  """What each submodule returned, by its path."""
  _, updated = module.apply(
    variables, *inputs, **kwargs, capture_intermediates=True, mutable=True
  )
  flat = traverse_util.flatten_dict(updated['intermediates'])
  return {'/'.join(path[:-1]): value[0] for path, value in flat.items()}


def test_encoder_layer_by_layer(root, floors, networks):
  oracle = 'A/io_encoder_ema_eval.npz'
  params, modules = networks('A', 'ema')
  z = oracles.load_npz(root / oracle)

  @jax.jit
  def run(image):
    variables = {
      'params': params['net']['encoder'],
      'batch_stats': params['stats']['encoder'],
    }
    ours = taps(modules.encoder, variables, image, train=False)
    hidden, tokens = ours['']
    merge = taps(
      modules.merge,
      {'params': params['net']['merge']},
      hidden,
      tokens,
      mask_size=modules.mask_size,
    )
    c2, c3, c4 = ours['resnet']
    return {
      'stem_conv': ours['resnet/stem_conv'],
      'resnet_c2': c2,
      'resnet_c3': c3,
      'resnet_c4': c4,
      'stem_projection': ours['projection'],
      'stem_ln': ours['projection_norm'],
      'transformer_layer0': ours['layer_0'],
      'transformer_layer1': ours['layer_1'],
      'encoded': tokens,
      'fuse_block2': merge['block_2'],
      'fuse_block1': merge['block_1'],
      'fuse_block0': merge['block_0'],
      'encoded_cat': merge[''],
    }

  for key, ours in run(jnp.asarray(z['images'])).items():
    parity.check(
      f'pix2seq/{oracle}', key, ours, z[key], floor=floors[oracle, key]
    )


def test_denoiser_layer_by_layer(root, floors, networks):
  oracle = 'A/io_decoder_ema_eval_inner.npz'
  params, modules = networks('A', 'ema')
  z = oracles.load_npz(root / 'A/io_decoder_ema_eval.npz')
  variables = {'params': params['net']['denoiser']}
  ours = jax.jit(lambda *inputs: taps(modules.denoiser, variables, *inputs))(
    *(jnp.asarray(z[key]) for key in ('x', 'gamma', 'encoded'))
  )
  paths = {
    'conv_in': 'conv_in',
    'group_norm_in': 'norm_in',
    'dn0': 'down_0_conv',
    'dn1': 'down_1_conv',
    'dn2': 'down_2_conv',
    'dn3': 'down_3_block_0',
    'trans_conv_in': 'transformer/conv_in',
    'transformer_decoder': 'transformer/layer_1',
    'transformer': 'transformer',
    'up3': 'up_3_conv',
    'up2': 'up_2_conv',
    'up1': 'up_1_conv',
    'up0': 'up_0_block_1',
    'group_norm_out': 'norm_out',
  }
  z = oracles.load_npz(root / oracle)
  for key, path in paths.items():
    parity.check(
      f'pix2seq/{oracle}', key, ours[path], z[key], floor=floors[oracle, key]
    )


def test_running_statistics_rest_in_evaluation(networks):
  params, modules = networks('A', 'ema')
  image = jnp.ones((1, 32, 32, 3))
  *_, stats = encode(params, modules._replace(mask_size=(16, 16)), image)
  same = jax.tree.map(np.array_equal, stats, params['stats']['encoder'])
  assert all(jax.tree.leaves(same))


def test_encoder_with_batch_statistics(root, networks):
  oracle = 'A/io_encoder_raw_train.npz'
  params, modules = networks('A', 'raw')
  z = oracles.load_npz(root / oracle)
  variables = {
    'params': params['net']['encoder'],
    'batch_stats': params['stats']['encoder'],
  }

  @jax.jit
  def run(image):
    (hidden, tokens), updated = modules.encoder.apply(
      variables, image, train=True, capture_intermediates=True, mutable=True
    )
    merged = modules.merge.apply(
      {'params': params['net']['merge']},
      hidden,
      tokens,
      mask_size=modules.mask_size,
    )
    c4 = updated['intermediates']['resnet']['__call__'][0][2]
    return hidden, c4, tokens, merged, updated['batch_stats']

  hidden, c4, tokens, merged, stats = run(jnp.asarray(z['images']))
  ours = {
    'resnet_c2': hidden[0],
    'resnet_c3': hidden[1],
    'resnet_c4': c4,
    'encoded': tokens,
    'encoded_cat': merged,
  }
  stats = {f'bn_after/{k}': v for k, v in theirs_by_name(stats).items()}
  assert set(stats) == {k for k in z if k.startswith('bn_after/')}
  for key, value in (ours | stats).items():
    parity.check(f'pix2seq/{oracle}', key, value, z[key], bound=FEATURES_TRAIN)


def test_denoiser(root, floors, networks):
  oracle = 'A/io_decoder_ema_eval.npz'
  params, modules = networks('A', 'ema')
  z = {k: jnp.asarray(v) for k, v in oracles.load_npz(root / oracle).items()}
  merged = z['x'][..., modules.num_bits :]
  logits = jax.jit(lambda *inputs: denoise(params, modules, *inputs))(
    z['noisy'], z['gamma'], merged, z['encoded']
  )
  predicted = expected_bits(logits, modules.num_bits)
  for key, ours in (('m_logits', logits[:1]), ('m_pred', predicted)):
    parity.check(
      f'pix2seq/{oracle}', key, ours, z[key], floor=floors[oracle, key]
    )


@pytest.mark.parametrize(
  ('name', 'kind', 'mode'),
  [('A', 'ema', 'eval'), ('A', 'raw', 'train'), ('B', 'ema', 'eval')],
)
def test_image_and_noise_to_bits(root, floors, networks, name, kind, mode):
  """The whole network; B also sees the bits of two past masks."""
  oracle = f'{name}/io_denoise.npz'
  params, modules = networks(name, kind)
  z = {k: jnp.asarray(v) for k, v in oracles.load_npz(root / oracle).items()}
  past = [z['cond_bits']] if name == 'B' else []

  @jax.jit
  def whole(image, noisy, gamma, *past):
    _, tokens, merged, _ = encode(params, modules, image, mode == 'train')
    logits = denoise(params, modules, noisy, gamma, merged, tokens, *past)
    return logits, expected_bits(logits, modules.num_bits)

  logits, predicted = whole(z['images'], z['noisy'], z['gamma'], *past)
  # The file holds the logits of the second example only.
  ours = {
    f'm_logits_{kind}_{mode}': logits[1:],
    f'm_pred_{kind}_{mode}': predicted,
  }
  for key, value in ours.items():
    parity.check(
      f'pix2seq/{oracle}', key, value, z[key], floor=floors[oracle, key]
    )


@pytest.mark.parametrize('kind', ['ema', 'raw'])
def test_time_embedding(root, networks, kind):
  params, modules = networks('A', kind)
  z = oracles.load_npz(root / 'A/io_time_emb.npz')
  net = modules.denoiser
  embedding = positions.TimeEmbedding(net.dim, net.time_scaling).apply(
    {'params': params['net']['denoiser']['time']}, jnp.asarray(z['gamma'])
  )
  key = f'emb_{kind}'
  parity.check('pix2seq/A/io_time_emb.npz', key, embedding, z[key])


def loss_fn(net, stats, modules, z):
  """The training loss: the mean of weight x cross-entropy over both groups."""
  params = {'net': net, 'stats': stats}
  _, tokens, merged, _ = encode(params, modules, z['images'], train=True)
  logits = denoise(
    params,
    modules,
    z['masks_noised'],
    z['gamma'],
    merged,
    tokens,
    train=True,
  )
  nll = -jnp.take_along_axis(
    jax.nn.log_softmax(logits), z['label_map'][..., None], axis=-1
  )[..., 0]
  return jnp.mean(nll * z['mask_weight'][..., None]), nll


def test_loss_and_gradients(root, networks):
  params, modules = networks('A', 'raw')
  z = oracles.load_npz(root / 'A/io_loss.npz')
  theirs = oracles.load_npz(root / 'A/grads_train.npz')
  inputs = {
    k: jnp.asarray(z[k])
    for k in ('images', 'masks_noised', 'gamma', 'label_map', 'mask_weight')
  }
  gradient = jax.value_and_grad(loss_fn, has_aux=True)
  (loss, nll), grads = jax.jit(
    lambda net: gradient(net, params['stats'], modules, inputs)
  )(params['net'])
  oracle = 'pix2seq/A/io_loss.npz'
  parity.check(oracle, 'loss_train', loss, z['loss_train'], bound=LOSS)
  parity.check(oracle, 'xent', nll, z['xent'], bound=FEATURES_TRAIN)
  norm = np.sqrt(sum(float(jnp.vdot(g, g)) for g in jax.tree.leaves(grads)))
  key = 'grad_global_norm'
  parity.check(oracle, key, norm, z[key], bound=LOSS)

  flat = traverse_util.flatten_dict({'net': grads})
  ours = {pix2seq_tf.their_name(path): g for path, g in flat.items()}
  assert set(ours) == set(theirs)
  for name, gradient in ours.items():
    if name.endswith('_key_dense/bias'):
      assert np.max(np.abs(gradient)) < KEY_BIAS, name
      assert np.max(np.abs(theirs[name])) < KEY_BIAS, name
    else:
      parity.check(
        'pix2seq/A/grads_train.npz',
        name,
        gradient,
        theirs[name],
        bound=GRADIENTS,
      )


@pytest.mark.parametrize(
  'file, width',
  [('io_encoder_ema_eval', 32), ('io_decoder_ema_eval_inner', 32)],
)
def test_position_codes_of_the_networks(root, file, width):
  theirs = oracles.load_npz(root / f'A/{file}.npz')['vis_pos_emb']
  ours = positions.table_2d(4, 4, width)
  key = 'vis_pos_emb'
  parity.check(
    f'pix2seq/A/{file}.npz', key, ours, theirs.reshape(ours.shape), bound=1e-6
  )


def test_time_embedding_of_the_denoiser(root, networks):
  params, modules = networks('A', 'ema')
  z = oracles.load_npz(root / 'A/io_decoder_ema_eval.npz')
  net = modules.denoiser
  ours = positions.TimeEmbedding(net.dim, net.time_scaling).apply(
    {'params': params['net']['denoiser']['time']}, jnp.asarray(z['gamma'])
  )
  key, file = 'time_emb', 'A/io_decoder_ema_eval_inner.npz'
  parity.check(f'pix2seq/{file}', key, ours, oracles.load_npz(root / file)[key])


def test_position_codes(root):
  oracle = 'pure/posemb.npz'
  z = oracles.load_npz(root / oracle)
  for key, theirs in z.items():
    kind, _, rest = key.partition('_')
    width = theirs.shape[-1]
    bound = 1e-6
    if key == 'code2d_raw_4x6x24' or kind == 'gamma':
      continue
    if kind == 'code1d':
      ours = positions.table_1d(theirs.shape[-2], width)
    elif kind in ('code2d', 'vis'):
      h, w, _ = (int(n) for n in rest.split('x'))
      ours = positions.table_2d(h, w, width)
    else:
      scaling = float(rest[1:].split('_')[0])
      ours = positions.sin_cos(jnp.asarray(z['gamma']) * scaling, width)
      # One unit in the last place of an angle near 1,000.
      bound = 1e-4 if scaling > 1 else bound
    theirs = theirs.reshape(ours.shape)
    parity.check(f'pix2seq/{oracle}', key, ours, theirs, bound=bound)
