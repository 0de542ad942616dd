"""Resizes of images, as the original's bilinear with anti-aliasing.

All paths are the triangle filter, which widens when an image shrinks: uint8
stays uint8, float32 stays float32 (channel by channel).
"""

import numpy as np
from PIL import Image

from pix2seqd_jax.registry import did_you_mean

METHODS = {
  'bilinear': Image.Resampling.BILINEAR,
  'bicubic': Image.Resampling.BICUBIC,
}
# What resizes: Pillow, or OpenCV where it can do the same, several times as
# fast. It is chosen by name and never by what is installed: the two may differ
# by a level.
BACKENDS = ('pillow', 'opencv')
_WHOLE = (slice(None), slice(None))
_MIRROR = Image.Transpose.FLIP_LEFT_RIGHT


def check_backend(name):
  """Raises ValueError: the name is unknown, or OpenCV is not installed."""
  if name not in BACKENDS:
    raise ValueError(
      f'data.backend={name!r} is unknown.{did_you_mean(name, BACKENDS)} '
      f'Known: {", ".join(BACKENDS)}.'
    )
  if name == 'opencv':
    try:
      import cv2
    except ImportError as error:
      raise ValueError(
        f"data.backend='opencv' needs OpenCV ({error}): pip install "
        "'pix2seqd_jax[opencv]', or set data.backend='pillow'."
      ) from error
    del cv2


def resize_image(
  image,
  size,
  method='bilinear',
  *,
  window=_WHOLE,
  mirror=False,
  backend='pillow',
):
  """Resizes [h, w, 3] (uint8, or float32 in any range) to size = (h, w).

  The uint8 path rounds to whole levels after each axis, so it may differ
  from the float path, which is the original's, by 1.5 levels.

  Args:
    image: the image.
    size: (h, w).
    method: 'bilinear' or 'bicubic'.
    window: two slices: of the result, only this part is made. For uint8 that
      is done at the cost of the part alone; where Pillow rounds the window's
      corner, single values may be a level from those of the whole.
    mirror: whether to turn the window left to right, afterwards.
    backend: 'opencv' has OpenCV enlarge uint8 bilinearly, within a level of
      Pillow. It has no triangle filter that shrinks, and its bicubic is
      another: these stay Pillow's.
  """
  if tuple(image.shape[:2]) == tuple(size):
    return flip(image[window]) if mirror else image[window]
  if image.dtype != np.uint8:
    made = _resize_float(image, size, method)[window]
    return flip(made) if mirror else made
  enlarges = size[0] >= image.shape[0] and size[1] >= image.shape[1]
  if backend == 'opencv' and method == 'bilinear' and enlarges:
    import cv2

    how = cv2.INTER_LINEAR
    made = cv2.resize(image, size[::-1], interpolation=how)[window]
    return cv2.flip(made, 1) if mirror else made
  pillow = Image.fromarray(np.ascontiguousarray(image))
  (top, bottom, _), (left, right, _) = (
    part.indices(n) for part, n in zip(window, size)
  )
  tall, wide = (old / new for old, new in zip(image.shape[:2], size))
  h, w = image.shape[:2]
  # Rounding must not take the box out of the image.
  lower = (min(right * wide, w), min(bottom * tall, h))
  box = (left * wide, top * tall, *lower)
  made = pillow.resize((right - left, bottom - top), METHODS[method], box=box)
  return np.asarray(made.transpose(_MIRROR) if mirror else made)


def _resize_float(image, size, method):
  channels = [
    np.asarray(
      Image.fromarray(np.ascontiguousarray(image[..., c], np.float32)).resize(
        size[::-1], METHODS[method]
      )
    )
    for c in range(image.shape[-1])
  ]
  return np.stack(channels, axis=-1)


def flip(image):
  """Mirrors [h, w, 3] left and right."""
  if image.dtype != np.uint8:
    return image[:, ::-1]
  # NumPy takes ten times as long to turn pixels of three bytes.
  pillow = Image.fromarray(np.ascontiguousarray(image))
  return np.asarray(pillow.transpose(_MIRROR))


def size_that_fits(size, target):
  """The largest size of the same aspect within target; evaluation's rule.

  Rounds half to even, in float32 as the original does; at least one pixel.
  """
  size, target = np.asarray(size), np.asarray(target)
  scale = (target.astype(np.float32) / size.astype(np.float32)).min()
  new = np.round(size.astype(np.float32) * scale).astype(int)
  return tuple(int(n) for n in np.maximum(new, 1))


def jittered_size(size, target, scale):
  """The size for `scale` times the tight fit in target; training's rule.

  Truncates, in float32 as the original does, so that at scale 1 the tight
  side may be one pixel short; at least one pixel.
  """
  size = np.asarray(size, np.float32)
  goal = np.float32(scale) * np.asarray(target, np.float32)
  new = (size * (goal / size).min()).astype(int)
  return tuple(int(n) for n in np.maximum(new, 1))
