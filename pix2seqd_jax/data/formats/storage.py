"""Where bytes come from: a folder, or a zip archive that stays packed.

A path may run through an archive, as if it were a folder:
`coco.zip`, `coco.zip/val2017`, `val2017.zip/000000000139.jpg`.
"""

import functools
import os
import pathlib
import posixpath
import stat
import struct
import threading
import weakref
import zipfile
import zlib
from typing import NamedTuple

from pix2seqd_jax.data.formats.faults import refuse
from pix2seqd_jax.data.formats.files import (
  check_relative,
  read_bytes,
  safe_join,
)

# A member may not grow to more than this, nor by more than this factor once
# it is larger than _SMALL: what an image or a JSON never does.
_LARGEST, _SMALL, _MOST_GROWTH = 4 << 30, 64 << 20, 100
_ENCRYPTED, _STORED, _DEFLATED = 1, 0, 8
_LOCAL_HEADER = struct.Struct('<4s22xHH')


class _Member(NamedTuple):
  offset: int  # of its local header
  packed: int  # bytes
  size: int
  crc: int
  method: int
  flags: int
  is_link: bool


class Archive:
  """A zip file: its table is read once, its members by position.

  No file offset is shared, so that any number of threads (and processes that
  fork) may read at once. Pickles as its path.

  Raises:
    ValueError: it is not a zip file, or its table is damaged.
  """

  def __init__(self, path):
    self.path = pathlib.Path(path)
    try:
      with zipfile.ZipFile(self.path) as file:
        infos = file.infolist()
    except Exception as error:
      refuse(
        'unreadable_archive',
        self.path,
        f'{self.path} is not a zip archive that can be read: {error}.',
      )
    self.members, self.twice = {}, []
    for info in infos:
      if info.is_dir():
        continue
      if info.filename in self.members:
        self.twice.append(info.filename)
      self.members[info.filename] = _Member(
        info.header_offset,
        info.compress_size,
        info.file_size,
        info.CRC,
        info.compress_type,
        info.flag_bits,
        stat.S_ISLNK(info.external_attr >> 16),
      )
    self._lock, self._handle = threading.Lock(), None

  def __reduce__(self):
    return type(self), (self.path,)

  def read(self, name: str) -> bytes:
    """The bytes of a member, its check sum compared.

    Raises:
      ValueError: it is not there, encrypted, a link, packed by another method
        than deflate, damaged, or far larger than its packed size allows.
    """
    label = f'{self.path}/{name}'
    member = self.members.get(name)
    if member is None:
      refuse('missing_file', label, f'{self.path} has no member {name!r}.')

    def fail(what):
      refuse('unreadable_archive', label, f'{name!r} in {self.path} {what}')

    if name in self.twice:
      fail('stands there twice; pack the archive anew.')
    if member.is_link:
      fail('is a link; put the file itself into the archive.')
    if member.flags & _ENCRYPTED:
      fail('is encrypted; pack the archive without a password.')
    if member.method not in (_STORED, _DEFLATED):
      name_of = zipfile.compressor_names.get(member.method, member.method)
      fail(f'is packed by {name_of}; use deflate, or no compression.')
    growth = member.size / max(member.packed, 1)
    if member.size > _LARGEST or (
      member.size > _SMALL and growth > _MOST_GROWTH
    ):
      fail(
        f'would unpack {member.packed:,} bytes to {member.size:,}, which no '
        'image or JSON does; unpack it by hand if you trust it.'
      )
    try:
      data = self._unpack(member)
    except (OSError, zlib.error, struct.error, ValueError) as error:
      fail(f'is damaged: {error}. Replace the archive.')
    if len(data) != member.size or zlib.crc32(data) != member.crc:
      fail('is damaged: its check sum differs. Replace the archive.')
    return data

  def _unpack(self, member):
    header = self._at(member.offset, _LOCAL_HEADER.size)
    magic, name, extra = _LOCAL_HEADER.unpack(header)
    if magic != b'PK\x03\x04':
      raise ValueError('there is no member where the table says')
    start = member.offset + _LOCAL_HEADER.size + name + extra
    packed = self._at(start, member.packed)
    if member.method == _STORED:
      return packed
    # One byte more than promised is enough to see that there are more.
    return zlib.decompressobj(-15).decompress(packed, member.size + 1)

  def _at(self, offset, size):
    with self._lock:
      if self._handle is None:
        self._handle = os.open(self.path, os.O_RDONLY)
        weakref.finalize(self, os.close, self._handle)
    parts = []
    while size:
      part = os.pread(self._handle, min(size, 1 << 30), offset)
      if not part:
        raise ValueError('the archive is cut off')
      parts.append(part)
      size, offset = size - len(part), offset + len(part)
    return b''.join(parts)


