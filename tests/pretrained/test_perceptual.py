"""The networks that images are judged by, with weights that are random."""

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest

from pix2seqd_jax.architectures.lpips_vgg import LPIPS
from pix2seqd_jax.pretrained import lpips_vgg, perceptual, save, sources


@pytest.fixture(scope='module')
def plain():
  return perceptual.Features()


def signed_images(seed, num=3):
  rng = np.random.default_rng(seed)
  return rng.integers(0, 256, (num, 16, 16, 3), np.uint8)


def test_without_files_they_say_so(plain):
  assert plain.network == 'random vgg' and not plain.is_trained


def test_random_weights_are_always_the_same_and_keep_the_scale(plain):
  x = signed_images(0)
  found = np.asarray(plain.embed(x))
  assert found.shape == (3, 64 + 128 + 256)
  np.testing.assert_array_equal(found, perceptual.Features().embed(x))
  for depth in np.split(found, [64, 192], axis=1):
    assert 0.05 < depth.std() < 5
  assert not np.allclose(found[0], found[1])


def test_a_distance_that_grows(plain):
  x, noise = signed_images(0), signed_images(1)
  steps = [0, 0.1, 0.3, 1]
  rows = [
    plain.distance(x, ((1 - s) * x + s * noise).astype(np.uint8)) for s in steps
  ]
  assert np.allclose(rows[0], 0, atol=1e-6)
  assert (np.diff(np.stack(rows), axis=0) > 0).all()


def test_images_that_are_split_over_devices(plain):
  mesh = jax.make_mesh((2,), ('data',))
  where = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec('data'))
  x = signed_images(0, 4)
  split = jax.device_put(x, where)
  np.testing.assert_allclose(plain.embed(split), plain.embed(x), rtol=1e-4)


def test_weights_of_files(plain, tmp_path):
  """LPIPS' own files take the place of random ones, for both networks."""
  x = jnp.zeros((1, 16, 16, 3))
  module = LPIPS()
  variables = oracles.random_variables(module, x, x)
  save.save(lpips_vgg.PART, module, variables, tmp_path)
  ours = perceptual.Features(lpips=str(tmp_path))
  assert (ours.network, ours.is_trained) == ('vgg', True)
  one, two = signed_images(0), signed_images(1)
  expected = perceptual._distance(variables, one, two)
  np.testing.assert_allclose(ours.distance(one, two), expected, rtol=1e-4)
  assert not np.allclose(ours.embed(one), plain.embed(one), rtol=1e-2)


def test_inception_of_a_file_is_what_fid_takes(monkeypatch):
  """Without the network's arithmetic, which test_inception_fid compares."""

  class Found:
    def read(self, cast):
      assert cast == 'float32'
      return {'params': {'x': np.full(2048, 3.0, np.float32)}}

  monkeypatch.setattr(
    sources, 'find', lambda source, path, only: {only: Found()}
  )
  monkeypatch.setattr(
    perceptual,
    '_inception',
    lambda variables, images: images.mean() * variables['params']['x'],
  )
  found = perceptual.Features(inception='pt_inception.pth')
  assert found.network == 'inception' and not found.is_trained
  np.testing.assert_allclose(found.embed(np.ones((1, 16, 16, 3), np.uint8)), 3)


@pytest.mark.parametrize('key', ['inception', 'lpips'])
def test_a_file_that_is_not_there_is_told_at_once(key, tmp_path):
  with pytest.raises(ValueError, match=f'synthesis.{key}='):
    perceptual.Features(**{key: str(tmp_path / 'none.pth')})
