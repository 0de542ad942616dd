"""What surrounds the networks of Pix2Seq-D, against the original's numbers.

Labels to bits and weights, padding, the four losses, the read-out. The
networks themselves: tests/architectures/test_pix2seq_oracles.py.
"""

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import parity
import pytest

from pix2seqd_jax import checking
from pix2seqd_jax.architectures import layers
from pix2seqd_jax.data.transforms import transforms
from pix2seqd_jax.diffusion import loss_weights
from pix2seqd_jax.models.pix2seq_d import PAD_VALUE, Pix2SeqD
from pix2seqd_jax.tasks.panoptic import PanopticTask
from pix2seqd_jax.types import Category, Prediction


@pytest.fixture(scope='module')
def root(shared):
  return shared / 'oracles' / 'pix2seq'


def model_of(**changes):
  """No network of it is built here."""
  fields = {
    'num_classes': 133,
    'num_ids': 101,
    'image_size': (64, 64),
    'mask_size': (32, 32),
    'encoder': {},
    'merge': {'out_dim': 4},
    'denoiser': {},
  }
  return checking.construct('model', Pix2SeqD, fields | changes)


VIDEO = {
  'num_classes': 19,
  'num_ids': 50,
  'class_bits': 6,
  'instance_bits': 6,
  'image_size': (64, 96),
  'mask_size': (32, 48),
}


@pytest.mark.parametrize('name, fields', [('A', {}), ('B', VIDEO)])
def test_labels_to_bits_and_weights(root, name, fields):
  """The same on the host (NumPy, `encode`) and on the device (`target`)."""
  z = oracles.load_npz(root / name / 'io_preprocess.npz')
  oracle = f'pix2seq/{name}/io_preprocess.npz'
  p, scale = float(z['mask_weight_p']), float(z['b_scale'])
  model = model_of(**fields, loss_weight=p, scale=scale)

  def encode(maps):  # class and id of each frame side by side
    return [
      model.encode_labels(maps[..., i], maps[..., i + 1])
      for i in range(0, maps.shape[-1], 2)
    ]

  parity.check(oracle, 'bits', encode(z['label_map'])[0], z['bits'], 0.0)
  batch = {
    'semantic': jnp.asarray(z['label_map'][..., 0]),
    'instance': jnp.asarray(z['label_map'][..., 1]),
  }
  x_0, weight = jax.jit(lambda batch: model.target({}, batch, None))(batch)
  parity.check(oracle, 'bits', x_0, z['bits'], 0.0)
  parity.check(oracle, 'mask_weight', weight, z['mask_weight'])
  if name == 'B':
    past = np.concatenate(encode(z['cond_map']), -1)
    parity.check(oracle, 'cond_bits', past, z['cond_bits'], 0.0)


@pytest.mark.parametrize('dtype', ['float32', 'uint8'])
@pytest.mark.parametrize('case', [0, 1, 5])
@pytest.mark.parametrize('shape, size', [('sq', (64, 64)), ('rect', (64, 96))])
def test_padding_is_painted_on_the_device(root, case, shape, size, dtype):
  """The host pads with 0 and says what is valid; 0.3 comes with the pixels."""
  name = 'pure/transforms_eval_image.npz'
  z = np.load(root / name)
  image = z[f'{case}_image']
  if dtype == 'uint8':
    image = (image * 255 + 0.5).astype(np.uint8)
  ids = z[f'{case}_label'][..., 0].astype(np.int32)
  made = transforms.build_transforms(
    (('resize_to_fit', {'size': size}), ('pad', {'size': size}))
  )({'image': image, 'ids': ids}, None)
  assert made['image'].dtype == dtype
  assert not made['image'][~made['valid']].any()
  batch = {key: jnp.asarray(made[key])[None] for key in ('image', 'valid')}
  ours = np.asarray(model_of(image_size=size)._images(batch))[0]
  theirs = z[f'{case}_{shape}_image']
  assert (ours[~made['valid']] == np.float32(PAD_VALUE)).all()
  if dtype == 'float32':
    key = f'{case}_{shape}_image'
    parity.check(f'pix2seq/{name} on the device', key, ours, theirs, 5e-6)
  else:  # Pillow rounds to whole levels after each axis
    assert np.abs(ours - theirs).max() <= 1.5 / 255


LOSSES = {
  'x': ('x0', 'out_x'),
  'eps': ('eps', 'out_eps'),
  'x_sigmoid_xent': ('sigmoid', 'out_x_sigmoid_xent'),
  'x_softmax_xent': ('softmax', 'out_x_softmax_xent'),
}