@functools.lru_cache(maxsize=8)
def _archive(path, _size, _time):
  """An archive's table is read once, however many readers share it."""
  return Archive(path)


def _open_archive(path):
  info = path.stat()
  return _archive(path, info.st_size, info.st_mtime_ns)


class Storage:
  """Files below one place; names are relative, with '/'. Pickles as a path.

  Args:
    place: a folder, a zip archive, or a folder in one.
    follow_links: allow symbolic links out of a folder.
    key: of the config, for the message.

  Raises:
    ValueError: there is no such folder or archive.
  """

  def __init__(self, place, *, follow_links=False, key='path'):
    self.place, self.follow_links, self.key = str(place), follow_links, key
    self.root, inside = split_archive(place)
    self._archive, self._prefix = None, ''
    if inside is not None:
      self._archive = _open_archive(self.root)
      self._prefix = f'{inside}/' if inside else ''
      members = self._archive.members
      if not any(name.startswith(self._prefix) for name in members):
        refuse(
          'missing_file',
          place,
          f'data.{key}={place}: {self.root} has no folder {inside!r}; its '
          f'members are called like {next(iter(members), None)!r}.',
        )
    elif not self.root.is_dir():
      refuse(
        'missing_file',
        place,
        f'data.{key}={place} is not a folder, nor a zip archive.',
      )

  def __reduce__(self):
    return functools.partial(
      Storage, follow_links=self.follow_links, key=self.key
    ), (self.place,)

  def label(self, name) -> str:
    """What messages call a file."""
    return str(pathlib.PurePath(self.place, name))

  def has(self, name, where='') -> bool:
    """Whether there is such a file. Raises ValueError for an unsafe name."""
    if self._archive is not None:
      return self._member(name, where) in self._archive.members
    return self._path(name, where).is_file()

  def read(self, name, where='') -> bytes:
    """The bytes of a file.

    Args:
      name: relative to the place.
      where: the file that the name was read from, for the message.

    Raises:
      ValueError: the name leaves the place; the file is not there, is empty
        or cannot be read. It names the file, and archive and member.
    """
    if self._archive is not None:
      data = self._archive.read(self._member(name, where))
    else:
      data = read_bytes(self._path(name, where), where)
    if not data:
      label = self.label(name)
      refuse(
        'empty_file', label, f'{label} is empty (zero bytes). Replace the file.'
      )
    return data

  def names(self) -> list[str]:
    """Every file below the place, sorted; hidden ones are passed over."""
    if self._archive is not None:
      found = [
        name.removeprefix(self._prefix)
        for name in self._archive.members
        if name.startswith(self._prefix)
      ]
    else:
      found = []
      for folder, _, files in os.walk(self.root, followlinks=self.follow_links):
        below = pathlib.Path(folder).relative_to(self.root).as_posix()
        found += [posixpath.normpath(f'{below}/{file}') for file in files]
    return sorted(
      name
      for name in found
      if not any(part[:1] == '.' for part in name.split('/'))
      and not name.startswith('__MACOSX/')
    )

  def _path(self, name, where):
    return safe_join(
      self.root, name, where=where or self.place, follow_links=self.follow_links
    )

  def _member(self, name, where):
    return self._prefix + posixpath.normpath(
      check_relative(name, where or self.place)
    )


def split_archive(path) -> tuple[pathlib.Path, str | None]:
  """'a/b.zip/c/d' -> ('a/b.zip', 'c/d'); a plain path -> (path, None)."""
  if not isinstance(path, str | os.PathLike):
    refuse('bad_argument', path, f'data: {path!r} is no path.')
  path = pathlib.Path(path)
  for parent in (path, *path.parents):
    if parent.is_file():
      if parent == path and parent.suffix.lower() != '.zip':
        break
      inside = path.relative_to(parent).as_posix()
      return parent, '' if inside == '.' else inside
    if parent.is_dir():
      break
  return path, None


def read_file(path) -> bytes:
  """The bytes of one file, which may be a member of an archive.

  Raises:
    ValueError: as `Storage.read`.
  """
  root, inside = split_archive(path)
  if not inside:
    return read_bytes(root)
  return _open_archive(root).read(posixpath.normpath(inside))
