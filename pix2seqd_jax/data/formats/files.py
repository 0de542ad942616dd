"""Files that users hand us: safe names, images of any mode, panoptic PNGs.

Everything that is wrong with a file is a ValueError that names the file.
"""

import os
import pathlib
import re
import tempfile

from pix2seqd_jax.data.formats.decode import decode_image, decode_panoptic_png
from pix2seqd_jax.data.formats.faults import refuse

SUFFIXES = ('.jpg', '.jpeg', '.png', '.bmp', '.webp', '.tif', '.tiff', '.gif')
_DRIVE = re.compile(r'^[A-Za-z]:')
_LONGEST = 1000  # letters of a name


def check_relative(name, where='a data file'):
  """Returns `name` if it can only mean a file below some folder.

  Raises:
    ValueError: it is empty, absolute, or climbs by '..'.
  """
  text = str(name)
  parts = re.split(r'[/\\]', text)
  if not text.strip() or '\0' in text or len(text) > _LONGEST:
    wrong = 'is empty or not a name.'
  elif text[0] in '/\\' or _DRIVE.match(text):
    wrong = (
      'is absolute; names must be relative to the folder that the config gives.'
    )
  elif '..' in parts:
    wrong = (
      "climbs out of its folder by '..'; names must stay below the folder that "
      'the config gives.'
    )
  else:
    return text
  shown = text if len(text) <= _LONGEST else f'{text[:80]}...'
  refuse('unsafe_name', where, f'{where}: file name {shown!r} {wrong}')


def _has_link(folder, path):
  """Whether a part of `path` below `folder` is a symbolic link."""
  above = len(folder.parts)
  return any(
    os.path.islink(os.path.join(*path.parts[:end]))
    for end in range(above + 1, len(path.parts) + 1)
  )


def safe_join(folder, name, *, where='a data file', follow_links=False):
  """folder / name, for a name that was read from a file.

  Raises:
    ValueError: the name is absolute or has '..', or a symbolic link takes it
      out of the folder (unless `follow_links`).
  """
  folder = pathlib.Path(folder)
  path = folder / check_relative(name, where)
  if not _has_link(folder, path):  # nearly always, and resolving is slow
    return path
  try:
    leaves = not path.resolve().is_relative_to(folder.resolve())
  except (OSError, RuntimeError) as error:  # links in a circle
    refuse('unsafe_name', where, f'{where}: {path} leads nowhere: {error}.')
  if leaves and not follow_links:
    refuse(
      'unsafe_name',
      where,
      f'{where}: {path} is a link that leaves {folder}; copy the file, or set '
      'follow_links=True where you trust the folder.',
    )
  return path


def read_bytes(path, where=''):
  """All bytes of a file; `where` is the file that names it.

  Raises:
    ValueError: there is no such file, or it cannot be read.
  """
  path = pathlib.Path(path)
  named = f'{path}, named by {where},' if where else f'{path}'
  try:
    if not path.is_file():
      refuse('missing_file', path, f'{named} does not exist or is no file.')
    return path.read_bytes()
  except OSError as error:
    refuse('missing_file', path, f'{named} cannot be read: {error}.')


def read_image(path, *, exif=True):
  """An image file as uint8 RGB [h, w, 3]; see `decode.decode_image`.

  Raises:
    ValueError: no file, and whatever is wrong with its bytes.
  """
  return decode_image(read_bytes(path), path, exif=exif)


def read_panoptic_png(path):
  """The ids of a COCO panoptic PNG, int32 [h, w]; see `decode`.

  Raises:
    ValueError: no file, and whatever is wrong with its bytes.
  """
  return decode_panoptic_png(read_bytes(path), path)


def list_images(*paths):
  """Images named by `paths`: files as they are, folders in sorted order.

  A folder is searched one level deep, for the known suffixes; hidden files
  are passed over.

  Raises:
    ValueError: a path does not exist, or a folder has no image.
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
          f'{path} has no images; looked for {", ".join(SUFFIXES)}.'
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
