"""Files that users hand us: safe names, pictures of any mode, panoptic PNGs.

Everything that is wrong with a file is a ValueError that names the file.
"""

import os
import pathlib
import re
import tempfile

import numpy as np
from PIL import Image, ImageOps

from pix2seqd_jax.encoding.panoptic_ids import rgb_to_id

SUFFIXES = ('.jpg', '.jpeg', '.png', '.bmp', '.webp', '.tif', '.tiff', '.gif')
_DRIVE = re.compile(r'^[A-Za-z]:')
# 16 bits a channel: 65535 is white.
_SIXTEEN = ('I;16', 'I;16B', 'I;16L', 'I;16N')
_PLAIN = ('1', 'L', 'P', 'RGB', 'RGBA', 'RGBX', 'LA', 'PA', 'La', 'RGBa')
_OTHER = ('CMYK', 'YCbCr', 'HSV')


def check_relative(name, where='a data file'):
  """Returns `name` if it can only mean a file below some folder.

  Raises:
    ValueError: it is empty, absolute, or climbs by '..'.
  """
  text = str(name)
  parts = re.split(r'[/\\]', text)
  if not text.strip() or '\0' in text:
    raise ValueError(f'{where}: file name {name!r} is empty or not a name.')
  if text[0] in '/\\' or _DRIVE.match(text):
    raise ValueError(
      f'{where}: file name {name!r} is absolute; names must be relative to '
      'the folder that the config gives.'
    )
  if '..' in parts:
    raise ValueError(
      f"{where}: file name {name!r} climbs out of its folder by '..'; names "
      'must stay below the folder that the config gives.'
    )
  return text


def safe_join(folder, name, *, where='a data file', follow_links=False):
  """folder / name, for a name that was read from a file.

  Raises:
    ValueError: the name is absolute or has '..', or a symbolic link takes it
      out of the folder (unless `follow_links`).
  """
  folder = pathlib.Path(folder)
  path = folder / check_relative(name, where)
  if not follow_links and not path.resolve().is_relative_to(folder.resolve()):
    raise ValueError(
      f'{where}: {path} is a link that leaves {folder}; copy the file, or set '
      'follow_links=True where you trust the folder.'
    )
  return path


def read_image(path, *, exif=True):
  """A picture as uint8 RGB [h, w, 3], turned as its EXIF orientation says.

  Gray is repeated, palettes are looked up, alpha is dropped, CMYK converted,
  16 bits are brought to 8 (65535 is white); of an animation the first frame.

  Raises:
    ValueError: no file, zero bytes, cut off, no picture, or a mode (float, 32
      bits) that has no agreed meaning as 8-bit colours.
  """
  path = pathlib.Path(path)
  with _opened(path) as image:
    return to_rgb(image, path, exif=exif)


def to_rgb(image, name='the picture', *, exif=True):
  """A PIL picture as uint8 RGB [h, w, 3]; see `read_image`.

  Raises:
    ValueError: naming `name`, for a picture that is cut off, or a mode that
      has no agreed meaning as 8-bit colours.
  """
  try:
    image.load()
    mode, kind = image.mode, image.format
    if exif:
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
      'RGB; convert the file to an 8- or 16-bit picture.'
    )
  try:
    if mode == 'P' and 'transparency' in image.info:
      image = image.convert('RGBA')
    return np.array(image.convert('RGB'))
  except ValueError as error:
    raise ValueError(f'{name} has the mode {mode!r}: {error}.') from error


def read_panoptic_png(path):
  """The ids of a COCO panoptic PNG: R + 256 G + 65536 B, int32 [h, w].

  Raises:
    ValueError: no file, zero bytes, cut off, not a PNG, or not 8-bit RGB.
  """
  path = pathlib.Path(path)
  with _opened(path) as image:
    if image.format != 'PNG' or image.mode != 'RGB':
      raise ValueError(
        f'{path} is a {image.format} of mode {image.mode!r}; a panoptic map '
        'must be an RGB PNG with id = R + 256 G + 65536 B.'
      )
    try:
      colors = np.asarray(image)
    except Exception as error:
      raise ValueError(
        f'{path} is cut off or damaged: {error}. Replace the file.'
      ) from error
  return rgb_to_id(colors)


def list_images(*paths):
  """Pictures named by `paths`: files as they are, folders in sorted order.

  A folder is searched one level deep, for the known suffixes; hidden files
  are passed over.

  Raises:
    ValueError: a path does not exist, or a folder has no picture.
  """
  found = []
  for path in map(pathlib.Path, paths):
    if path.is_dir():
      here = sorted(
        p
        for p in path.iterdir()
        if p.suffix.lower() in SUFFIXES and p.name[0] != '.' and p.is_file()
      )
      if not here:
        raise ValueError(
          f'{path} has no pictures; looked for {", ".join(SUFFIXES)}.'
        )
      found += here
    elif path.exists():
      found.append(path)
    else:
      raise ValueError(f'{path} does not exist; give files or folders.')
  return found


def write_atomically(path, data):
  """Writes bytes so that a reader sees the old file or the whole new one."""
  path = pathlib.Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  handle, name = tempfile.mkstemp(dir=path.parent, prefix=f'.{path.name}.')
  try:
    with os.fdopen(handle, 'wb') as file:
      file.write(data)
    mask = os.umask(0)
    os.umask(mask)
    os.chmod(name, 0o666 & ~mask)
    os.replace(name, path)
  except BaseException:
    pathlib.Path(name).unlink(missing_ok=True)
    raise


def _opened(path):
  if not path.is_file():
    raise ValueError(f'{path} does not exist or is no file.')
  if path.stat().st_size == 0:
    raise ValueError(f'{path} is empty (zero bytes). Replace the file.')
  try:
    return Image.open(path)
  except Exception as error:
    raise ValueError(
      f'{path} is not a picture that Pillow can read: {error}.'
    ) from error
