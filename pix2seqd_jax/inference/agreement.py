"""Several samples of one image: which to show, and where they agree.

The numbers of ids mean nothing across samples, so segments are matched first:
one to one, within a class, so that the sum of their IoU is the largest.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import optimize

from pix2seqd_jax import types
from pix2seqd_jax.encoding import panoptic_ids

Sample = tuple[np.ndarray, Sequence[types.Segment]]


class Consensus(NamedTuple):
  """What several samples say together.

  Attributes:
    index: the sample that agrees best with all others, in the mean over pairs
      and pixels (their medoid; of equals the first). It is a mask that the
      model drew, which a vote for each pixel need not be.
    agreement: float32 [h, w], the fraction of all samples, this one included,
      that agree with it: 1/n where it is alone, 1 where nothing is in doubt.
  """

  index: int
  agreement: np.ndarray


class _Ranked(NamedTuple):
  which: np.ndarray  # [h, w], the rank of each pixel's id
  areas: np.ndarray
  classes: np.ndarray  # 0 = void


def consensus(samples: Sequence[Sample]) -> Consensus:
  """Compares (ids [h, w], segments) pairs of one image.

  Two samples agree on a pixel where its segments are matched, or where both
  are void. Ids that no segment names are void. Time n^2/2 passes over the
  pixels; memory one map for each sample.

  Raises:
    ValueError: there is no sample, or they differ in size.
  """
  if not len(samples):
    raise ValueError('consensus needs at least one sample.')
  sizes = {np.shape(ids) for ids, _ in samples}
  if len(sizes) > 1:
    raise ValueError(f'samples of one image differ in size: {sorted(sizes)}.')
  ranked = [_rank(*sample) for sample in samples]
  total = np.zeros(len(ranked), np.int64)
  for i, one in enumerate(ranked):
    for j, other in enumerate(ranked[:i]):
      counts = _count(one, other)
      pixels = counts[_matched(one, other, counts)].sum()
      total[i] += pixels
      total[j] += pixels
  index = int(total.argmax())
  chosen = ranked[index]
  votes = np.ones(chosen.which.shape, np.int32)
  for j, other in enumerate(ranked):
    if j != index:
      same = _matched(chosen, other, _count(chosen, other))
      votes += np.take(same.reshape(-1), _pairs(chosen, other))
  return Consensus(index, votes.astype(np.float32) / len(ranked))


def labels(samples: Sequence[Sample], index: int = 0) -> np.ndarray:
  """All samples in numbers that mean the same, int32 [n, h, w]; 0 is void.

  Segments that are matched to one of sample `index` get its number. Those that
  are not, are matched to what is left of the samples before, in their order;
  what then is left gets a number of its own. So, of the samples, the share
  with the number that sample `index` has is `consensus`'s agreement.
  """
  ranked = [_rank(*sample) for sample in samples]
  order = [index, *(i for i in range(len(ranked)) if i != index)]
  numbers: dict[int, np.ndarray] = {}  # of each sample, by rank; -1: none yet
  own: dict[int, np.ndarray] = {}  # the ranks whose number is this sample's
  fresh = 1
  for i in order:
    one = ranked[i]
    number = np.where(one.classes == 0, 0, -1)
    for j in numbers:
      same = _matched(ranked[j], one, _count(ranked[j], one))
      rows, columns = np.nonzero(same & own[j][:, None] & (number < 0))
      number[columns] = numbers[j][rows]
    own[i] = number < 0
    number[own[i]] = np.arange(fresh, fresh + own[i].sum())
    fresh += int(own[i].sum())
    numbers[i] = number
  return np.stack(
    [numbers[i].astype(np.int32)[one.which] for i, one in enumerate(ranked)]
  )


def entropy(samples: Sequence[Sample], index: int = 0) -> np.ndarray:
  """How far the samples are from being of one mind, float32 [h, w], in nats.

  The entropy of the labels (see `labels`) that they give a pixel: 0 where all
  agree, log(n) where no two do.
  """
  named = labels(samples, index)
  total = np.zeros(named.shape[1:], np.float32)
  for one in named:
    fractions = (named == one).mean(0, dtype=np.float32)
    total -= np.log(fractions) / len(named)
  return np.maximum(total, 0)


def confidence(ids: np.ndarray, agreement: np.ndarray) -> dict[int, float]:
  """The mean agreement within each segment of a map [h, w], by id."""
  found, areas, which = panoptic_ids.ranks(np.asarray(ids))
  sums = np.bincount(which.reshape(-1), np.ravel(agreement), len(found))
  return dict(zip(found.tolist(), (sums / areas).tolist(), strict=True))


def _rank(ids, segments):
  found, areas, which = panoptic_ids.ranks(np.asarray(ids))
  named = {segment.id: segment.class_id for segment in segments}
  classes = [named.get(name, 0) for name in found.tolist()]
  # One byte a pixel, as a rule: there is one such map for every sample.
  which = which.astype(np.min_scalar_type(len(areas)))
  return _Ranked(which, areas, np.array(classes, int))


def _pairs(a, b):
  return a.which.astype(np.int32) * np.int32(len(b.areas)) + b.which


def _count(a, b):
  """Pixels of each pair of segments, [segments of a, segments of b]."""
  shape = len(a.areas), len(b.areas)
  counts = np.bincount(_pairs(a, b).reshape(-1), minlength=shape[0] * shape[1])
  return counts.reshape(shape)


def _matched(a, b, counts):
  """bool, like `counts`: which segments are the same one."""
  same = a.classes[:, None] == b.classes
  unions = a.areas[:, None] + b.areas - counts
  scores = np.where(same, counts / np.maximum(unions, 1), 0)
  # One class is one block: matching blocks is matching all, and the zeros
  # between them cost nothing.
  rows, columns = optimize.linear_sum_assignment(scores, maximize=True)
  matched = np.zeros(counts.shape, bool)
  matched[rows, columns] = scores[rows, columns] > 0
  matched[np.ix_(a.classes == 0, b.classes == 0)] = True
  return matched
