"""Signed distances, colours and textures, of which `shapes` makes scenes."""

from typing import NamedTuple

import numpy as np

_TURN = 2 * np.pi


def _circle(u, v):
  return np.hypot(u, v) - 0.9


def _square(u, v):
  return np.maximum(np.abs(u), np.abs(v)) - 0.72


def _triangle(u, v):
  half = np.float32(np.sqrt(3) / 2)
  return np.maximum(half * np.abs(u) + 0.5 * v, -v) - 0.52


def _star(u, v):
  """Five points: the plane is folded to half a point, bounded by one line."""
  angle = np.arctan2(u, v) % (_TURN / 5)
  angle = np.abs(angle - _TURN / 10)
  r = np.hypot(u, v)
  y, x = r * np.cos(angle), r * np.sin(angle)
  # The line from the inner corner (angle 0) to the tip (angle pi/5).
  inner, tip = (
    np.float32(0.46),
    np.array([np.cos(_TURN / 10), np.sin(_TURN / 10)]),
  )
  along = tip - np.array([inner, 0])
  normal = np.array([along[1], -along[0]], np.float32) / np.hypot(*along)
  return np.float32(normal[0]) * (y - inner) + np.float32(normal[1]) * x


def _ring(u, v):
  return np.abs(np.hypot(u, v) - 0.7) - 0.24


def _cross(u, v):
  u, v = np.abs(u), np.abs(v)
  return np.maximum(np.maximum(u, v) - 0.92, np.minimum(u, v) - 0.3)


# Signed distance (negative inside) in units of the radius, at (right, up).
SHAPES = {
  'circle': _circle,
  'square': _square,
  'triangle': _triangle,
  'star': _star,
  'ring': _ring,
  'cross': _cross,
}


class Layer(NamedTuple):
  """One thing: where it is, its class, what it covers."""

  kind: int
  window: tuple  # slices of the image
  inside: np.ndarray  # bool, of the window's size
  alpha: np.ndarray  # float32, smooth at the border
  shade: np.ndarray  # float32 multiplier of the colour
  color: np.ndarray  # float32 [3]

  @classmethod
  def draw(cls, size, kind, shape, place, color):
    """Measures a shape at place = (y, x, radius, turn), in pixels."""
    y, x, radius, turn = place
    h, w = size
    top, left = max(int(y - radius) - 1, 0), max(int(x - radius) - 1, 0)
    bottom = min(int(y + radius) + 3, h)
    right = min(int(x + radius) + 3, w)
    up = (y - np.arange(top, bottom, dtype=np.float32)[:, None]) / radius
    along = (np.arange(left, right, dtype=np.float32) - x) / radius
    up, along = up.astype(np.float32), along.astype(np.float32)
    c, s = np.float32(np.cos(turn)), np.float32(np.sin(turn))
    distance = SHAPES[shape](c * along + s * up, c * up - s * along)
    pixels = distance * np.float32(radius)
    # Darker at the rim and below, so that equal neighbours stay apart.
    shade = np.float32(0.9) + np.float32(0.12) * up
    shade = shade - np.float32(0.25) * (pixels > -1.2)
    return cls(
      kind,
      (slice(top, bottom), slice(left, right)),
      pixels <= 0,
      np.clip(np.float32(0.5) - pixels, 0, 1),
      shade.astype(np.float32),
      np.asarray(color, np.float32),
    )


def paint(image, layer):
  """Blends a thing over `image` float32 [h, w, 3], in place."""
  part = image[layer.window]
  color = layer.shade[..., None] * layer.color
  part += layer.alpha[..., None] * (color - part)


def hsv(hue, saturation, value):
  """(hue, saturation, value) in [0, 1] -> a tuple of red, green, blue."""

  def channel(n):
    k = (n + 6 * hue) % 6
    return float(value * (1 - saturation * max(0, min(k, 4 - k, 1))))

  return channel(5), channel(3), channel(1)


def landscape(rng, size):
  """An image without things.

  Returns:
    image: float32 [h, w, 3] in [0, 1].
    stuff: int32 [h, w]: 1 sky, 2 ground, 3 water.
  """
  h, w = size
  y = np.linspace(0, 1, h, dtype=np.float32)[:, None]
  x = np.linspace(0, 1, w, dtype=np.float32)[None, :]
  r = rng.random(16, dtype=np.float32)
  horizon = 0.25 + 0.35 * r[0] + 0.25 * (r[1] - 0.5) * x
  horizon = horizon + 0.03 * np.sin(_TURN * (1 + 2 * r[2]) * x + _TURN * r[3])
  # A shore, straight with a bend, cuts what is below the horizon in two.
  turn = _TURN * r[4]
  shore = np.cos(turn) * (x - 0.5) + np.sin(turn) * (y - 0.5 - horizon / 2)
  bend = np.sin(_TURN * (0.5 + r[6]) * (x + y))
  shore = shore + 0.15 * (r[5] - 0.5) + 0.05 * bend
  stuff = np.where(shore > 0, np.int32(3), np.int32(2))
  stuff = np.where(y < horizon, np.int32(1), stuff)
  light = 0.75 + 0.25 * r[7]
  clouds = np.sin(9 * y + 4 * r[8] + 2 * np.sin(_TURN * (x + r[9])))
  waves = np.sin((50 + 20 * r[10]) * y + 2 * np.sin(_TURN * 2 * x + 9 * r[11]))
  grains = rng.random(size, dtype=np.float32)
  grains = (grains - 0.5) * np.float32(0.5)
  palette = np.array(
    [
      hsv(0.52 + 0.08 * r[12], 0.25 + 0.2 * r[13], 0.95),
      hsv(0.07 + 0.2 * r[14], 0.5, 0.5),
      hsv(0.53 + 0.12 * r[15], 0.7, 0.55),
    ],
    np.float32,
  )
  texture = np.where(stuff == 1, 0.06 * clouds + 0.15 * y, 0.16 * waves)
  texture = np.where(stuff == 2, grains, texture)
  gain = (np.float32(light) + texture).astype(np.float32)
  return palette[stuff - 1] * gain[..., None], stuff
