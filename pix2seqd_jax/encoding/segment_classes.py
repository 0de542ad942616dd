"""Classes of pixels, at the network's size -> a class for each segment.

Segments are those of the original image; NumPy. For LDMSeg's classifier
(arXiv 2401.10227), of which nothing was released: the vote is ours.
"""

import numpy as np
from jaxtyping import Float, Int

from pix2seqd_jax.encoding import panoptic_ids

VOTES = ('mean', 'majority')


def vote(
  logits: Float[np.ndarray, 'h w c'],
  ids: Int[np.ndarray, 'H W'],
  kind: str = 'mean',
  *,
  padded: tuple[int, int] | None = None,
  unpadded: tuple[int, int] | None = None,
) -> Int[np.ndarray, 'H W']:
  """The class that the pixels of each segment give it, int32; id 0 is void.

  A pixel's probabilities are those around it at the network's size, between
  them bilinearly. They are never made for the pixels: what each place of the
  network's map counts for in a segment is summed first.

  Args:
    logits: of the classes 0 (void) .. c - 1. Where void wins, the segment is
      void.
    ids: of segments, at the size of the original image; 0 = void.
    kind: 'mean' of the softmax in the segment, or 'majority' of the likeliest
      classes of its pixels. Of equals the smallest wins.
    padded: size of the image that the network saw, which `logits` cover.
    unpadded: how much of it, from the upper left, is image; None: all.

  Raises:
    ValueError: another `kind`.
  """
  if kind not in VOTES:
    raise ValueError(
      f'vote={kind!r} is unknown; use one of {", ".join(VOTES)}.'
    )
  classes = logits.shape[-1]
  if kind == 'mean':
    values = np.exp(logits - logits.max(-1, keepdims=True))
    values /= values.sum(-1, keepdims=True)
  else:
    values = np.eye(classes, dtype=logits.dtype)[logits.argmax(-1)]
  found, _, which = panoptic_ids.ranks(ids)
  fractions = (1.0, 1.0)
  if padded is not None:
    inner = unpadded or padded
    fractions = tuple(new / old for new, old in zip(inner, padded))
  counts = _places(which, len(found), logits.shape[:2], fractions)
  winners = (counts @ values.reshape(-1, classes)).argmax(-1)
  return np.where(found > 0, winners, 0).astype(np.int32)[which]


def _places(which, num_segments, size, fractions):
  """[segments, h w]: the sum of the bilinear weights that the pixels of each
  segment give to each place of a map, which the image fills to `shares`."""
  ends = []
  for length, new, fraction in zip(which.shape, size, fractions):
    at = (np.arange(length) + 0.5) * (fraction * new / length) - 0.5
    at = np.clip(at, 0, new - 1)
    low = at.astype(np.int64)
    part = at - low
    high = np.minimum(low + 1, new - 1)
    ends.append(((low, 1 - part), (high, part)))
  total = np.zeros(num_segments * size[0] * size[1])
  base = which.astype(np.int64) * (size[0] * size[1])
  for row, by_row in ends[0]:
    for column, by_column in ends[1]:
      place = base + row[:, None] * size[1] + column
      weight = by_row[:, None] * by_column
      total += np.bincount(place.ravel(), weight.ravel(), len(total))
  return total.reshape(num_segments, -1).astype(np.float32)
