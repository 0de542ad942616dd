"""How a mask came about, and what others might have come: strips and grids."""

from collections.abc import Sequence

import numpy as np
from PIL import Image

from pix2seqd_jax import types
from pix2seqd_jax.visualize import overlays

Map = tuple[np.ndarray, Sequence[types.Segment]]


def denoising(
  image: np.ndarray,
  frames: Sequence[Map],
  categories: Sequence[types.Category],
  captions: Sequence[str],
  *,
  each: bool = False,
  alpha: float = 0.8,
  side: int = 384,
) -> np.ndarray:
  """A strip: the image, then it under each of the frames; uint8.

  Args:
    image: uint8 [h, w, 3].
    frames: (ids [h, w], segments), as estimated after some of the steps.
    categories: class c is `categories[c - 1]`.
    captions: of the frames.
    each: one random colour for each id, the same in all frames, in place of
      the classes' colours and their legend.
    alpha: as in visualize.overlay.
    side: larger images are shrunk to this, in pixels.
  """
  whole = np.zeros(image.shape[:2], np.int32), ()
  plain = overlays.overlay(image, *whole, categories, 0.0, legend=False)
  painted = _painted(image, frames, categories, each, alpha)
  images = [_shrunk(image, side) for image in (plain, *painted)]
  strip = overlays.grid(images, len(images), ['image', *captions])
  return strip if each else overlays.with_legend(strip, frames, categories)


def seeds(
  image: np.ndarray,
  samples: Sequence[Map],
  categories: Sequence[types.Category],
  captions: Sequence[str],
  agreement: np.ndarray,
  *,
  columns: int = 4,
  each: bool = False,
  alpha: float = 0.8,
  side: int = 384,
) -> np.ndarray:
  """A grid: the image, it under each sample, where they agree; uint8.

  Args:
    image: uint8 [h, w, 3].
    samples: (ids [h, w], segments).
    categories: class c is `categories[c - 1]`.
    captions: of the samples.
    agreement: [h, w] in [0, 1]; see pix2seqd_jax.inference.agreement.
    columns: of the grid.
    each, alpha, side: as in `denoising`.
  """
  whole = np.zeros(image.shape[:2], np.int32), ()
  plain = overlays.overlay(image, *whole, categories, 0.0, legend=False)
  painted = _painted(image, samples, categories, each, alpha)
  shared = overlays.heat(agreement, legend=False)
  images = [_shrunk(image, side) for image in (plain, *painted, shared)]
  captions = ['image', *captions, 'agreement (bright)']
  grid = overlays.grid(images, columns, captions)
  return grid if each else overlays.with_legend(grid, samples, categories)


def _painted(image, maps, categories, each, alpha):
  if each:  # all maps name all ids: an id has one colour in all of them
    names = sorted({s.id for _, segments in maps for s in segments})
    everything = [types.Segment(name, 1) for name in names]
    maps = [(ids, everything) for ids, _ in maps]
  return [
    overlays.overlay(image, *one, categories, alpha, legend=False, each=each)
    for one in maps
  ]


def _shrunk(image, side):
  """No side longer than `side`."""
  factor = side / max(image.shape[:2])
  if factor >= 1:
    return image
  height, width = (max(1, round(factor * n)) for n in image.shape[:2])
  small = Image.fromarray(image).resize((width, height), Image.Resampling.BOX)
  return np.asarray(small)
