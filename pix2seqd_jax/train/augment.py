"""What the training step does to a batch before the model sees it.

The host draws the random numbers, so that they are a function of seed and
position; the device does the work on the images.
"""

import jax
import jax.numpy as jnp

from pix2seqd_jax import types
from pix2seqd_jax.encoding import hsv

_GRAY = (0.2989, 0.5870, 0.1140)
_BRIGHTNESS, _CONTRAST, _SATURATION, _HUE = range(4)


def prepare(batch: types.Batch) -> tuple[types.Batch, dict[str, types.Array]]:
  """A batch of the pipeline -> the batch of the loss, and scalars to log.

  `color` [b, 9] is done to `image` (see `jitter`); `skipped` [b] becomes the
  scalar data/skipped, the rows of this batch whose example could not be used.
  A batch that has neither passes as it is.
  """
  batch, scalars = dict(batch), {}
  skipped = batch.pop('skipped', None)
  if skipped is not None:
    scalars['data/skipped'] = jnp.sum(skipped > 0).astype(jnp.float32)
  color = batch.pop('color', None)
  if color is not None:
    batch['image'] = jitter(batch['image'], batch['valid'], color)
  return batch, scalars


def jitter(
  image: types.Array, valid: types.Array, color: types.Array
) -> types.Array:
  """The colour jitter of Pix2Seq-D (SimCLRv2's), as the host drew it.

  Equal to data/transforms/color.py's `apply` within one level; padding stays
  as it is, and counts in no mean.

  Args:
    image: uint8 [b h w 3], or float32 in [0, 1].
    valid: bool [b h w], False where padded.
    color: float32 [b, 9], from color.draw.
  """
  is_bytes = image.dtype == jnp.uint8
  pixels = image.astype(jnp.float32) / 255 if is_bytes else image
  done = jax.vmap(_jitter)(pixels, valid, color)
  if is_bytes:
    done = (jnp.clip(done, 0, 1) * 255 + 0.5).astype(jnp.uint8)
  return jnp.where(valid[..., None], done, image)


def _jitter(image, valid, color):
  area = jnp.maximum(valid.sum(), 1)

  def change(image, pair):
    operation, amount = pair
    mean = jnp.sum(image * valid[..., None], (0, 1)) / area
    changed = jnp.where(
      operation == _BRIGHTNESS, image * amount, (image - mean) * amount + mean
    )
    changed = jnp.where(
      operation < _SATURATION, changed, _in_hsv(image, operation, amount)
    )
    changed = jnp.clip(changed, 0, 1)
    return jnp.where(operation >= 0, changed, image), None

  image, _ = jax.lax.scan(change, image, color[:-1].reshape(4, 2))
  gray = sum(w * image[..., c] for c, w in enumerate(_GRAY))
  return jnp.where(color[-1] > 0, gray[..., None], image)


def _in_hsv(image, operation, amount):
  """Saturation times `amount`, held in [0, 1], or hue plus `amount` turns."""
  h, s, v = hsv.from_rgb(*(image[..., c] for c in range(3)), jnp)
  s = jnp.where(operation == _SATURATION, jnp.clip(s * amount, 0, 1), s)
  turned = h + amount
  h = jnp.where(operation == _HUE, turned - jnp.floor(turned), h)
  return hsv.to_rgb(h, s, v, jnp)
