import numpy as np
import pytest

from pix2seqd_jax.metrics.image_error import ImageError


def pair(seed, size=(6, 5, 3)):
  rng = np.random.default_rng(seed)
  return tuple(rng.integers(0, 256, size).astype(np.uint8) for _ in range(2))


def test_a_known_error():
  truth = np.full((4, 4, 3), 100, np.uint8)
  state = ImageError.from_images(truth, truth + np.uint8(51))
  assert state.compute()['l1'] == pytest.approx(0.2)
  assert state.compute()['psnr'] == pytest.approx(-20 * np.log10(0.2))
  assert ImageError.from_images(truth, truth).compute()['psnr'] == 100


def test_it_is_the_mean_over_images_however_they_are_merged():
  states = [ImageError.from_images(*pair(seed)) for seed in range(3)]
  total = states[0].merge(states[1]).merge(states[2])
  other = states[2].merge(ImageError.empty()).merge(states[1])
  other = ImageError.from_bytes(other.merge(states[0]).to_bytes())
  for key in ('psnr', 'l1'):
    mean = np.mean([state.compute()[key] for state in states])
    assert total.compute()[key] == pytest.approx(mean)
    assert other.compute()[key] == pytest.approx(mean)
  assert ImageError.empty().compute() == {'psnr': 0, 'l1': 0}


def test_two_sizes_are_refused():
  with pytest.raises(ValueError, match='resize one of them'):
    ImageError.from_images(pair(0)[0], pair(0, (6, 6, 3))[0])
