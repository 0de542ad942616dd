"""Colour jitter of SimCLRv2, on float32 pictures in [0, 1]."""

import numpy as np

_GRAY = np.array([0.2989, 0.5870, 0.1140], np.float32)


def gray(image):
  """The luma, in all three channels."""
  return np.repeat((image @ _GRAY)[..., None], 3, axis=-1)


def brightness(image, factor):
  """Multiplies every value by `factor`."""
  return image * np.float32(factor)


def contrast(image, factor):
  """Moves every channel away from its mean over the picture."""
  mean = image.mean(axis=(0, 1), keepdims=True, dtype=np.float64)
  mean = mean.astype(np.float32)
  return (image - mean) * np.float32(factor) + mean


def saturation(image, factor):
  """Multiplies HSV's saturation, held in [0, 1]."""
  h, s, v = _to_hsv(image)
  return _to_rgb(h, np.clip(s * np.float32(factor), 0, 1), v)


def hue(image, delta):
  """Turns HSV's hue by `delta` turns."""
  h, s, v = _to_hsv(image)
  return _to_rgb((h + np.float32(delta)) % np.float32(1), s, v)


def jitter(image, strength, rng):
  """With chance 0.8 four random changes in random order; with 0.2, gray.

  Each change is clipped to [0, 1]. Pix2Seq-D takes SimCLRv2's ranges:
  brightness, contrast and saturation times U(1 - 0.8 s, 1 + 0.8 s), hue plus
  U(-0.2 s, 0.2 s).
  """
  if rng.random() < 0.8:
    for name in rng.permutation(4):
      operation, reach, middle = (
        (brightness, 0.8, 1),
        (contrast, 0.8, 1),
        (saturation, 0.8, 1),
        (hue, 0.2, 0),
      )[name]
      low = middle - reach * strength
      low = max(low, 0) if middle else low
      amount = rng.uniform(low, middle + reach * strength)
      image = np.clip(operation(image, amount), 0, 1)
  if rng.random() < 0.2:
    image = gray(image)
  return image


def _to_hsv(image):
  r, g, b = image[..., 0], image[..., 1], image[..., 2]
  value = image.max(axis=-1)
  span = value - image.min(axis=-1)
  safe = np.where(span > 0, span, np.float32(1))
  h = np.where(
    value == r, (g - b) / safe, np.where(value == g, (b - r) / safe + 2, 0)
  )
  h = np.where((value != r) & (value != g), (r - g) / safe + 4, h)
  h = np.where(span > 0, h / np.float32(6), 0) % np.float32(1)
  s = np.where(value > 0, span / np.where(value > 0, value, 1), 0)
  return h.astype(np.float32), s.astype(np.float32), value


def _to_rgb(h, s, v):
  channels = []
  for n in (5, 3, 1):
    k = (np.float32(n) + np.float32(6) * h) % np.float32(6)
    ramp = np.clip(np.minimum(k, np.float32(4) - k), 0, 1)
    channels.append(v - v * s * ramp)
  return np.stack(channels, axis=-1)
