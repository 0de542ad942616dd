"""Bytes of images and panoptic PNGs -> arrays, wherever the bytes lay.

Everything that is wrong with them is a ValueError that gives `name`.
"""

import contextlib
import ctypes
import io

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

# 16 bits a channel: 65535 is white.
_SIXTEEN = ('I;16', 'I;16B', 'I;16L', 'I;16N')
_PLAIN = ('1', 'L', 'P', 'RGB', 'RGBA', 'RGBX', 'LA', 'PA', 'La', 'RGBa')
_ORIENTATION = 0x0112  # in EXIF; 1 is upright
_LOSSLESS = ('PNG', 'BMP', 'TIFF')
# Gray PNGs of 2 and 4 bits: Pillow stretches their values to 255.
_STRETCHED = {2: 85, 4: 17}
_OTHER = ('CMYK', 'YCbCr', 'HSV')


# Of glibc's malloc.h.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3


def keep_memory(num_blocks=16, array=8 << 20, spare=64 << 20):
  """Has this process keep the memory of images for the next ones.

  Otherwise each image's is given back, and the operating system fills the
  next one's with zeros, page by page: a quarter of the time of a pipeline.
  Does what PILLOW_BLOCKS_MAX and glibc's MALLOC_MMAP_THRESHOLD_ and
  MALLOC_TRIM_THRESHOLD_ do, where there are such things.

  Args:
    num_blocks: of Pillow: one holds an image, or 16 MiB of it.
    array: bytes; arrays below this are made from memory that was kept.
    spare: bytes that may stay unused at the end of a thread's memory.
  """
  with contextlib.suppress(AttributeError, OSError, TypeError):
    Image.core.set_blocks_max(num_blocks)
    libc = ctypes.CDLL(None)
    libc.mallopt(_MMAP_THRESHOLD, array)
    libc.mallopt(_TRIM_THRESHOLD, spare)


def decode_image(data, name, *, exif=True):
  """An image's bytes -> uint8 RGB [h, w, 3], turned as its EXIF says.

  Gray is repeated, palettes are looked up, alpha is dropped, CMYK converted,
  16 bits are brought to 8 (65535 is white); of an animation the first frame.

  Args:
    data: bytes of a file that Pillow knows.
    name: for messages.
    exif: whether to turn it as its EXIF orientation says.

  Raises:
    ValueError: zero bytes, cut off, no image, or a mode (float, 32 bits)
      that has no agreed meaning as 8-bit colours.
  """
  with _opened(data, name) as image:
    return to_rgb(image, name, exif=exif)


def to_rgb(image, name='the image', *, exif=True):
  """A PIL image as uint8 RGB [h, w, 3]; see `decode_image`.

  Raises:
    ValueError: naming `name`, for an image that is cut off, or a mode that
      has no agreed meaning as 8-bit colours.
  """
  try:
    image.load()
    mode, kind = image.mode, image.format
    if exif and image.getexif().get(_ORIENTATION, 1) != 1:
      image = ImageOps.exif_transpose(image)
  except Exception as error:
    raise ValueError(
      f'{name} is cut off or damaged: {error}. Replace the file.'
    ) from error
  if mode in _SIXTEEN or (mode == 'I' and kind == 'PNG'):
    values = np.asarray(image).astype(np.int64)
    gray = ((np.clip(values, 0, 65535) + 128) // 257).astype(np.uint8)
    return np.repeat(gray[..., None], 3, axis=-1)
  if mode not in _PLAIN + _OTHER:
    raise ValueError(
      f'{name} has the mode {mode!r}, which has no agreed meaning as 8-bit '
      'RGB; convert the file to an 8- or 16-bit image.'
    )
  try:
    if mode == 'P' and 'transparency' in image.info:
      image = image.convert('RGBA')
    return np.asarray(image if image.mode == 'RGB' else image.convert('RGB'))
  except ValueError as error:
    raise ValueError(f'{name} has the mode {mode!r}: {error}.') from error


def decode_panoptic_png(data, name):
  """A COCO panoptic PNG's bytes -> ids R + 256 G + 65536 B, int32 [h, w].

  Raises:
    ValueError: zero bytes, cut off, not a PNG, or not 8-bit RGB.
  """
  with _opened(data, name) as image:
    if image.format != 'PNG' or image.mode != 'RGB':
      raise ValueError(
        f'{name} is a {image.format} of mode {image.mode!r}; a panoptic map '
        'must be an RGB PNG with id = R + 256 G + 65536 B.'
      )
    try:
      # Four bytes a pixel, as Pillow holds them: one word is one id.
      words = np.array(image.convert('RGBA')).view('<u4')[..., 0]
    except Exception as error:
      raise ValueError(
        f'{name} is cut off or damaged: {error}. Replace the file.'
      ) from error
  words &= np.uint32(0xFFFFFF)
  return words.view(np.int32)


def decode_label_map(data, name):
  """The bytes of a map with one number a pixel -> int32 [h, w].

  Palettes are not looked up: the index is the number.

  Raises:
    ValueError: zero bytes, cut off, lossy, or of more than one channel.
  """
  with _opened(data, name) as image:
    deep = ('I',) if image.format == 'PNG' else ()
    known = ('1', 'L', 'P', *_SIXTEEN, *deep)
    if image.format not in _LOSSLESS or image.mode not in known:
      raise ValueError(
        f'{name} is a {image.format} of mode {image.mode!r}; a label map must '
        'be a PNG (BMP, TIFF) of one channel, the number of the class.'
      )
    mode, kind = image.mode, image.format
    try:
      values = np.asarray(image).astype(np.int32)
    except Exception as error:
      raise ValueError(
        f'{name} is cut off or damaged: {error}. Replace the file.'
      ) from error
  if mode == 'L' and kind == 'PNG' and data[24] in _STRETCHED:
    values //= _STRETCHED[data[24]]
  return values


def _opened(data, name):
  if not len(data):
    raise ValueError(f'{name} is empty (zero bytes). Replace the file.')
  try:
    return Image.open(io.BytesIO(data))
  except UnidentifiedImageError as error:  # its message names the buffer
    raise ValueError(
      f'{name} is not an image of a format that Pillow knows.'
    ) from error
  except Exception as error:
    raise ValueError(
      f'{name} is not an image that Pillow can read: {error}.'
    ) from error
