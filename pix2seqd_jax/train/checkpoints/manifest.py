"""The digests of a folder's files, written last of a checkpoint.

Orbax commits a checkpoint by one rename and checks nothing when it reads: of
200 flipped bits 182 gave wrong weights in silence. So each step's folder (and
`frozen/`) gets a `manifest.json` with size and SHA-256 of every file in it,
metadata included, and with its own digest. A folder without one is a save that
was killed, and a folder that differs from its manifest is damaged; neither is
ever read.
"""

import concurrent.futures
import hashlib
import json
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

FILE = 'manifest.json'
_PART = FILE + '.part'
_FORMAT = 1
_THREADS = min(8, os.cpu_count() or 1)


class Damaged(ValueError):
  """Files are not what was written."""


class Manifest(NamedTuple):
  """What a folder held when it was written."""

  files: dict[str, tuple[int, str]]  # relative path: (bytes, SHA-256)
  about: dict[str, Any]  # whatever the writer noted
  digest: str  # of all this


def files_in(folder: str | os.PathLike, only: Sequence[str] = ()) -> list[str]:
  """Relative paths of all files but the manifest, sorted.

  `only` names files, and folders with all that is below them. Hidden files are
  a file system's own (.nfs*, .DS_Store): Orbax's OCDBT format writes none.
  """
  folder = pathlib.Path(folder)
  roots = [folder / name for name in only] or [folder]
  found = (
    path.relative_to(folder).as_posix()
    for root in roots
    for path in (root.rglob('*') if root.is_dir() else (root,))
    if path.is_file() and not path.name.startswith('.')
  )
  return sorted(name for name in found if name not in (FILE, _PART))


def _digest(path: pathlib.Path) -> tuple[int, str]:
  """(size, SHA-256) of one reading of a file."""
  with path.open('rb') as file:
    digest = hashlib.file_digest(file, 'sha256').hexdigest()
    return file.tell(), digest


def _digests(folder, names, threads) -> dict[str, tuple[int, str] | None]:
  """By name; None for what is not there. hashlib releases the GIL."""

  def one(name):
    try:
      return _digest(folder / name)
    except FileNotFoundError:
      return None

  with concurrent.futures.ThreadPoolExecutor(threads) as pool:
    return dict(zip(names, pool.map(one, names)))


def _text(files: Mapping[str, Any], about: Mapping[str, Any]) -> str:
  body = {'format': _FORMAT, 'about': dict(about), 'files': files}
  own = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
  return json.dumps({**body, 'digest': own}, indent=1, sort_keys=True) + '\n'


def write_text(path: pathlib.Path, text: str) -> None:
  """Writes a file at once or not at all, and waits for the disk."""
  part = path.with_name(path.name + '.part')
  with part.open('w', encoding='utf-8') as file:
    file.write(text)
    file.flush()
    os.fsync(file.fileno())
  os.replace(part, path)


def write(
  folder: str | os.PathLike,
  about: Mapping[str, Any] | None = None,
  threads: int = max(1, _THREADS // 2),
  only: Sequence[str] = (),
) -> str:
  """Writes the manifest of a folder that is complete; returns its digest.

  Args:
    folder: nothing in it may change from now on.
    about: plain JSON values to be kept with it.
    threads: for hashing; the others are left to the training.
    only: files and folders that it is about; empty is all.
  """
  folder = pathlib.Path(folder)
  names = files_in(folder, only)
  files = {k: list(v) for k, v in _digests(folder, names, threads).items()}
  write_text(folder / FILE, _text(files, about or {}))
  return read(folder).digest


def exists(folder: str | os.PathLike) -> bool:
  """Whether there is a manifest, be it good or not."""
  return (pathlib.Path(folder) / FILE).is_file()


def read(folder: str | os.PathLike) -> Manifest:
  """The manifest of a folder, which must be what was written to the bit.

  Raises:
    Damaged: it is missing, or differs from its own digest.
  """
  path = pathlib.Path(folder) / FILE
  try:
    text = path.read_text(encoding='utf-8')
    body = json.loads(text)
    made = Manifest(
      {k: (v[0], v[1]) for k, v in body['files'].items()},
      body['about'],
      body['digest'],
    )
    if text == _text(body['files'], made.about):
      return made
  except FileNotFoundError:
    raise Damaged(f'{path} is missing.') from None
  except (ValueError, KeyError, TypeError, AttributeError, IndexError):
    pass
  raise Damaged(f'{path} is damaged.')


def states(
  folder: str | os.PathLike, only: Sequence[str] = (), threads: int = _THREADS
) -> dict[str, str]:
  """The state of every file of a folder with a manifest: 'ok' or what is wrong.

  Args:
    folder: which.
    only: names of files, and of folders with all that is below; empty is all.
    threads: for hashing.

  Returns:
    {relative path: 'ok' | 'missing' | 'extra' | '10 of 300 bytes' |
    'other content' | 'damaged'}, the last for the manifest alone.
  """
  folder = pathlib.Path(folder)
  try:
    expected = read(folder).files
  except Damaged:
    return {FILE: 'damaged' if exists(folder) else 'missing'}
  mine = [
    name
    for name in expected
    if not only or any(name == o or name.startswith(f'{o}/') for o in only)
  ]
  names = sorted({*mine, *files_in(folder, only)})
  found = _digests(folder, [n for n in names if n in expected], threads)
  result = {FILE: 'ok'}
  for name in names:
    if name not in expected:
      result[name] = 'extra'
    elif found[name] is None:
      result[name] = 'missing'
    elif found[name][0] != expected[name][0]:
      result[name] = f'{found[name][0]} of {expected[name][0]} bytes'
    else:
      same = found[name] == expected[name]
      result[name] = 'ok' if same else 'other content'
  return result


def faults(folder: str | os.PathLike, only: Sequence[str] = ()) -> list[str]:
  """'<file>: <what is wrong>' for every file that is not as it was written."""
  found = states(folder, only)
  return [f'{name}: {state}' for name, state in found.items() if state != 'ok']


def describe(wrong: Sequence[str], shown: int = 3) -> str:
  """The first few faults on one line."""
  more = len(wrong) - shown
  text = '; '.join(wrong[:shown])
  return text + (f'; and {more} more' if more > 0 else '')
