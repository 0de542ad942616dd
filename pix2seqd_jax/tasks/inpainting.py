"""Inpainting: a part of the mask is given, the model finds the rest.

The protocol of LDMSeg (arXiv 2401.10227, section 4.4): of the true ids whole
blocks are taken away, each by itself, and what comes back is scored.
"""

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from pix2seqd_jax import types
from pix2seqd_jax.encoding import panoptic_ids
from pix2seqd_jax.registry import TASKS
from pix2seqd_jax.tasks import panoptic

# Sets the draws of what is taken away apart from the sampler's own.
_STREAM = 0x67697665


@TASKS.register('inpainting')
class InpaintingTask(panoptic.PanopticTask):
  """Panoptic segmentation with some pixels told; scored as without.

  The model is handed batch['given'] = {'instance': int32 [b, h, w], 0 where
  unknown; 'known': bool [b, h, w]} at the size of masks. What is taken away
  depends on the key of an example alone, not on its batch; of two drop rates
  the larger one takes more away from the same blocks.

  Attributes:
    categories, min_pixels, merge_stuff, void_id_zero, class_agnostic: as
      panoptic.PanopticTask's. Ids that were given are never split.
    block_size: side of the blocks, in pixels of the mask; the first is at the
      upper left, and the last of a row may be cut.
    drop_rate: the chance of each block to be taken away: 0 gives all, 1
      nothing.
    pixels: above 0, no blocks: single pixels are given, this fraction of all.
    give_void: void of the truth, where a block is given, is given as void;
      otherwise it is unknown.
    keep_given: what is given is pasted into the read-out, unchanged (at the
      original size, by the nearest pixel).
    hold: the sampler keeps to what is given. Otherwise it only starts from
      it, by sample.strength below 1, as one refines a poor mask.
  """

  def __init__(
    self,
    categories: Sequence[types.Category],
    min_pixels: int = 0,
    merge_stuff: bool = True,
    void_id_zero: bool = True,
    split_things: bool = False,
    class_agnostic: bool = False,
    block_size: int = 16,
    drop_rate: float = 0.5,
    pixels: float = 0.0,
    give_void: bool = True,
    keep_given: bool = True,
    hold: bool = True,
  ):
    super().__init__(
      categories,
      min_pixels,
      merge_stuff,
      void_id_zero,
      split_things,
      class_agnostic,
      ('instance',),
    )
    if split_things:
      raise ValueError(
        'task.split_things=True would give parts of a segment that was given '
        'other ids; set it False for inpainting.'
      )
    if isinstance(block_size, bool) or block_size < 1 or block_size % 1:
      raise ValueError(
        f'task.block_size={block_size} must be a whole number of pixels of '
        'the mask, at least 1.'
      )
    for key, fraction in (('drop_rate', drop_rate), ('pixels', pixels)):
      if not 0 <= fraction <= 1:
        raise ValueError(f'task.{key}={fraction} must lie in [0, 1].')
    self.block_size = int(block_size)
    self.drop_rate = drop_rate
    self.pixels = pixels
    self.give_void = give_void
    self.keep_given = keep_given
    self.hold = hold

  def sparse(
    self, instance: types.Array, keys: types.Array
  ) -> dict[str, types.Array]:
    """{'instance', 'known'} [b, h, w]: what is left of the true ids."""
    block, rate = self.block_size, self.drop_rate
    if self.pixels > 0:
      block, rate = 1, 1 - self.pixels
    given = _sparse(instance, keys, rate, block, self.give_void)
    # Split over devices as the ids are.
    return jax.device_put(given, instance.sharding)

  def predict(
    self,
    sample_fn: Callable[..., types.Raw],
    batch: types.Batch,
    keys: types.Array,
  ) -> types.Raw:
    """One call of the sampler; its answer also holds what was given."""
    given = self.sparse(jnp.asarray(batch['given']['instance']), keys)
    told = given
    if not self.hold:
      told = {**given, 'known': jnp.zeros_like(given['known'])}
    raw = dict(sample_fn({**batch, 'given': told}, keys))
    if not self.keep_given:
      return raw
    padded = np.array(batch['image'].shape[1:3], np.int32)
    padded = np.tile(padded, (keys.shape[0], 1))
    return {**raw, 'given': {**given, 'padded': padded}}

  def paste(
    self, segmentation: types.Segmentation, raw: types.Raw, meta: types.Meta
  ) -> types.Segmentation:
    """A refined read-out with what was given; itself where nothing is kept.

    Args:
      segmentation: at the original size.
      raw: of this example, from `predict`.
      meta: of this example.
    """
    if not self.keep_given:
      return segmentation
    given = raw['given']

    def resize(values):
      values = panoptic_ids.resize_nearest(
        np.asarray(values), tuple(given['padded'].tolist())
      )
      height, width = meta['unpadded']
      return panoptic_ids.resize_nearest(
        values[:height, :width], tuple(meta['size'])
      )

    found = paste(
      segmentation, resize(given['instance']), resize(given['known'])
    )
    # What was refined had one id for each class of stuff.
    return self.merge(found) if self.merge_stuff else found


@functools.partial(jax.jit, static_argnames=('block', 'give_void'))
def _sparse(instance, keys, rate, block, give_void):
  size = instance.shape[1:]
  cells = [-(-side // block) for side in size]

  def draw(key):
    # In [0, 1): a rate of 0 takes nothing away, and 1 everything.
    return jax.random.uniform(jax.random.fold_in(key, _STREAM), cells) >= rate

  rows, columns = (np.arange(side) // block for side in size)
  known = jax.vmap(draw)(keys)[:, rows][:, :, columns]
  if not give_void:
    known &= instance > 0
  return {'instance': jnp.where(known, instance, 0), 'known': known}


def paste(
  segmentation: types.Segmentation, ids: np.ndarray, known: np.ndarray
) -> types.Segmentation:
  """A refined segmentation in which `known` pixels have the ids that are given.

  The class of a given id is that of the segment with that id; of an id that
  was not found the class that most of its pixels have, or else 1. The score of
  given pixels is 1.

  Args:
    segmentation: with one class for each id.
    ids: int [h, w], of the same size.
    known: bool [h, w]; where it is True and the id is 0, void is given.
  """
  semantic, instance = segmentation.semantic, segmentation.instance
  told = np.unique(ids[known])
  classes = np.zeros(int(told.max(initial=0)) + 1, np.int32)
  for name in told[told > 0].tolist():
    found = semantic[instance == name]
    if not found.any():
      found = semantic[known & (ids == name)]
    found = found[found > 0]
    classes[name] = np.bincount(found).argmax() if found.size else 1
  given = np.where(known, ids, 0)
  score = segmentation.score
  return segmentation._replace(
    semantic=np.where(known, classes[given], semantic).astype(np.int32),
    instance=np.where(known, given, instance).astype(np.int32),
    score=None if score is None else np.where(known, np.float32(1), score),
  )
