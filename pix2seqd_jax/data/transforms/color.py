"""Colour jitter of SimCLRv2, on float32 images in [0, 1]."""

import numpy as np

from pix2seqd_jax.encoding import hsv

_GRAY = np.array([0.2989, 0.5870, 0.1140], np.float32)


def gray(image):
  """The luma, in all three channels."""
  return np.repeat((image @ _GRAY)[..., None], 3, axis=-1)


def brightness(image, factor):
  """Multiplies every value by `factor`."""
  return image * np.float32(factor)


def contrast(image, factor):
  """Moves every channel away from its mean over the image."""
  pixels = image.reshape(-1, image.shape[-1])
  mean = [pixels[:, c].mean(dtype=np.float64) for c in range(image.shape[-1])]
  mean = np.array(mean, np.float32)
  return (image - mean) * np.float32(factor) + mean


def saturation(image, factor):
  """Multiplies HSV's saturation, held in [0, 1]."""
  h, s, v = _hsv(image)
  return hsv.to_rgb(h, np.clip(s * np.float32(factor), 0, 1), v, np)


def hue(image, delta):
  """Turns HSV's hue by `delta` turns."""
  h, s, v = _hsv(image)
  h = h + np.float32(delta)
  return hsv.to_rgb(h - np.floor(h), s, v, np)


# An operation's number in a draw, its reach, and the amount without effect.
_OPERATIONS = (
  (brightness, 0.8, 1),
  (contrast, 0.8, 1),
  (saturation, 0.8, 1),
  (hue, 0.2, 0),
)


def draw(strength, rng):
  """The random numbers of one jitter, float32 [9].

  Four pairs (operation, amount), in the order in which they are done, the
  operation -1 for none; then 1 for gray, else 0. Pix2Seq-D takes SimCLRv2's
  chances and ranges: with chance 0.8 all four operations in random order,
  brightness, contrast and saturation times U(1 - 0.8 s, 1 + 0.8 s), hue plus
  U(-0.2 s, 0.2 s); with chance 0.2 gray.
  """
  drawn = np.array([-1, 0] * 4 + [0], np.float32)
  if rng.random() < 0.8:
    for slot, number in enumerate(rng.permutation(4)):
      _, reach, middle = _OPERATIONS[number]
      low = middle - reach * strength
      low = max(low, 0) if middle else low
      amount = rng.uniform(low, middle + reach * strength)
      drawn[2 * slot : 2 * slot + 2] = number, amount
  drawn[-1] = rng.random() < 0.2
  return drawn


def apply(image, drawn):
  """Does what `draw` drew to a float32 image; each change is clipped.

  `train/augment.py` does the same on the device.
  """
  for number, amount in drawn[:-1].reshape(4, 2):
    if number >= 0:
      operation, _, _ = _OPERATIONS[int(number)]
      image = np.clip(operation(image, amount), 0, 1)
  return gray(image) if drawn[-1] else image


def jitter(image, strength, rng):
  """`draw` and `apply`."""
  return apply(image, draw(strength, rng))


def _hsv(image):
  return hsv.from_rgb(
    *(np.ascontiguousarray(image[..., c]) for c in range(3)), np
  )
