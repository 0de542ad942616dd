"""Reconstruction: the image that comes back is to be the one that went in."""

from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image

from pix2seqd_jax import types
from pix2seqd_jax.metrics import image_error
from pix2seqd_jax.registry import TASKS


@TASKS.register('reconstruction')
class ReconstructionTask:
  """Scores a read-out's `image` against the image itself.

  They are compared at the size of the read-out, which is that of the network
  without padding; an image of another size is resized as data transforms do
  it (Pillow, bilinear), so that what a resize takes away counts nowhere.

  Attributes:
    categories: of the data set; unused.
    given: no label is an input.
  """

  given: tuple[str, ...] = ()

  def __init__(self, categories: Sequence[types.Category]):
    self.categories = tuple(categories)

  def predict(
    self,
    sample_fn: Callable[..., types.Raw],
    batch: types.Batch,
    keys: types.Array,
  ) -> types.Raw:
    """One call of the sampler."""
    return sample_fn(batch, keys)

  def refine(self, segmentation: types.Segmentation) -> types.Segmentation:
    """There is nothing to refine."""
    return segmentation

  def metrics(
    self, segmentation: types.Segmentation, meta: types.Meta
  ) -> image_error.ImageError:
    """PSNR and mean absolute error of one image.

    Args:
      segmentation: its `image` counts alone.
      meta: `image` uint8 [h, w, 3] at the original size.

    Raises:
      ValueError: the model draws no image.
    """
    made = segmentation.image
    if made is None:
      raise ValueError(
        "task.name='reconstruction' scores images, but this model draws "
        "none; use model.name='image_autoencoder' or another task."
      )
    image = np.asarray(meta['image'])
    if image.shape != made.shape:
      resized = Image.fromarray(image).resize(
        made.shape[1::-1], Image.Resampling.BILINEAR
      )
      image = np.asarray(resized)
    return image_error.ImageError.from_images(image, made)

  def empty(self) -> image_error.ImageError:
    """The state of no image, for a process that has none."""
    return image_error.ImageError.empty()
