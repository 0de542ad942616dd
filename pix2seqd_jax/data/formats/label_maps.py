"""Maps of classes for one image: label maps and images with a palette."""

import pathlib

import numpy as np
from PIL import Image

from pix2seqd_jax.data.formats import decode
from pix2seqd_jax.encoding.panoptic_ids import ranks

VALUES = ('ids', 'classes')


def label_values(categories, values='ids'):
  """The values of void and the classes in a label map: [C + 1], 8 or 16 bits.

  With 'classes' it is 0, 1, ..., C. With 'ids' each class has its category's
  id, and void is 0, or where a category has that id, 255, or else 65535.

  Raises:
    ValueError: an id that 16 bits do not hold.
  """
  if values not in VALUES:
    raise ValueError(f'values={values!r} must be one of {", ".join(VALUES)}.')
  numbers = list(range(1, len(categories) + 1))
  if values == 'ids':
    numbers = [category.id for category in categories]
  if not 0 <= min(numbers) <= max(numbers) < 1 << 16:
    raise ValueError(
      f'label maps hold the values 0..65535 but the categories reach from '
      f"{min(numbers)} to {max(numbers)}; take values='classes'."
    )
  void = next((v for v in (0, 255, 65535) if v not in numbers), None)
  if void is None:
    raise ValueError(
      '0, 255 and 65535 are all ids of categories, so that none is left for '
      "void; take values='classes'."
    )
  wide = max(void, *numbers) > 255
  return np.array([void, *numbers], np.uint16 if wide else np.uint8)


def read(path):
  """The numbers in a label map's file, int32 [h, w].

  Raises:
    ValueError: it cannot be read, or is none; see decode.decode_label_map.
  """
  try:
    data = pathlib.Path(path).read_bytes()
  except OSError as error:
    raise ValueError(f'label map {path} cannot be read: {error}') from error
  return decode.decode_label_map(data, f'label map {path}')


def label_map(ids, segments, categories, values='ids'):
  """The class of each pixel, uint8 or uint16 [h, w]; see `label_values`."""
  return _classes(ids, segments, label_values(categories, values))


def palette_image(ids, segments, categories, colors):
  """A PIL image of mode P: class numbers (0 = void) and their colours.

  Raises:
    ValueError: more than 255 classes, or other colours than classes.
  """
  check_palette(categories, colors)
  table = np.arange(len(categories) + 1, dtype=np.uint8)
  image = Image.fromarray(_classes(ids, segments, table))
  image.putpalette(np.asarray(colors, np.uint8).tobytes())
  return image


def _classes(ids, segments, table):
  """table[class of each pixel]; ids that no segment names are void."""
  found, _, which = ranks(np.asarray(ids))
  named = {segment.id: segment.class_id for segment in segments}
  classes = [named.get(name, 0) for name in found.tolist()]
  return np.take(table[classes], which)


def check_palette(categories, colors):
  """Raises ValueError for more than 255 classes, or other colours."""
  if len(categories) > 255:
    raise ValueError(
      f'a palette has 256 colours but there are {len(categories)} classes and '
      "void; write 'labels'."
    )
  if colors is None or np.shape(colors) != (len(categories) + 1, 3):
    raise ValueError(
      f'a palette of {len(categories)} classes needs colors [{len(categories)} '
      f'+ 1, 3], not {np.shape(colors)}; see palettes.colors.'
    )
