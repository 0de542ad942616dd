"""Examples that cannot be used (data.on_bad_example='skip'), each named once.

A bad example costs the run one row: its place in the batch is filled by
another, and everything else stays where it was.
"""

import contextlib
import json
import logging
import os
import pathlib
import threading

POLICIES = ('raise', 'skip')
FILE = 'bad_examples.jsonl'
# Not one of so many in a row: the folder is wrong, not a file.
PATIENCE = 100


class ExampleError(ValueError):
  """What a transform raised, with the example's file.

  `is_fault` says that the example is to blame: the transform raised ValueError
  or OSError, and not what only a mistake in the code raises.
  """

  def __init__(self, message, file='', is_fault=True):
    super().__init__(message)
    self.file, self.is_fault = file, is_fault


def is_fault(error):
  """Whether an error of a reader or a transform is the example's fault."""
  if isinstance(error, ExampleError):
    return error.is_fault
  return isinstance(error, ValueError | OSError)


class BadExamples:
  """Names each bad example once, in the log and in a file.

  The file has a line {'split', 'index', 'file', 'reason'} for each, whichever
  process of the run met it first. Set `path` before the first is met; without
  one only the log is told.
  """

  def __init__(self, path=None):
    self.path = path
    self._named = set()
    self._lock = threading.Lock()

  def add(self, split, index, file, error):
    """Notes one; from any thread, and as often as it is met."""
    key = (split, int(index))
    with self._lock:
      if key in self._named:
        return
      self._named.add(key)
      row = {
        'split': split,
        'index': int(index),
        'file': str(file),
        'reason': str(error),
      }
      if self.path is None or _append_once(pathlib.Path(self.path), key, row):
        logging.getLogger(__name__).warning(
          'data: %s example %d (%s) is passed over: %s',
          *row.values(),
        )

  def __len__(self):
    return len(self._named)


def read(path):
  """The rows of a bad_examples.jsonl; one cut short by a kill is left out."""
  path = pathlib.Path(path)
  if not path.is_file():
    return []
  rows = []
  for line in path.read_text(encoding='utf-8').splitlines(keepends=True):
    if line.endswith('\n') and line.strip():
      rows.append(json.loads(line))
  return rows


def _append_once(path, key, row):
  """Adds the row unless its key is there; several processes may do so."""
  import fcntl

  path.parent.mkdir(parents=True, exist_ok=True)
  with path.open('a+b') as file:
    # On a file system without locks it may be named twice.
    with contextlib.suppress(OSError):
      fcntl.flock(file, fcntl.LOCK_EX)
    if key in {(r['split'], r['index']) for r in read(path)}:
      return False
    end = file.seek(0, os.SEEK_END)
    if end:
      file.seek(end - 1)
      if file.read(1) != b'\n':  # a kill cut the last line short
        whole = path.read_bytes()
        file.truncate(whole.rfind(b'\n') + 1)
    file.write(json.dumps(row).encode() + b'\n')
  return True
