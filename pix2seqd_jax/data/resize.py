"""Resizes of pictures, as the original's bilinear with anti-aliasing.

Both paths are Pillow's triangle filter, which widens when a picture shrinks:
uint8 stays uint8, float32 stays float32 (channel by channel).
"""

import numpy as np
from PIL import Image

_FILTERS = {
  'bilinear': Image.Resampling.BILINEAR,
  'bicubic': Image.Resampling.BICUBIC,
}


def resize_image(image, size, method='bilinear'):
  """Resizes [h, w, 3] (uint8, or float32 in any range) to size = (h, w).

  The uint8 path rounds to whole levels after each axis, so it may differ
  from the float path, which is the original's, by 1.5 levels.
  """
  if tuple(image.shape[:2]) == tuple(size):
    return image
  h, w = size
  how = _FILTERS[method]
  if image.dtype == np.uint8:
    picture = Image.fromarray(np.ascontiguousarray(image))
    return np.asarray(picture.resize((w, h), how))
  channels = [
    np.asarray(
      Image.fromarray(np.ascontiguousarray(image[..., c], np.float32)).resize(
        (w, h), how
      )
    )
    for c in range(image.shape[-1])
  ]
  return np.stack(channels, axis=-1)


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
