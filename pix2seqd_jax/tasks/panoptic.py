"""Panoptic segmentation: one class and one id for each pixel of an image."""

from collections.abc import Callable, Sequence

import numpy as np
from scipy import ndimage

from pix2seqd_jax import types
from pix2seqd_jax.encoding import panoptic_ids
from pix2seqd_jax.metrics import collection, mean_iou, panoptic_quality
from pix2seqd_jax.registry import TASKS


@TASKS.register('panoptic')
class PanopticTask:
  """Refines a read-out, names its segments and scores it with PQ and mIoU.

  The read-out is Pix2Seq-D's (https://arxiv.org/abs/2210.06366, section 3.3):
  the majority class of each id, without small segments. There is no threshold
  on confidence, and by default no search for connected components.

  Attributes:
    categories: class c is `categories[c - 1]`.
    min_pixels: segments with fewer pixels, at the original size, become void.
      They are counted before stuff is merged, as in the reference.
    merge_stuff: ids of one stuff class become the smallest of them. The truth
      has one segment for each stuff class, and the reference's metric, which
      was not released, cannot tell whether it did this.
    void_id_zero: pixels with id 0 are void, as in the reference's COCO branch;
      otherwise id 0 is an id like any other and may win a class.
    split_things: each connected component of a thing's id becomes a thing of
      its own (pixels touch by a side). Not in the reference; right where
      things are in one piece, as cells are: two of them that got one id far
      apart are then two.
    class_agnostic: PQ takes all segments as one class, and classes are not
      compared otherwise: there is no mIoU.
    given: labels that are inputs: ('instance',) for an autoencoder of masks.
  """

  def __init__(
    self,
    categories: Sequence[types.Category],
    min_pixels: int = 0,
    merge_stuff: bool = True,
    void_id_zero: bool = True,
    split_things: bool = False,
    class_agnostic: bool = False,
    given: tuple[str, ...] = (),
  ):
    if set(given) - {'semantic', 'instance'}:
      raise ValueError(
        f"task.given={given} may hold 'semantic' and 'instance' only: labels "
        'that the model is to be handed.'
      )
    if min_pixels < 0:
      raise ValueError(
        f'task.min_pixels={min_pixels} must be 0 (keep all segments) or more.'
      )
    self.categories = tuple(categories)
    if not self.categories:
      raise ValueError(
        'task.categories is empty; give the categories of the data set.'
      )
    self.min_pixels = min_pixels
    self.merge_stuff = merge_stuff
    self.void_id_zero = void_id_zero
    self.split_things = split_things
    self.class_agnostic = class_agnostic
    self.given = tuple(given)
    self._is_thing = np.array([c.is_thing for c in self.categories], bool)

  def predict(
    self,
    sample_fn: Callable[..., types.Raw],
    batch: types.Batch,
    keys: types.Array,
  ) -> types.Raw:
    """One call of the sampler."""
    return sample_fn(batch, keys)

  def refine(self, segmentation: types.Segmentation) -> types.Segmentation:
    """Gives each id one class and voids what is small; NumPy, original size.

    Raises ValueError for classes outside 0..num_classes or negative ids.
    """
    instance = np.asarray(segmentation.instance, np.int32)
    semantic = np.asarray(segmentation.semantic, np.int32)
    votes = panoptic_ids.majority_class(
      semantic, instance, len(self.categories)
    )
    if self.split_things:
      things = [
        i for i, c in votes.items() if i and c and self._is_thing[c - 1]
      ]
      instance = _split(instance, things, votes)
    ids, areas, inverse = panoptic_ids.ranks(instance)
    classes = np.array([votes[i] for i in ids.tolist()], np.int32)
    classes[areas < self.min_pixels] = 0
    if self.void_id_zero:
      classes[ids == 0] = 0
    new_ids = np.where(classes > 0, ids, 0)
    if self.merge_stuff:
      for c in np.flatnonzero(~self._is_thing) + 1:
        same = classes == c
        if same.any():
          new_ids[same] = new_ids[same].min()
    return segmentation._replace(
      semantic=classes[inverse], instance=new_ids[inverse].astype(np.int32)
    )

  def merge(
    self, found: types.Segmentation, kept: Sequence[int] = ()
  ) -> types.Segmentation:
    """All of a class of stuff gets the smallest of its ids.

    Args:
      found: with one class for each id.
      kept: ids that stay apart.
    """
    instance = found.instance.copy()
    free = ~np.isin(instance, kept)
    for c in np.flatnonzero(~self._is_thing) + 1:
      same = free & (found.semantic == c)
      if same.any():
        instance[same] = instance[same].min()
    return found._replace(instance=instance)

  def segments(
    self, segmentation: types.Segmentation
  ) -> tuple[np.ndarray, tuple[types.Segment, ...]]:
    """See `name_segments`."""
    return name_segments(segmentation)

  def metrics(
    self, segmentation: types.Segmentation, meta: types.Meta
  ) -> collection.Collection:
    """PQ, and of classes mIoU, of one refined segmentation.

    Args:
      segmentation: at the original size.
      meta: `truth` holds `ids` [h, w] and `segments` at the original size.
        Pixels of a crowd count in mIoU with their class.
    """
    truth = meta['truth']
    ids, segments = self.segments(segmentation)
    quality = panoptic_quality.PanopticQuality.from_maps(
      truth['ids'],
      truth['segments'],
      ids,
      segments,
      self.categories,
      class_agnostic=self.class_agnostic,
    )
    if self.class_agnostic:
      return collection.Collection({'panoptic_quality': quality})
    classes = mean_iou.MeanIoU.from_maps(
      semantic_of(truth['ids'], truth['segments']),
      np.asarray(segmentation.semantic),
      self.categories,
    )
    return collection.Collection(
      {'panoptic_quality': quality, 'mean_iou': classes}
    )

  def empty(self) -> collection.Collection:
    """The state of no image, for a process that has none."""
    if self.class_agnostic:
      quality = panoptic_quality.PanopticQuality.empty(panoptic_quality.ANY)
      return collection.Collection({'panoptic_quality': quality})
    return collection.Collection(
      {
        'panoptic_quality': panoptic_quality.PanopticQuality.empty(
          self.categories
        ),
        'mean_iou': mean_iou.MeanIoU.empty(self.categories),
      }
    )


