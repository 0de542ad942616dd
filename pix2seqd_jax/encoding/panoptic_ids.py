"""Ids of segments: packed with their class, as COCO's colours, resized, voted.

The formats are those of COCO panoptic (arXiv 1801.00868) and of the label
maps of Cityscapes; 0 is void everywhere.
"""

import numpy as np
from jaxtyping import Array, Integer, Shaped, UInt8

Map = Integer[np.ndarray, '*s'] | Integer[Array, '*s']

_INT32 = np.iinfo(np.int32).max
# Counting with one bin for each (id, class) pair beats sorting while the bins
# are few next to the pixels.
_MAX_BINS = 1 << 22


def pack(semantic: Map, instance: Map, divisor: int) -> Map:
  """semantic * divisor + instance, int32; NumPy or JAX.

  Raises:
    ValueError: (NumPy only) an instance does not fit below the divisor, or a
      packed id does not fit into int32.
  """
  if isinstance(semantic, np.ndarray) and semantic.size:
    top = int(np.max(instance))
    if top >= divisor or int(np.min(instance)) < 0:
      raise ValueError(
        f'divisor={divisor} must be larger than every instance id, which are '
        f'{int(np.min(instance))} to {top}; set divisor >= {top + 1}.'
      )
    if int(np.max(semantic)) * divisor + top > _INT32:
      raise ValueError(
        f'class {int(np.max(semantic))} times divisor={divisor} does not fit '
        'into int32; choose a smaller divisor.'
      )
  return semantic.astype(np.int32) * divisor + instance.astype(np.int32)


def unpack(packed: Map, divisor: int) -> tuple[Map, Map]:
  """The inverse of `pack`: (semantic, instance), int32."""
  packed = packed.astype(np.int32)
  return packed // divisor, packed % divisor


def rgb_to_id(
  rgb: UInt8[np.ndarray, '*s 3'] | UInt8[Array, '*s 3'],
) -> Map:
  """COCO's colours -> ids: R + 256 G + 65536 B, int32."""
  rgb = rgb.astype(np.int32)
  return rgb[..., 0] + (rgb[..., 1] << 8) + (rgb[..., 2] << 16)


def id_to_rgb(ids: Integer[np.ndarray, '*s']) -> UInt8[np.ndarray, '*s 3']:
  """The inverse of `rgb_to_id`.

  Raises:
    ValueError: an id is negative or needs more than 24 bits.
  """
  if ids.size and (ids.min() < 0 or ids.max() >= 1 << 24):
    raise ValueError(
      f'ids {int(ids.min())} to {int(ids.max())} do not fit into the 24 bits '
      'of a colour; renumber the segments from 1.'
    )
  parts = ids.astype('<u4')[..., None].view(np.uint8)
  return np.ascontiguousarray(parts[..., :3])


def ranks(
  values: Integer[np.ndarray, '*s'],
) -> tuple[
  Integer[np.ndarray, 'n'], Integer[np.ndarray, 'n'], Integer[np.ndarray, '*s']
]:
  """What `np.unique` gives: the values, how often, each one's rank (int32).

  Maps are runs of equal pixels: only one value a run is looked up, or sorted
  where the values are large. np.unique takes ten times as long.
  """
  flat = values.reshape(-1)
  starts = run_starts(flat)
  lengths = np.diff(starts, append=flat.size)
  heads = flat[starts]
  top = int(heads.max(initial=0))
  if heads.size and int(heads.min()) >= 0 and top < max(heads.size, 1 << 16):
    seen = np.zeros(top + 1, bool)
    seen[heads] = True
    found = np.flatnonzero(seen).astype(values.dtype)
    which = (np.cumsum(seen) - 1)[heads]
  else:
    found, which = np.unique(heads, return_inverse=True)
  areas = np.bincount(which, lengths, len(found)).astype(np.int64)
  each = np.repeat(which.astype(np.int32), lengths)
  return found, areas, each.reshape(values.shape)


def run_starts(
  flat: Integer[np.ndarray, 'n'], width: int = 0
) -> Integer[np.ndarray, 'm']:
  """Where in a row of values a new run of equal ones begins; 0 is one.

  With `width`, runs also end where rows of that width do.
  """
  changes = np.ones(flat.size, bool)
  np.not_equal(flat[1:], flat[:-1], out=changes[1:])
  if width:
    changes[::width] = True
  return np.flatnonzero(changes)


def resize_nearest(
  values: Shaped[np.ndarray, 'h w *c'],
  size: tuple[int, int],
  window: tuple[slice, slice] = (slice(None), slice(None)),
) -> Shaped[np.ndarray, 'h2 w2 *c']:
  """Nearest neighbour with half-pixel centres: i -> floor((i + .5) in / out).

  So halving keeps the pixels 1, 3, 5, ... In whole numbers, hence exact for
  every size (TensorFlow's float32 may fall one short where the quotient is
  whole). Of the result only `window` is made.
  """
  for axis, new in enumerate(size):
    if new < 1 or values.shape[axis] < 1:
      raise ValueError(
        f'cannot resize {values.shape[:2]} to {tuple(size)}: every side must '
        'be at least 1.'
      )
  if tuple(values.shape[:2]) == tuple(size):
    return values[window]
  rows, columns = (
    (2 * np.arange(new)[part] + 1) * old // (2 * new)
    for old, new, part in zip(values.shape[:2], size, window)
  )
  # One axis after the other is three times as fast as both at once.
  return values.take(rows, 0).take(columns, 1)


def to_original(
  x: Map | Shaped[np.ndarray, 'h w'],
  padded: tuple[int, int],
  unpadded: tuple[int, int],
  size: tuple[int, int],
) -> Map | Shaped[np.ndarray, 'H W']:
  """A map at any size -> at the image's original size; nearest pixels.

  Args:
    x: covers the padded image.
    padded: (height, width) of the image that the network saw.
    unpadded: how much of it, from the upper left, is image.
    size: of the original image.
  """
  height, width = unpadded
  return resize_nearest(resize_nearest(x, padded)[:height, :width], size)


def majority_class(
  semantic: Integer[np.ndarray, 'h w'],
  instance: Integer[np.ndarray, 'h w'],
  num_classes: int,
) -> dict[int, int]:
  """The class that most pixels of each id have: {id: class}.

  Pix2Seq-D's read-out (section 3.3). Every id that occurs votes, 0 among
  them, and void (class 0) is a candidate like any other; of equals the
  smallest class wins.

  Args:
    semantic: 0 .. num_classes.
    instance: any ids from 0 on.
    num_classes: without void.

  Raises:
    ValueError: a class or an id is out of range.
  """
  if not semantic.size:
    return {}
  if semantic.min() < 0 or semantic.max() > num_classes:
    raise ValueError(
      f'classes are {int(semantic.min())} to {int(semantic.max())} but must '
      f'be 0 (void) to num_classes={num_classes}.'
    )
  if instance.min() < 0:
    raise ValueError(f'instance id {int(instance.min())} must be 0 or more.')
  width = num_classes + 1
  num_ids = int(instance.max()) + 1
  ids = None
  if num_ids * width > _MAX_BINS:
    ids, instance = np.unique(instance, return_inverse=True)
    num_ids = len(ids)
  flat = instance.reshape(-1).astype(np.int64) * width + semantic.reshape(-1)
  votes = np.bincount(flat, minlength=num_ids * width)
  votes = votes.reshape(num_ids, width)
  winners = votes.argmax(1)
  present = np.flatnonzero(votes[np.arange(num_ids), winners])
  names = present if ids is None else ids[present]
  return dict(zip(names.tolist(), winners[present].tolist()))
