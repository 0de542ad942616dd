"""Logits of ids -> segments, by thresholds: LDMSeg's read-out.

https://arxiv.org/abs/2401.10227, section 4.1, as released. All is NumPy, at
the size of the original picture.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

CONFIDENCES = ('max', 'margin', 'none')


class Thresholds(NamedTuple):
  """When a pixel or a segment becomes void.

  Attributes:
    mask: pixels below this confidence; also the probability from which on a
      pixel counts as the id's in `overlap`.
    overlap: segments of which the argmax has less than this share of the
      pixels where the id's own sigmoid reaches `mask`.
    min_pixels: segments of fewer pixels.
    confidence: 'max' (the largest softmax probability), 'margin' (over the
      second), or 'none' (no pixel is void for it).
    overlap_of: 'sigmoid', or 'logits': the released evaluation of the
      autoencoder alone compares raw logits with `mask`.
  """

  mask: float | int = 0.5
  overlap: float | int = 0.5
  min_pixels: int = 512
  confidence: str = 'max'
  overlap_of: str = 'sigmoid'

  def check(self, name: str) -> None:
    """Raises ValueError for values that cannot be right."""
    for key in ('mask', 'overlap'):
      if not 0 <= getattr(self, key) <= 1:
        raise ValueError(f'{name}.{key}={getattr(self, key)} must be 0 to 1.')
    if self.min_pixels < 0:
      raise ValueError(
        f'{name}.min_pixels={self.min_pixels} must be 0 or more.'
      )
    for key, known in (
      ('confidence', CONFIDENCES),
      ('overlap_of', ('sigmoid', 'logits')),
    ):
      if getattr(self, key) not in known:
        raise ValueError(
          f'{name}.{key}={getattr(self, key)!r} is unknown; use one of '
          f'{", ".join(known)}.'
        )


class Read(NamedTuple):
  """Segments of a picture.

  Attributes:
    ids: 0 = void.
    score: the confidence of each pixel (the largest probability for 'none').
  """

  ids: Int[np.ndarray, 'h w']
  score: Float[np.ndarray, 'h w']


def resize_bilinear(
  x: Float[np.ndarray, 'h w k'], size: tuple[int, int]
) -> Float[np.ndarray, 'H W k']:
  """Pixel centres at (i + 1/2) / size, borders repeated, no antialiasing."""
  for axis, length in enumerate(size):
    if x.shape[axis] == length:
      continue
    old = x.shape[axis]
    at = (np.arange(length) + 0.5) * (old / length) - 0.5
    at = np.clip(at, 0, old - 1)
    low = np.minimum(at.astype(np.int64), max(old - 2, 0))
    share = (at - low).astype(x.dtype)
    share = share.reshape((-1,) + (1,) * (x.ndim - 1 - axis))
    first = np.take(x, low, axis)
    after = np.take(x, np.minimum(low + 1, old - 1), axis)
    x = first + share * (after - first)
  return x


def segments_of(
  logits: Float[np.ndarray, 'h w k'],
  size: tuple[int, int],
  thresholds: Thresholds = Thresholds(),
  *,
  padded: tuple[int, int] | None = None,
  unpadded: tuple[int, int] | None = None,
) -> Read:
  """Logits -> ids, at the size of the original picture.

  Args:
    logits: of the ids 0..k - 1 at the network's resolution.
    size: (height, width) of the original picture.
    thresholds: what becomes void.
    padded: size of the picture that the network saw, which `logits` cover.
      They are brought to it first, as in the release.
    unpadded: how much of it, from the upper left, is picture; None: all.

  Returns:
    The segments; their ids are the indices of the logits.
  """
  if padded is not None:
    height, width = unpadded or padded
    logits = resize_bilinear(logits, padded)[:height, :width]
  logits = resize_bilinear(logits, size)
  ids = np.argmax(logits, -1)
  score = _confidence(logits, ids, thresholds.confidence)
  if thresholds.confidence != 'none':
    ids = np.where(score < thresholds.mask, 0, ids)
  found, areas = np.unique(ids, return_counts=True)
  for name, area in zip(found.tolist(), areas.tolist(), strict=True):
    if name and not _is_kept(logits[..., name], area, thresholds):
      ids[ids == name] = 0
  return Read(ids.astype(np.int32), score.astype(np.float32))


def _confidence(logits, ids, kind):
  largest = np.take_along_axis(logits, ids[..., None], -1)
  total = np.exp(logits - largest).sum(-1)
  if kind != 'margin':
    return 1 / total
  others = logits.copy()
  np.put_along_axis(others, ids[..., None], -np.inf, -1)
  return (1 - np.exp(others.max(-1) - largest[..., 0])) / total


def _is_kept(logits, area, thresholds):
  if area < thresholds.min_pixels:
    return False
  if thresholds.overlap_of == 'sigmoid':
    with np.errstate(over='ignore'):
      logits = 1 / (1 + np.exp(-logits))
  reached = np.count_nonzero(logits >= thresholds.mask)
  return area >= thresholds.overlap * reached
