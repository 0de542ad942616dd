"""How far pictures are from others: PSNR and absolute error."""

from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8

from pix2seqd_jax.metrics import wire
from pix2seqd_jax.registry import METRICS

# A mean squared error below this counts as this: equal pictures have 100 dB.
_LEAST = 1e-10


@METRICS.register('picture_error')
class PictureError(NamedTuple):
  """Sums over pictures, float64 [3]: how many, of PSNR (dB), of mean |error|.

  Values are taken to [0, 1]. PSNR is -10 log10 of a picture's mean squared
  error, at most 100 dB; the score is the mean over pictures.
  """

  sums: np.ndarray

  lower_is_better = ('l1',)

  @classmethod
  def empty(cls) -> 'PictureError':
    """The state of no picture, neutral in `merge`."""
    return cls(np.zeros(3))

  @classmethod
  def from_pictures(
    cls,
    truth: UInt8[np.ndarray, 'h w c'],
    made: UInt8[np.ndarray, 'h2 w2 c'],
  ) -> 'PictureError':
    """The state of one pair; raises ValueError for pictures of two shapes."""
    if truth.shape != made.shape:
      raise ValueError(
        f'the picture is {truth.shape} and what was made of it {made.shape}; '
        'resize one of them.'
      )
    error = (truth.astype(np.float64) - made) / 255
    psnr = -10 * np.log10(max(np.mean(error**2), _LEAST))
    return cls(np.array([1, psnr, np.abs(error).mean()]))

  def merge(self, other: 'PictureError') -> 'PictureError':
    """The sums of both."""
    return PictureError(self.sums + other.sums)

  def compute(self, per_class: bool = True) -> dict[str, float]:
    """'psnr' in dB and 'l1' in [0, 1]; both 0 of no picture."""
    del per_class  # there are no classes
    count, psnr, l1 = self.sums / max(self.sums[0], 1)
    del count
    return {'psnr': float(psnr), 'l1': float(l1)}

  def to_bytes(self) -> bytes:
    """For other processes; see `wire`."""
    return wire.pack({}, {'sums': self.sums})

  @classmethod
  def from_bytes(cls, data: bytes) -> 'PictureError':
    """The inverse of `to_bytes`."""
    return cls(wire.unpack(data)[1]['sums'])
