"""How far images are from others: PSNR and absolute error."""

from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8

from pix2seqd_jax.metrics import wire
from pix2seqd_jax.registry import METRICS

# A mean squared error below this counts as this: equal images have 100 dB.
_LEAST = 1e-10


@METRICS.register('image_error')
@wire.portable
class ImageError(NamedTuple):
  """Sums over images, float64 [3]: how many, of PSNR (dB), of mean |error|.

  Values are taken to [0, 1]. PSNR is -10 log10 of an image's mean squared
  error, at most 100 dB; the score is the mean over images.
  """

  sums: np.ndarray

  lower_is_better = ('l1',)

  @classmethod
  def empty(cls) -> 'ImageError':
    """The state of no image, neutral in `merge`."""
    return cls(np.zeros(3))

  @classmethod
  def from_images(
    cls,
    truth: UInt8[np.ndarray, 'h w c'],
    made: UInt8[np.ndarray, 'h2 w2 c'],
  ) -> 'ImageError':
    """The state of one pair; raises ValueError for images of two shapes."""
    if truth.shape != made.shape:
      raise ValueError(
        f'the image is {truth.shape} and what was made of it {made.shape}; '
        'resize one of them.'
      )
    error = (truth.astype(np.float64) - made) / 255
    psnr = -10 * np.log10(max(np.mean(error**2), _LEAST))
    return cls(np.array([1, psnr, np.abs(error).mean()]))

  def merge(self, other: 'ImageError') -> 'ImageError':
    """The sums of both."""
    return ImageError(self.sums + other.sums)

  def compute(self, per_class: bool = True) -> dict[str, float]:
    """'psnr' in dB and 'l1' in [0, 1]; both 0 of no image."""
    del per_class  # there are no classes
    count, psnr, l1 = self.sums / max(self.sums[0], 1)
    del count
    return {'psnr': float(psnr), 'l1': float(l1)}
