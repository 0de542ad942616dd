"""Mean intersection over union of classes, from one confusion matrix."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Integer

from pix2seqd_jax import types
from pix2seqd_jax.metrics import wire
from pix2seqd_jax.registry import METRICS


@METRICS.register('mean_iou')
@wire.portable
class MeanIoU(NamedTuple):
  """Pixels of each (true class, predicted class); they add up.

  `confusion` is int64 [num_classes + 1, num_classes + 1], rows the truth,
  0 = void. Row 0 is counted but never used: void of the truth is ignored. A
  prediction of void on a class is a miss of that class.
  """

  confusion: np.ndarray
  categories: tuple[types.Category, ...]

  @classmethod
  def empty(cls, categories: Sequence[types.Category]) -> 'MeanIoU':
    """The state of no image, neutral in `merge`."""
    n = len(categories) + 1
    return cls(np.zeros((n, n), np.int64), tuple(categories))

  @classmethod
  def from_maps(
    cls,
    truth: Integer[np.ndarray, 'h w'],
    pred: Integer[np.ndarray, 'h2 w2'],
    categories: Sequence[types.Category],
  ) -> 'MeanIoU':
    """The state of one image, from two maps of class numbers.

    Raises ValueError for maps of two shapes or classes outside 0..num_classes.
    """
    if truth.shape != pred.shape:
      raise ValueError(
        f'the truth is {truth.shape} and the prediction {pred.shape}; read '
        'the prediction out at the original size.'
      )
    n = len(categories) + 1
    for side, array in (('truth', truth), ('prediction', pred)):
      if array.size and (array.min() < 0 or array.max() >= n):
        raise ValueError(
          f'classes of the {side} are {array.min()}..{array.max()}, but must '
          f'be 0 (void)..{n - 1}.'
        )
    pairs = truth.ravel().astype(np.int64) * n + pred.ravel()
    counts = np.bincount(pairs, minlength=n * n).astype(np.int64)
    return cls(counts.reshape(n, n), tuple(categories))

  def merge(self, other: 'MeanIoU') -> 'MeanIoU':
    """The counts of both; raises ValueError when their classes differ."""
    if self.categories != other.categories:
      raise ValueError(
        f'states of {len(self.categories)} and {len(other.categories)} '
        'classes, or of other names, do not merge; give both the same '
        'categories.'
      )
    return self._replace(confusion=self.confusion + other.confusion)

  def per_class(self) -> np.ndarray:
    """IoU of each class, float64 [num_classes]; NaN for a class never seen."""
    counts = self.confusion[1:]
    hits = np.diagonal(counts[:, 1:]).astype(np.float64)
    union = counts.sum(axis=1) + counts[:, 1:].sum(axis=0) - hits
    return np.divide(
      hits, union, out=np.full(len(hits), np.nan), where=union > 0
    )

  def compute(self, per_class: bool = True) -> dict[str, float]:
    """'miou', 'pixel_accuracy', and 'iou_class/<name>' of each class.

    The mean is over classes that occur in the truth or in a prediction on it;
    of none it is 0, and so is a class that never occurs.
    """
    iou = self.per_class()
    seen = ~np.isnan(iou)
    counts = self.confusion[1:]
    hits = np.diagonal(counts[:, 1:]).sum()
    result = {
      'miou': float(iou[seen].mean()) if seen.any() else 0.0,
      'pixel_accuracy': float(hits / max(counts.sum(), 1)),
    }
    if per_class:
      for name, value in zip(wire.unique_names(self.categories), iou):
        result[f'iou_class/{name}'] = float(np.nan_to_num(value))
    return result


@METRICS.register('resegmentation')
class Resegmentation(MeanIoU):
  """MeanIoU of a segmentation of images that were made from the truth.

  Its scores have names of their own: a run that is also asked to segment the
  true images has both.
  """

  __slots__ = ()

  def compute(self, per_class: bool = True) -> dict[str, float]:
    """MeanIoU's, 'resegmentation_' before each name."""
    return {
      f'resegmentation_{name}': value
      for name, value in super().compute(per_class).items()
    }