@pytest.mark.parametrize('kind', LOSSES)
def test_losses(root, kind):
  oracle = 'pure/losses.npz'
  z = {k: jnp.asarray(v) for k, v in np.load(root / oracle).items()}
  loss_kind, key = LOSSES[kind]
  size = z['masks'].shape[1:3]
  model = model_of(**{**VIDEO, 'mask_size': size}, loss_kind=loss_kind)
  out = z[key].reshape(*z[key].shape[:3], -1)
  bits = [
    model.code.codes[i].decode(z['masks'][..., 6 * i :][..., :6])
    for i in (0, 1)
  ]
  batch = {'semantic': bits[0], 'instance': bits[1]}
  prediction = Prediction(out, out)
  t = jnp.full(len(out), 0.5)
  loss = jax.jit(model.loss)(prediction, z['masks'], z['noise'], t, batch)
  if kind != 'eps':  # unweighted in the original: model.target gives None
    loss = loss * z['weight']
  key = f'loss_{kind}'
  parity.check(f'pix2seq/{oracle}', key, loss.mean(), z[key])


@pytest.mark.parametrize('p', [0.0, 0.2, 0.4, 0.6, 1.0])
def test_weights_of_the_loss(root, p):
  """Their cross-entropies under our weights are their losses."""
  z = oracles.load_npz(root / 'A/io_loss.npz')
  weight = loss_weights.instance_weight(
    jnp.asarray(z['label_map'][..., 1]), 101, p
  )
  loss = np.mean(np.asarray(weight, np.float64)[..., None] * z['xent'])
  key = f'loss_train_p{p}'
  name = 'pix2seq/A/io_loss.npz (our weights, their xent)'
  parity.check(name, key, loss, z[key])


def test_noised_masks_and_the_clock(root):
  z = oracles.load_npz(root / 'A/io_loss.npz')
  process, t = model_of().process, jnp.asarray(z['t'])
  x_t = process.mix(jnp.asarray(z['bits']), jnp.asarray(z['eps']), t)
  name = 'pix2seq/A/io_loss.npz'
  parity.check(name, 'masks_noised', x_t, z['masks_noised'])
  parity.check(name, 'gamma', process.schedule.gamma(t), z['gamma'])


def test_postprocess_to_the_images_size(root):
  z = oracles.load_npz(root / 'A/io_ddim_s5_td1.npz')
  model = model_of()
  raw = jax.device_get(model.decode({}, jnp.asarray(z['final']), {}))
  key = 'final_int_imagesize'
  for i, theirs in enumerate(z[key]):
    one = {name: leaf[i] for name, leaf in raw.items()}
    meta = {'unpadded': (64, 64), 'size': (64, 64)}
    read = model.postprocess(one, meta)
    ours = np.stack([read.semantic, read.instance], -1)
    parity.check('pix2seq/A/io_ddim_s5_td1.npz', key, ours, theirs, 0.0)


@pytest.mark.parametrize('kind', ['clean', 'random'])
@pytest.mark.parametrize('coco', [0, 1])
def test_postprocess_and_majority_vote(root, kind, coco):
  """Model and task together: padding off, original size, one class an id."""
  name = 'A/io_postprocess.npz'
  z = oracles.load_npz(root / name)
  model = model_of(mask_size=(64, 64))  # predictions are at the image's size
  task = PanopticTask(
    [Category(i, f'class {i}', False) for i in range(1, 134)],
    min_pixels=int(z['min_pixels']),
    merge_stuff=False,
    void_id_zero=bool(coco),
  )
  for n, pred in enumerate(z[f'pred_{kind}']):
    raw = {'semantic': pred[..., 0], 'instance': pred[..., 1]}
    raw['score'] = np.ones(pred.shape[:2], np.float32)
    meta = {'unpadded': z['unpadded_sizes'][n], 'size': z['orig_sizes'][n]}
    meta = {key: tuple(value.tolist()) for key, value in meta.items()}
    found = task.refine(model.postprocess(raw, meta))
    semantic = found.semantic
    if coco:  # the numbers of COCO's files
      table = z['coco_table'][np.maximum(semantic - 1, 0)]
      semantic = np.where(semantic > 0, table, 0)
    theirs = {
      key: z[f'{kind}_coco{coco}_{n}_{key}'] for key in ('semantic', 'identity')
    }
    # Ours voids the ids of what has no class; theirs keeps them.
    theirs['identity'] = np.where(theirs['semantic'] > 0, theirs['identity'], 0)
    for key, ours in (('semantic', semantic), ('identity', found.instance)):
      key_ = f'{kind}_coco{coco}_{n}_{key}'
      parity.check(f'pix2seq/{name}', key_, ours, theirs[key], 0.0)


def test_drop_path(root, monkeypatch):
  """With the original's draws in place of ours."""
  z = oracles.load_npz(root / 'pure/droppath.npz')
  draws = jnp.asarray(z['u'])

  def bernoulli(key, p, shape):
    assert tuple(shape) == draws.shape
    return jnp.floor(p + draws) > 0

  monkeypatch.setattr(jax.random, 'bernoulli', bernoulli)
  for mode in ('train', 'infer'):
    drop = layers.DropPath(float(z['drop_rate']), mode == 'infer')
    ours = drop.apply(
      {}, jnp.asarray(z['x']), rngs={'dropout': jax.random.key(0)}
    )
    parity.check('pix2seq/pure/droppath.npz', mode, ours, z[mode])
