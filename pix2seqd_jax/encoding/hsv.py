"""Colours as hue, saturation and value, by NumPy or on the device.

Each channel is an array of its own: reductions over an axis of three are slow.
All values are in [0, 1]; the types are those of the input.
"""


def from_rgb(r, g, b, xp):
  """(h, s, v) of red, green and blue; `xp` is numpy or jax.numpy.

  Of grays the hue is 0.
  """
  value = xp.maximum(xp.maximum(r, g), b)
  zero, one = (xp.asarray(x, value.dtype) for x in (0, 1))
  span = value - xp.minimum(xp.minimum(r, g), b)
  part = 1 / xp.where(span > 0, span, one)
  h = (r - g) * part + 4
  h = xp.where(value == g, (b - r) * part + 2, h)
  h = xp.where(value == r, (g - b) * part, h)
  h = xp.where(h < 0, h + 6, h) / 6
  h = xp.where(span == 0, zero, h)
  return h, span / xp.where(value > 0, value, one), value


def to_rgb(h, s, v, xp):
  """The inverse, stacked as the last axis."""
  h, depth = h * 6, v * s
  zero, turn = (xp.asarray(x, h.dtype) for x in (0, 6))
  channels = []
  for n in (5, 3, 1):
    k = h + n
    k = k - xp.where(k >= turn, turn, zero)
    channels.append(v - depth * xp.clip(xp.minimum(k, 4 - k), 0, 1))
  return xp.stack(channels, -1)
