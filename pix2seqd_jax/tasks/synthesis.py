"""Synthesis: images that are made from masks, and how good they are."""

import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from pix2seqd_jax import types
from pix2seqd_jax.metrics import collection, fid, lpips, mean_iou
from pix2seqd_jax.registry import TASKS
from pix2seqd_jax.tasks import semantic

# Padding is the middle of the range for the model, and so for features.
_PADDING = 128


class Features(Protocol):
  """What images, uint8 [b, h, w, 3], are judged by.

  See pix2seqd_jax.pretrained.perceptual.
  """

  network: str
  is_trained: bool

  def embed(self, images: types.Array) -> types.Array: ...

  def distance(self, x: types.Array, y: types.Array) -> types.Array: ...


class Synthesised(NamedTuple):
  """A Segmentation (of the made image) and what was measured of it."""

  semantic: np.ndarray
  instance: np.ndarray
  score: np.ndarray | None
  image: np.ndarray
  measured: dict[str, np.ndarray]


@TASKS.register('synthesis')
class SynthesisTask(semantic.SemanticTask):
  """Makes images of the true masks and scores them in three ways.

  SemFlow (https://arxiv.org/abs/2405.20282, section 4.2) reports FID and one
  LPIPS, whose definition it does not give; its release measures nothing. Here:
    * FID of the first sample of each mask against the true images;
    * LPIPS of that sample to the true image (pairwise), and among
      `num_samples` samples of one mask (diversity, 0 where all are alike);
    * mIoU of the model's own segmentation of what it made, against the mask
      that it made it from, at the original size. A model may agree with itself
      on images that nobody else would read so: look at FID too.
  Images are compared as the network sees them: its size, 8 bits (cut off as
  the release writes files), grey where padded. The true images are kept from
  the model while it makes its own.

  Attributes:
    categories: class c is `categories[c - 1]`.
    given: the true classes are the input.
    features: the networks of FID and LPIPS.
    num_samples: of each mask; the first one has the keys of a single one.
    perturbation: of the mask, in levels of 0..255; below 0 the model's own.
  """

  given: tuple[str, ...] = ('semantic',)

  def __init__(
    self,
    categories: Sequence[types.Category],
    features: Features,
    num_samples: int = 2,
    perturbation: float | int = -1.0,
  ):
    super().__init__(categories)
    if num_samples < 1:
      raise ValueError(
        f'synthesis.num_samples={num_samples} must be at least 1; from 2 on '
        'there is a diversity to measure.'
      )
    self.features = features
    self.num_samples = num_samples
    self.perturbation = perturbation

  @property
  def unmeasured(self) -> tuple[str, ...]:
    """Scores of `empty` that it will not give."""
    return () if self.num_samples > 1 else ('lpips_diversity',)

  def predict(
    self,
    sample_fn: Callable[..., types.Raw],
    batch: types.Batch,
    keys: types.Array,
  ) -> types.Raw:
    """Samples of each mask, what is measured of them, and their segmentation.

    Args:
      sample_fn: called `num_samples` times with what was given, and once with
        {'image', 'valid'} of the first made images.
      batch: `image`, `valid`, `given`.
      keys: [b].

    Returns:
      What the segmentation decodes to; `image` [b, h, w, 3] in [0, 1], the
      first samples; `measured`, arrays [b, ...].

    Raises:
      ValueError: the model makes no images.
    """
    # Split over devices as the images are: of several processes, each reads
    # its own rows.
    where = jnp.asarray(batch['valid']).sharding
    truth = _images(batch['image'], batch['valid'])
    told = self._told(batch, where)
    drawn = [
      _drawn(sample_fn(told, _fold(keys, i) if i else keys))
      for i in range(self.num_samples)
    ]
    made = [_images(image, batch['valid']) for image in drawn]
    measured = {
      'made': self.features.embed(made[0]),
      'real': self.features.embed(truth),
      'pairwise': self.features.distance(made[0], truth),
    }
    if self.num_samples > 1:
      pairs = [
        self.features.distance(*pair)
        for pair in itertools.combinations(made, 2)
      ]
      measured['diversity'] = sum(pairs) / len(pairs)
    again = sample_fn({'image': made[0], 'valid': batch['valid']}, keys)
    measured = jax.device_put(measured, where)
    return {**again, 'image': drawn[0], 'measured': measured}

  def _told(self, batch: types.Batch, where: Any) -> dict[str, Any]:
    """What the model makes images from: not from the true ones."""
    # A cached latent of the image is the image.
    told = {k: v for k, v in batch.items() if k != 'image_latent'}
    blank = np.zeros(batch['image'].shape, batch['image'].dtype)
    told['image'] = jax.device_put(blank, where)
    if self.perturbation >= 0:
      levels = np.full(len(blank), self.perturbation, np.float32)
      told['given'] = {
        **batch['given'],
        'perturbation': jax.device_put(levels, where),
      }
    return told

  def paste(
    self, segmentation: types.Segmentation, raw: types.Raw, meta: types.Meta
  ) -> Synthesised:
    """The read-out with what was measured of its image beside it."""
    del meta
    return Synthesised(*segmentation, measured=raw['measured'])

  def metrics(
    self, segmentation: Synthesised, meta: types.Meta
  ) -> collection.Collection:
    """FID, LPIPS and mIoU of the re-segmentation, of one mask.

    Args:
      segmentation: from `paste`.
      meta: `truth` holds `ids` [h, w] and `segments` at the original size.

    Raises:
      ValueError: as SemanticTask.metrics.
    """
    found = segmentation.measured
    diversity = found.get('diversity')
    return collection.Collection(
      {
        'fid': fid.FID.from_features(
          found['made'][None], found['real'][None], self.features.network
        ),
        'lpips': lpips.LPIPS.from_distances(
          float(found['pairwise']),
          None if diversity is None else float(diversity),
          self.features.is_trained,
        ),
        'resegmentation': mean_iou.Resegmentation(
          *super().metrics(segmentation, meta)
        ),
      }
    )

  def empty(self) -> collection.Collection:
    """The state of no image, for a process that has none."""
    return collection.Collection(
      {
        'fid': fid.FID.empty(self.features.network),
        'lpips': lpips.LPIPS.empty(self.features.is_trained),
        'resegmentation': mean_iou.Resegmentation.empty(self.categories),
      }
    )


@jax.jit
def _images(image, valid):
  """uint8, or what is in [0, 1] -> uint8; padding is grey."""
  if image.dtype != jnp.uint8:
    image = jnp.floor(255 * jnp.clip(image, 0, 1)).astype(jnp.uint8)
  return jnp.where(valid[..., None], image, jnp.uint8(_PADDING))


@jax.jit
def _fold(keys, sample):
  number = jnp.uint32(types.FIRST_SAMPLE) + jnp.uint32(sample)
  return jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys, number)


def _drawn(raw: types.Raw) -> types.Array:
  if 'image' not in raw:
    raise ValueError(
      "task.name='synthesis' makes images of masks, but this model makes "
      "none; use model.name='semflow', or task.name='semantic'."
    )
  return raw['image']
