"""Logits of ids -> segments, by thresholds: LDMSeg's read-out.

https://arxiv.org/abs/2401.10227, section 4.1, as released. All is NumPy, at
the size of the original image.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

CONFIDENCES = ('max', 'margin', 'none')
# Logits that are made at once at the original size: 64 MiB in float32.
_STRIP = 1 << 24


class Thresholds(NamedTuple):
  """When a pixel or a segment becomes void.

  Attributes:
    mask: pixels below this confidence; also the probability from which on a
      pixel counts as the id's in `overlap`.
    overlap: segments of which the argmax has less than this fraction of the
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
  """Segments of an image.

  Attributes:
    ids: 0 = void.
    score: the confidence of each pixel (the largest probability for 'none').
  """

  ids: Int[np.ndarray, 'h w']
  score: Float[np.ndarray, 'h w']


def resize_bilinear(
  x: Float[np.ndarray, 'h w k'],
  size: tuple[int, int],
  rows: slice = slice(None),
) -> Float[np.ndarray, 'H W k']:
  """Pixel centres at (i + 1/2) / size, borders repeated, no antialiasing.

  Args:
    x: any map.
    size: (height, width) of the result.
    rows: of the result, which alone are made.
  """
  for axis, (length, part) in enumerate(zip(size, (rows, slice(None)))):
    if x.shape[axis] == length:
      x = x[part] if axis == 0 else x
      continue
    old = x.shape[axis]
    at = (np.arange(length)[part] + 0.5) * (old / length) - 0.5
    at = np.clip(at, 0, old - 1)
    low = np.minimum(at.astype(np.int64), max(old - 2, 0))
    fraction = (at - low).astype(x.dtype)
    fraction = fraction.reshape((-1,) + (1,) * (x.ndim - 1 - axis))
    first = np.take(x, low, axis)
    after = np.take(x, np.minimum(low + 1, old - 1), axis)
    x = first + fraction * (after - first)
  return x


def segments_of(
  logits: Float[np.ndarray, 'h w k'],
  size: tuple[int, int],
  thresholds: Thresholds = Thresholds(),
  *,
  padded: tuple[int, int] | None = None,
  unpadded: tuple[int, int] | None = None,
) -> Read:
  """Logits -> ids, at the size of the original image.

  Args:
    logits: of the ids 0..k - 1 at the network's resolution.
    size: (height, width) of the original image.
    thresholds: what becomes void.
    padded: size of the image that the network saw, which `logits` cover.
      They are brought to it first, as in the release.
    unpadded: how much of it, from the upper left, is image; None: all.

  Returns:
    The segments; their ids are the indices of the logits.
  """
  if padded is not None:
    height, width = unpadded or padded
    logits = resize_bilinear(logits, padded)[:height, :width]
  parts = [
    _read(resize_bilinear(logits, size, rows), thresholds)
    for rows in _strips(size, logits.shape[-1])
  ]
  ids, score = (np.concatenate(list(p)) for p in list(zip(*parts))[:2])
  reached = sum(p[2] for p in parts)
  areas = np.bincount(ids.ravel(), minlength=len(reached))
  kept = (areas >= thresholds.min_pixels) & (
    areas >= thresholds.overlap * reached
  )
  names = np.where(kept, np.arange(len(kept)), 0)
  return Read(names[ids].astype(np.int32), score.astype(np.float32))


def _strips(size, num_ids):
  """Rows that are looked at together: a large image's logits are many."""
  height, width = size
  count = max(1, _STRIP // (width * num_ids))
  return [slice(i, min(i + count, height)) for i in range(0, height, count)]


def _read(logits, thresholds):
  """-> (ids, scores, pixels where each id's own logit reaches the mask)."""
  ids = np.argmax(logits, -1)
  score = _confidence(logits, ids, thresholds.confidence)
  if thresholds.confidence != 'none':
    ids = np.where(score < thresholds.mask, 0, ids)
  if thresholds.overlap_of == 'sigmoid':
    with np.errstate(over='ignore'):
      logits = 1 / (1 + np.exp(-logits))
  reached = np.count_nonzero(logits >= thresholds.mask, axis=(0, 1))
  return ids, score, reached


def _confidence(logits, ids, kind):
  largest = np.take_along_axis(logits, ids[..., None], -1)
  total = np.exp(logits - largest).sum(-1)
  if kind != 'margin':
    return 1 / total
  others = logits.copy()
  np.put_along_axis(others, ids[..., None], -np.inf, -1)
  return (1 - np.exp(others.max(-1) - largest[..., 0])) / total
