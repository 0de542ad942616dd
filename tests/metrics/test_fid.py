import json

import numpy as np
import oracles
import pytest

from pix2seqd_jax.metrics import fid
from pix2seqd_jax.metrics.fid import FID

CASES = ('full_rank', 'rank_deficient', 'near_identical', 'dim1')


@pytest.mark.parametrize('case', CASES)
@pytest.mark.parametrize('key', ['fid', 'fid_symmetric_eigh'])
def test_the_original(shared, case, key):
  """In float64. Of singular covariances scipy's root is off by 1.1e-8: 40
  digits give 1277.039708636354, which is ours."""
  folder = shared / 'oracles' / 'metrics'
  arrays = oracles.load_npz(folder / 'fid.npz')
  expected = json.loads((folder / 'meta.json').read_text())['fid'][case][key]
  ours = fid.frechet_distance(arrays[f'{case}/f1'], arrays[f'{case}/f2'])
  bound = 2e-8 if case == 'rank_deficient' else 1e-11
  assert ours == pytest.approx(expected, rel=bound, abs=1e-11)
  if case == 'rank_deficient':
    assert ours == pytest.approx(1277.039708636354, rel=1e-14)


@pytest.mark.parametrize('case', CASES)
def test_the_original_by_states_of_float32(shared, case):
  arrays = oracles.load_npz(shared / 'oracles' / 'metrics' / 'fid.npz')
  made, real = arrays[f'{case}/f1'], arrays[f'{case}/f2']
  total = FID.empty()
  for i in range(max(len(made), len(real))):  # image by image
    total = total.merge(FID.from_features(made[i : i + 1], real[i : i + 1]))
  found = FID.from_bytes(total.to_bytes()).compute()
  expected = float(arrays[f'{case}/fid'])
  assert found['fid'] == pytest.approx(expected, rel=1e-6, abs=1e-6)
  assert found['fid_is_inception'] == 1


def gaussian(seed, n, mean, root):
  """n rows whose mean and covariance are exactly these."""
  z = np.random.default_rng(seed).normal(size=(n, len(mean)))
  z -= z.mean(0)
  z = z @ np.linalg.inv(np.linalg.cholesky(np.cov(z.T))).T
  return mean + z @ root.T


def test_gaussians_of_known_distance():
  """Covariances that commute: the sum of squared differences of deviations."""
  rng = np.random.default_rng(0)
  basis, _ = np.linalg.qr(rng.normal(size=(5, 5)))
  one, two = rng.uniform(0.5, 2, (2, 5))
  shift = rng.normal(size=5)
  rows = gaussian(1, 3000, np.zeros(5), basis * one)
  others = gaussian(2, 40, shift, basis * two)
  expected = np.sum(shift**2) + np.sum((one - two) ** 2)
  assert fid.frechet_distance(rows, others) == pytest.approx(expected, rel=1e-9)


def test_it_is_a_distance_and_turns_with_the_features():
  rng = np.random.default_rng(3)
  few, many = rng.normal(size=(6, 8)), rng.normal(size=(50, 8)) + 1
  there = fid.frechet_distance(few, many)
  assert there > 0 and fid.frechet_distance(few, few) < 1e-9
  assert fid.frechet_distance(many, few) == pytest.approx(there, rel=1e-9)
  turn, _ = np.linalg.qr(rng.normal(size=(8, 8)))
  turned = fid.frechet_distance(few @ turn + 5, many @ turn + 5)
  assert turned == pytest.approx(there, rel=1e-9)
  # The order of images is none of its business.
  assert fid.frechet_distance(few, many[::-1]) == pytest.approx(there, rel=1e-9)


def test_few_images():
  one = np.array([[1.0, 2.0]])
  found = FID.from_features(one, one + 3, 'vgg').compute()
  assert found == {'fid': pytest.approx(18), 'fid_is_inception': 0}
  empty = FID.empty('vgg')
  assert empty.compute()['fid'] == 0
  assert FID.from_bytes(empty.to_bytes()) == empty
  half = FID.from_features(one, one[:0], 'vgg')
  assert half.merge(empty).compute()['fid'] == 0
  assert FID.from_bytes(half.to_bytes()).real == ()


def test_what_does_not_fit_is_refused():
  with pytest.raises(ValueError, match='do not merge'):
    FID.empty('vgg').merge(FID.empty())
  for other in (np.zeros((2, 4)), np.zeros(3)):
    with pytest.raises(ValueError, match='of one network'):
      FID.from_features(np.zeros((2, 3)), other)
