import pytest

from pix2seqd_jax.metrics.lpips import LPIPS


def test_means_over_masks_however_they_are_merged():
  states = [LPIPS.from_distances(p, d) for p, d in ((0.2, 0.1), (0.6, 0.4))]
  states.append(LPIPS.from_distances(0.1))  # one sample: no pair of them
  total = LPIPS.empty().merge(states[0]).merge(states[1]).merge(states[2])
  other = LPIPS.from_bytes(states[2].merge(states[1]).to_bytes())
  for state in (total, other.merge(states[0])):
    found = state.compute()
    assert found['lpips_pairwise'] == pytest.approx(0.3)
    assert found['lpips_diversity'] == pytest.approx(0.25)
    assert found['lpips_is_trained'] == 1


def test_nothing_and_random_weights():
  assert set(LPIPS.empty(False).compute().values()) == {0.0}
  with pytest.raises(ValueError, match='do not merge'):
    LPIPS.empty(False).merge(LPIPS.empty())
