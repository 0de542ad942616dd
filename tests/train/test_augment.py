"""Colour jitter on the device is the host's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pix2seqd_jax.data import pipeline
from pix2seqd_jax.data.readers import shapes
from pix2seqd_jax.data.transforms import color
from pix2seqd_jax.train import augment

NAMES = ('brightness', 'contrast', 'saturation', 'hue')


def _images(count=24, size=(20, 24)):
  """Images with flat, gray and black parts, padded at the bottom."""
  rng = np.random.default_rng(0)
  image = rng.integers(0, 256, (count, *size, 3), np.uint8)
  image[:, :4] = rng.integers(0, 256, (count, 1, 1, 1))  # gray
  image[:, 4:6] = 0
  valid = np.ones((count, *size), bool)
  for i in range(count):
    valid[i, size[0] - i % 5 :] = False
  image[~valid] = 77
  return image, valid


def _on_host(image, valid, drawn):
  """The host's jitter of the part that is no padding."""
  made = image.copy()
  for i, (one, numbers) in enumerate(zip(valid, drawn)):
    rows = one.any(1).sum()
    part = image[i, :rows]
    if image.dtype == np.uint8:
      done = color.apply(part.astype(np.float32) / np.float32(255), numbers)
      made[i, :rows] = (np.clip(done, 0, 1) * 255 + 0.5).astype(np.uint8)
    else:
      made[i, :rows] = color.apply(part, numbers)
  return made


@pytest.mark.parametrize('dtype', [np.uint8, np.float32])
def test_random_jitters_are_the_hosts(dtype):
  image, valid = _images()
  if dtype == np.float32:
    image = (image / 255).astype(np.float32)
  rng = np.random.default_rng(3)
  drawn = np.stack([color.draw(1.0, rng) for _ in image])
  # Every operation is done, in many orders; some images turn gray.
  assert {*drawn[:, :8:2].ravel()} >= {0, 1, 2, 3} and drawn[:, 8].any()
  theirs = _on_host(image, valid, drawn)
  ours = np.asarray(jax.jit(augment.jitter)(image, valid, drawn))
  assert ours.dtype == dtype
  gap = np.abs(ours.astype(np.float64) - theirs)
  assert gap.max() <= (1 if dtype == np.uint8 else 5e-3)
  assert gap.mean() < (0.01 if dtype == np.uint8 else 1e-4)
  np.testing.assert_array_equal(ours[~valid], image[~valid])
  assert (ours != image).any()


@pytest.mark.parametrize('number', range(4))
def test_each_operation_is_the_hosts(number):
  image, valid = _images(4)
  for amount in (0.0, 0.3, 1.0, 1.8) if number < 3 else (-0.2, 0.0, 0.1, 0.2):
    drawn = np.tile(
      np.array([number, amount, *[-1, 0] * 3, 0], np.float32), (4, 1)
    )
    ours = np.asarray(augment.jitter(image, valid, drawn)).astype(int)
    gap = np.abs(ours - _on_host(image, valid, drawn))
    assert gap.max() <= 1, (NAMES[number], amount)


def test_a_step_sees_no_draws_and_counts_the_skipped():
  image, valid = _images(3)
  batch = {'image': image, 'valid': valid, 'semantic': np.zeros((3, 2, 2))}
  same, scalars = augment.prepare(batch)
  assert set(same) == set(batch) and not scalars
  assert same['image'] is image
  more = batch | {
    'color': np.tile(np.array([-1, 0] * 4 + [0], np.float32), (3, 1)),
    'skipped': np.array([0, 2, 1], np.int32),
  }
  made, scalars = augment.prepare(more)
  assert set(made) == set(batch) and float(scalars['data/skipped']) == 2
  np.testing.assert_array_equal(made['image'], image)


def test_a_pipeline_that_leaves_color_to_the_device_gives_the_hosts_images():
  def run(where):
    pairs = (
      ('scale_jitter', {'size': 16, 'scale': (1.0, 2.0)}),
      ('fixed_size_crop', {'size': 16}),
      ('random_flip', {}),
      ('color_jitter', {'strength': 1.0, 'where': where}),
      ('pad', {'size': 16}),
      ('labels', {'size': 8, 'num_ids': 9}),
    )
    source = shapes.Shapes(num_examples=8, size=(16, 20))
    return next(
      pipeline.train_batches(source, pairs, batch_size=8, seed=1, num_threads=0)
    )

  host, device = run('host'), run('device')
  assert 'color' not in host and device['color'].shape == (8, 9)
  for key in host:
    if key != 'image':
      np.testing.assert_array_equal(host[key], device[key])
  made, _ = augment.prepare({k: jnp.asarray(v) for k, v in device.items()})
  gap = np.abs(np.asarray(made['image']).astype(int) - host['image'])
  assert gap.max() <= 1 and (device['image'] != host['image']).any()
