"""Semantic segmentation: one class for each pixel of an image."""

from collections.abc import Callable, Sequence

import numpy as np

from pix2seqd_jax import types
from pix2seqd_jax.metrics import mean_iou
from pix2seqd_jax.registry import TASKS
from pix2seqd_jax.tasks import panoptic


@TASKS.register('semantic')
class SemanticTask:
  """Scores the classes of a read-out; ids mean nothing.

  SemFlow (https://arxiv.org/abs/2405.20282, section 4.1) reports mIoU, and its
  release has no code for it. Here it is taken at the original size, over all
  images at once, where the truth is not void: void of the truth (the
  255 of many data sets) is ignored, void that is predicted is a miss.

  Attributes:
    categories: class c is `categories[c - 1]`.
    given: no label is an input.
  """

  given: tuple[str, ...] = ()

  def __init__(self, categories: Sequence[types.Category]):
    self.categories = tuple(categories)
    if not self.categories:
      raise ValueError(
        'task.categories is empty; give the categories of the data set.'
      )

  def predict(
    self,
    sample_fn: Callable[..., types.Raw],
    batch: types.Batch,
    keys: types.Array,
  ) -> types.Raw:
    """One call of the sampler."""
    return sample_fn(batch, keys)

  def refine(self, segmentation: types.Segmentation) -> types.Segmentation:
    """All of a class is one segment, whatever ids the model gave."""
    semantic = np.asarray(segmentation.semantic, np.int32)
    return segmentation._replace(semantic=semantic, instance=semantic)

  def segments(
    self, segmentation: types.Segmentation
  ) -> tuple[np.ndarray, tuple[types.Segment, ...]]:
    """See `panoptic.name_segments`: one segment for each class that is seen."""
    return panoptic.name_segments(segmentation)

  def metrics(
    self, segmentation: types.Segmentation, meta: types.Meta
  ) -> mean_iou.MeanIoU:
    """mIoU, pixel accuracy and the IoU of each class, of one image.

    Args:
      segmentation: at the original size.
      meta: `truth` holds `ids` [h, w] and `segments` at the original size.

    Raises:
      ValueError: another size than the truth's, or a class that there is not.
    """
    truth = meta['truth']
    return mean_iou.MeanIoU.from_maps(
      panoptic.semantic_of(truth['ids'], truth['segments']),
      np.asarray(segmentation.semantic),
      self.categories,
    )

  def empty(self) -> mean_iou.MeanIoU:
    """The state of no image, for a process that has none."""
    return mean_iou.MeanIoU.empty(self.categories)
