"""Fréchet distance of two sets of images, by features of a network.

Heusel et al. 2017, "GANs Trained by a Two Time-Scale Update Rule Converge to a
Local Nash Equilibrium", https://arxiv.org/abs/1706.08500, equation 6.
"""

from typing import NamedTuple

import numpy as np
import scipy.linalg
from jaxtyping import Float

from pix2seqd_jax.metrics import wire
from pix2seqd_jax.registry import METRICS

# Rows that are promoted to float64 at once.
_CHUNK = 1024


@METRICS.register('fid')
@wire.portable
class FID(NamedTuple):
  """The features of both sets, as they came; the distance is taken at the end.

  `made` and `real` are float32 arrays [n, d], one for each time that images
  were added. Features are kept because a covariance is larger: 2048 features
  of 5,000 images are 41 MB, and each merge of covariances would touch 34 MB.

  Attributes:
    made: features of the images that are judged.
    real: of those that they are to look like.
    network: whose features: 'inception' is FID as papers report it.
  """

  made: tuple[np.ndarray, ...]
  real: tuple[np.ndarray, ...]
  network: str

  lower_is_better = ('fid',)

  @classmethod
  def empty(cls, network: str = 'inception') -> 'FID':
    """The state of no image, neutral in `merge`."""
    return cls((), (), network)

  @classmethod
  def from_features(
    cls,
    made: Float[np.ndarray, 'n d'],
    real: Float[np.ndarray, 'm d'],
    network: str = 'inception',
  ) -> 'FID':
    """The state of some images; raises ValueError for two widths."""
    if made.ndim != 2 or real.ndim != 2 or made.shape[1] != real.shape[1]:
      raise ValueError(
        f'features are {made.shape} and {real.shape}, but must be [n, d] and '
        '[m, d] of one network.'
      )
    parts = (np.asarray(x, np.float32) for x in (made, real))
    made, real = ((x,) if len(x) else () for x in parts)
    return cls(made, real, network)

  def merge(self, other: 'FID') -> 'FID':
    """The images of both; raises ValueError for features of two networks."""
    if self.network != other.network:
      raise ValueError(
        f'features of {self.network!r} and of {other.network!r} do not merge; '
        'use one network for both.'
      )
    made, real = self.made + other.made, self.real + other.real
    return FID(made, real, self.network)

  def compute(self, per_class: bool = True) -> dict[str, float]:
    """'fid', and 'fid_is_inception': 1, or 0 for any other network.

    Covariances are divided by n - 1; of a single image it counts as 0. With
    fewer images than features the distance is biased upwards, the more the
    fewer there are: compare equal numbers only. Without images on either
    side it is 0.
    """
    del per_class  # there are no classes
    is_inception = float(self.network == 'inception')
    distance = 0.0
    if self.made and self.real:
      distance = frechet_distance(
        np.concatenate(self.made), np.concatenate(self.real)
      )
    return {'fid': distance, 'fid_is_inception': is_inception}


def frechet_distance(
  made: Float[np.ndarray, 'n d'], real: Float[np.ndarray, 'm d']
) -> float:
  """|m_1 - m_2|^2 + tr(S_1 + S_2 - 2 (S_1 S_2)^(1/2)), in float64.

  With S_i = A_i^T A_i the last trace is the sum of the singular values of
  A_1 A_2^T. That needs no root of a matrix, so that singular covariances (fewer
  images than features) cost neither accuracy nor an added epsilon. Beyond the
  features it needs about six matrices [d, d].

  Args:
    made: features of images, a row each.
    real: of others.

  Returns:
    At least 0.
  """
  (mean_1, root_1), (mean_2, root_2) = _moments(made), _moments(real)
  singular = scipy.linalg.svdvals(root_1 @ root_2.T)
  total = np.sum((mean_1 - mean_2) ** 2)
  total += np.sum(root_1**2) + np.sum(root_2**2) - 2 * np.sum(singular)
  return max(float(total), 0.0)  # equal sets are at 0 but for rounding


def _moments(rows) -> tuple[np.ndarray, np.ndarray]:
  """The mean [d] and A [k, d] with A^T A = the covariance, k <= d."""
  count, width = rows.shape
  mean = rows.mean(axis=0, dtype=np.float64)
  scale = 1 / np.sqrt(max(count - 1, 1))
  if count <= width:
    return mean, (rows - mean) * scale
  covariance = np.zeros((width, width))
  for start in range(0, count, _CHUNK):
    chunk = (rows[start : start + _CHUNK] - mean) * scale
    covariance += chunk.T @ chunk
  values, vectors = scipy.linalg.eigh(covariance, overwrite_a=True)
  return mean, np.sqrt(np.maximum(values, 0))[:, None] * vectors.T