def name_segments(
  segmentation: types.Segmentation,
) -> tuple[np.ndarray, tuple[types.Segment, ...]]:
  """Names the segments of a refined segmentation 1, 2, ...

  Pixels of one class and one id are a segment, so that a map of classes
  alone (all ids 0) has one for each class. The score of a segment is the
  mean of its pixels' scores, None without scores.

  Returns:
    (ids int32 [h, w] with 0 = void, the segments in the order of their ids).
  """
  semantic = np.asarray(segmentation.semantic, np.int64)
  instance = np.asarray(segmentation.instance, np.int64)
  span = int(instance.max(initial=0)) + 1
  pairs = semantic * span + instance
  pairs[semantic == 0] = 0
  found, areas, inverse = panoptic_ids.ranks(pairs)
  first = int(found.size > 0 and found[0] == 0)  # 1 where there is void
  scores = None
  if segmentation.score is not None:
    sums = np.bincount(
      inverse.ravel(), np.ravel(segmentation.score), len(found)
    )
    scores = sums / areas
  segments = tuple(
    types.Segment(
      id=i + 1 - first,
      class_id=int(found[i] // span),
      score=None if scores is None else float(scores[i]),
    )
    for i in range(first, len(found))
  )
  return (inverse + 1 - first).astype(np.int32), segments


def semantic_of(
  ids: np.ndarray, segments: Sequence[types.Segment]
) -> np.ndarray:
  """The class of each pixel, int32 [h, w]; 0 is void in both.

  Raises ValueError when the map holds an id that no segment names.
  """
  names = np.array([s.id for s in segments], np.int64)
  classes = np.array([0, *(s.class_id for s in segments)], np.int32)
  return classes[panoptic_quality.positions(ids, names, 'truth')]


def _split(instance, names, votes):
  """Gives components past the first of each id in `names` fresh ids.

  `votes` gets the classes of the fresh ids: those of the id they came from.
  """
  instance = instance.copy()
  fresh = int(instance.max(initial=0)) + 1
  boxes = ndimage.find_objects(instance)
  for name in names:
    part = instance[boxes[name - 1]]
    parts, count = ndimage.label(part == name)
    for k in range(2, count + 1):
      part[parts == k] = fresh
      votes[fresh] = votes[name]
      fresh += 1
  return instance
