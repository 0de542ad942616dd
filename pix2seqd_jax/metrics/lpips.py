"""LPIPS of made images: to the true ones, and among samples of one mask.

Distances are LPIPS' (https://arxiv.org/abs/1801.03924); of pairs of samples
they measure diversity (https://arxiv.org/abs/1711.11586, section 4). SemFlow
reports one LPIPS and does not say which of the two it is; here are both.
"""

from typing import NamedTuple

import numpy as np

from pix2seqd_jax.metrics import wire
from pix2seqd_jax.registry import METRICS


@METRICS.register('lpips')
@wire.portable
class LPIPS(NamedTuple):
  """Sums over masks, float64 [4]: number and sum of distances, twice.

  First those of a sample to the true image, then those among samples.

  Attributes:
    sums: see above.
    is_trained: whether the network's weights are LPIPS', not random ones.
  """

  sums: np.ndarray
  is_trained: bool

  lower_is_better = ('lpips_pairwise',)

  @classmethod
  def empty(cls, is_trained: bool = True) -> 'LPIPS':
    """The state of no image, neutral in `merge`."""
    return cls(np.zeros(4), is_trained)

  @classmethod
  def from_distances(
    cls,
    pairwise: float,
    diversity: float | None = None,
    is_trained: bool = True,
  ) -> 'LPIPS':
    """The state of one mask.

    Args:
      pairwise: of a sample to the true image.
      diversity: the mean over all pairs of samples; None where there is one
        sample.
      is_trained: of the network.
    """
    pair = (0, 0) if diversity is None else (1, diversity)
    return cls(np.array([1, pairwise, *pair], np.float64), is_trained)

  def merge(self, other: 'LPIPS') -> 'LPIPS':
    """The sums of both; raises ValueError for two networks."""
    if self.is_trained != other.is_trained:
      raise ValueError(
        'LPIPS of trained and of random weights do not merge; use one network '
        'for both.'
      )
    return LPIPS(self.sums + other.sums, self.is_trained)

  def compute(self, per_class: bool = True) -> dict[str, float]:
    """'lpips_pairwise' and 'lpips_diversity', means over masks.

    Both are 0 of no mask; the second is left out where no mask had two
    samples: 0 would say that all are alike. And 'lpips_is_trained': 1, or 0
    for random weights.
    """
    del per_class  # there are no classes
    pairs, pairwise, sets, diversity = self.sums.tolist()
    found = {
      'lpips_pairwise': pairwise / max(pairs, 1),
      'lpips_is_trained': float(self.is_trained),
    }
    if pairs and not sets:
      return found
    return {**found, 'lpips_diversity': diversity / max(sets, 1)}
