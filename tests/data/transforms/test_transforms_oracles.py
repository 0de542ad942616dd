"""The original's preprocessing of videos, crops and enlargements, key by key.

Images alone are in test_transforms.py.
"""

import jax.numpy as jnp
import numpy as np
import oracles
import parity
import pytest

from pix2seqd_jax.architectures import layers
from pix2seqd_jax.data.transforms import resize, transforms
from pix2seqd_jax.encoding.panoptic_ids import resize_nearest

PURE = 'pix2seq/pure'
IMAGE, MASK = (64, 96), (32, 48)
BOUND = 5e-6  # float32 against float32, other orders of the same sums


class Draws:
  """A generator that hands out the numbers that the original drew."""

  def __init__(self, *numbers):
    self.numbers = list(numbers)

  def random(self):
    return self.numbers.pop(0)


@pytest.fixture(scope='module')
def videos(shared):
  return oracles.load_npz(shared / 'oracles' / PURE / 'transforms_video.npz')


def padded(channel, size):
  """A map at the top left of zeros."""
  out = np.zeros(size, channel.dtype)
  out[: channel.shape[0], : channel.shape[1]] = channel
  return out


@pytest.mark.parametrize('case', ['tr0', 'tr1'])
def test_a_frame_in_training(videos, case):
  """Bicubic, unlike images; past masks go with the mask of the frame."""
  scale = tuple(float(s) for s in videos[f'{case}_scale_range'])
  built = transforms.build_transforms(
    (
      ('scale_jitter', {'size': IMAGE, 'scale': scale, 'method': 'bicubic'}),
      ('fixed_size_crop', {'size': IMAGE}),
      ('random_flip', {}),
      ('color_jitter', {'strength': 0.0}),
      ('pad', {'size': IMAGE, 'fill': 0.3}),
    )
  )
  for name in ('label', 'cond'):
    theirs = videos[f'{case}_out_{name}']
    for c in range(theirs.shape[-1]):
      ids = videos[f'{case}_{name}'][..., c].astype(np.int32)
      example = {'image': videos[f'{case}_image'], 'ids': ids}
      made = built(example, Draws(*videos[f'{case}_u']))
      ours = resize_nearest(made['ids'], MASK)
      key = f'{case}_out_{name}'
      parity.check(
        f'{PURE}/transforms_video.npz', f'{key}[{c}]', ours, theirs[..., c], 0.0
      )
  key = f'{case}_out_image'
  parity.check(
    f'{PURE}/transforms_video.npz', key, made['image'], videos[key], BOUND
  )


@pytest.mark.parametrize('case', ['ev0', 'ev1'])
def test_a_video_in_evaluation(videos, case):
  """Masks go from their own size to the mask's at once, then are padded."""
  built = transforms.build_transforms(
    (('resize_to_fit', {'size': IMAGE}), ('pad', {'size': IMAGE, 'fill': 0.3}))
  )
  frames, masks = [], []
  for image, label in zip(videos[f'{case}_frames'], videos[f'{case}_label']):
    ids = label.astype(np.int32)
    made = built({'image': image, 'ids': ids[..., 0]}, None)
    frames.append(made['image'])
    size = resize.size_that_fits(ids.shape[:2], MASK)
    masks.append(
      np.stack(
        [padded(resize_nearest(ids[..., c], size), MASK) for c in (0, 1)], -1
      )
    )
  assert made['unpadded'] == tuple(videos[f'{case}_unpadded'])
  count = int(videos[f'{case}_num_frames'])  # the rest is cut off, or empty
  for key, ours, bound in (('image', frames, BOUND), ('label', masks, 0.0)):
    key = f'{case}_out_{key}'
    parity.check(
      f'{PURE}/transforms_video.npz',
      key,
      np.stack(ours[:count]),
      videos[key][:count],
      bound,
    )
  assert len(videos[f'{case}_out_label']) == 4


def test_crops_begin_where_the_originals_do(shared):
  name = 'transforms_train_image.npz'
  z = oracles.load_npz(shared / 'oracles' / PURE / name)
  for case in range(5):
    h, w = z[f'{case}_image'].shape[:2]
    u_scale, u_crop, _ = z[f'{case}_u']
    low, high = z[f'{case}_scale_range']
    for shape, size in (('sq', (64, 64)), ('rect', IMAGE)):
      scale = float(low + (high - low) * u_scale)
      large = resize.jittered_size((h, w), size, scale)
      place = np.arange(large[0] * large[1], dtype=np.int32).reshape(large)
      crop = transforms.FixedSizeCrop(size)
      image = np.zeros((*large, 3), np.float32)
      made = crop({'image': image, 'ids': place}, Draws(u_crop))
      key = f'{case}_{shape}_crop_offset'
      begin = np.array(divmod(int(made['ids'][0, 0]), large[1]))
      parity.check(f'{PURE}/{name}', key, begin, z[key], 0.0)


def test_a_map_of_features_is_enlarged_as_the_originals(shared):
  name = 'resize_ops.npz'
  z = oracles.load_npz(shared / 'oracles' / PURE / name)
  ours = layers.upsample(jnp.asarray(z['image'])[None], 2)[0]
  key = 'upsample2d_nearest'
  parity.check(f'{PURE}/{name}', key, ours, z[key], 0.0)
