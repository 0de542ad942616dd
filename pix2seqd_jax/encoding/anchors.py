"""Classes as colours: anchors, the points of a regular grid of RGB.

SemFlow (Wang et al. 2024, https://arxiv.org/abs/2405.20282, section 3.3) paints
masks so, that an autoencoder of images may encode them: a class is a number
of three digits to the base k, its colour s times the digits. Colours that were
moved by less than s / 2 a channel still have their own anchor as the nearest.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Integer, UInt8

Classes = Integer[np.ndarray, '*s'] | Integer[Array, '*s']
Colors = UInt8[np.ndarray, '*s 3'] | UInt8[Array, '*s 3']
Images = Float[np.ndarray, '*s 3'] | Float[Array, '*s 3']
Scores = Float[np.ndarray, '*s'] | Float[Array, '*s']

LARGEST = 255
# Void is white: no anchor, since spacing (levels - 1) is below it.
VOID = (LARGEST,) * 3
# Values of an image in [-1, 1] to one of 0 .. 255.
HALF = LARGEST / 2


@dataclasses.dataclass(frozen=True)
class Anchors:
  """The colours of classes 1 .. num_classes, and the way back.

  Attributes:
    num_classes: without void.
    levels: k, of a channel; k^3 colours.
    spacing: s, between two levels, of 0 .. 255.
  """

  num_classes: int
  levels: int = 6
  spacing: int = 50

  def __post_init__(self):
    for key in ('levels', 'spacing'):
      if getattr(self, key) < 1:
        raise ValueError(
          f'anchors.{key}={getattr(self, key)} must be 1 or more.'
        )
    highest = self.spacing * (self.levels - 1)
    if highest >= LARGEST:
      raise ValueError(
        f'anchors: spacing={self.spacing} times levels - 1={self.levels - 1} '
        f'is {highest} but must be below {LARGEST}, which is void; lower '
        'either.'
      )
    if not 1 <= self.num_classes <= self.levels**3:
      raise ValueError(
        f'anchors: num_classes={self.num_classes} must be 1 to '
        f'{self.levels**3}, the colours of levels={self.levels} a channel; '
        'raise levels, and lower spacing to keep spacing (levels - 1) below '
        f'{LARGEST}.'
      )

  @functools.cached_property
  def colors(self) -> np.ndarray:
    """uint8 [num_classes + 1, 3]: white for void, then class by class.

    Class c is c - 1 to the base `levels`, the first digit in the first
    channel.
    """
    index = np.arange(self.num_classes)
    digits = [index // self.levels**p % self.levels for p in (2, 1, 0)]
    found = self.spacing * np.stack(digits, -1)
    return np.concatenate([[VOID], found]).astype(np.uint8)

  def is_void_near(self, perturbation: float | int) -> bool:
    """Whether so much noise, in levels to each side, can make void a class."""
    gaps = LARGEST - self.colors[1:].astype(int)
    return bool(gaps.max(axis=-1).min() < 2 * perturbation)

  def paint(self, semantic: Classes) -> Colors:
    """Classes -> colours; NumPy or JAX.

    Raises:
      ValueError: (NumPy only) a class outside 0..num_classes.
    """
    if not isinstance(semantic, np.ndarray):
      return jnp.asarray(self.colors)[semantic]
    if semantic.size:
      low, high = int(semantic.min()), int(semantic.max())
      if low < 0 or high > self.num_classes:
        raise ValueError(
          f'classes run from {low} to {high} but must be 0 (void) to '
          f'num_classes={self.num_classes}; map the ids of the data set, or '
          'use a model of more classes.'
        )
    return self.colors[semantic]

  def nearest(self, images: Images) -> tuple[Classes, Scores]:
    """The class whose anchor is nearest, and how clearly so; NumPy or JAX.

    By the Euclidean distance of colours (equation 9); the lower class of two
    at one distance. One class after the other, so that what is in memory does
    not grow with their number.

    Args:
      images: in [-1, 1], and a little beyond.

    Returns:
      (int32 classes, never void; scores 1 - d1 / d2 in [0, 1], of the
      distances d1 to the nearest and d2 to the second anchor; 1 where there is
      one class only).
    """
    if isinstance(images, np.ndarray):
      best, first, second = self._numpy(images)
      return best, 1 - np.sqrt(first / second)
    best, first, second = self._scan(images)
    return best, 1 - jnp.sqrt(first / second)

  def _start(self, xp, images):
    channels = [images[..., i] for i in range(3)]
    far = xp.full(images.shape[:-1], np.inf, images.dtype)
    return channels, (xp.zeros(far.shape, np.int32), far, far)

  def _numpy(self, images):
    channels, state = self._start(np, images)
    for c, anchor in enumerate(self.colors[1:], 1):
      state = _closer(np, state, c, channels, signed(anchor))
    return state[0].astype(np.int32), *state[1:]

  def _scan(self, images):
    channels, state = self._start(jnp, images)
    table = jnp.asarray(signed(self.colors[1:]), images.dtype)

    def body(state, row):
      return _closer(jnp, state, row[0], channels, row[1]), None

    classes = jnp.arange(1, self.num_classes + 1, dtype=jnp.int32)
    return jax.lax.scan(body, state, (classes, table))[0]


def _closer(xp, state, c, channels, anchor):
  """(nearest class, its squared distance, the second's), with one more."""
  best, first, second = state
  squares = [(x - a) ** 2 for x, a in zip(channels, anchor)]
  distance = squares[0] + squares[1] + squares[2]
  is_new = distance < first
  return (
    xp.where(is_new, c, best),
    xp.minimum(distance, first),
    xp.where(is_new, first, xp.minimum(distance, second)),
  )


def signed(colors: Colors) -> Images:
  """uint8 colours -> float32 in [-1, 1]; NumPy or JAX."""
  return colors.astype(np.float32) / np.float32(HALF) - 1
