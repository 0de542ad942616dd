"""Any reader -> ArrayRecord shards; what `array_record` reads.

A conversion that is killed leaves finished shards and a record of them; the
next one, of the same data, goes on after them. SPLIT.json comes last.
"""

import collections
import contextlib
import fcntl
import hashlib
import json
import os
import pathlib
import re
from concurrent import futures

import numpy as np

from pix2seqd_jax.data.formats.categories import categories_to_json
from pix2seqd_jax.data.formats.files import write_atomically
from pix2seqd_jax.data.formats.panoptic_record import pack, unpack
from pix2seqd_jax.data.formats.tf_example import decode_example, encode_example
from pix2seqd_jax.data.readers import array_record

# Records of 150 kB (COCO) make shards of 150 MB.
EXAMPLES_A_SHARD = 1024
# One record a group: grain reads single records. Images are packed already.
_OPTIONS = 'group_size:1,uncompressed'


class Conversion:
  """Writes a split; `run` is the work.

  Args:
    source: a `types.Source`. Where it has `original(index)` (see
      `panoptic_record.pack`), the bytes of its files are kept as they are.
    folder: made where it does not exist.
    split: the name of SPLIT.json and of the shards.
    origin: what the data are, for SPLIT.json; a JSON value. A conversion that
      was stopped is resumed only where it is the same.
    num_shards: 0 for one each 1,024 examples.
    overwrite: replace a complete split.

  Raises:
    ValueError: the split is there already, or another process writes it.
  """

  def __init__(
    self, source, folder, split, *, origin=None, num_shards=0, overwrite=False
  ):
    count = len(source)
    if not re.fullmatch(r'\w[\w.-]*', split):
      raise ValueError(
        f'--split={split!r} names files: letters, digits, and . - _ only.'
      )
    if num_shards < 0 or num_shards > count:
      raise ValueError(
        f'--shards={num_shards} must lie in 0..{count}, the number of examples '
        '(0: chosen by their number).'
      )
    num_shards = num_shards or -(-count // EXAMPLES_A_SHARD)
    self.source, self.split = source, split
    self.folder = pathlib.Path(folder)
    self.path = array_record.metadata_path(folder, split)
    if self.path.exists() and not overwrite:
      raise ValueError(
        f'{self.path} exists: the split was converted. Use another --out or '
        '--split, or --overwrite.'
      )
    self._bounds = [i * count // num_shards for i in range(num_shards + 1)]
    self.head = {
      'format': array_record.FORMAT,
      'version': array_record.VERSION,
      'split': split,
      'count': count,
      'exif': bool(getattr(source, 'exif', True)),
      'source': origin,
      'categories': categories_to_json(source.categories),
    }
    self._journal = self.folder / f'.{split}.unfinished.json'
    self._shards = []

  @property
  def done(self):
    """How many examples lie in finished shards."""
    return sum(entry['count'] for entry in self._shards)

  def run(self, *, num_threads=4, on_start=None, on_example=None):
    """Converts what is not converted yet.

    Args:
      num_threads: readers at work.
      on_start: called with the number of examples that an earlier, stopped
        conversion left finished.
      on_example: called after each example.

    Returns:
      What SPLIT.json holds.

    Raises:
      ValueError: an example cannot be read or stored, or would be read back
        as another one.
    """
    self.folder.mkdir(parents=True, exist_ok=True)
    with self._locked():
      self._resume()
      if on_start:
        on_start(self.done)
      for number in range(len(self._shards), len(self._bounds) - 1):
        self._write_shard(number, num_threads, on_example)
        write_atomically(self._journal, self._text(self._shards))
      digests = ''.join(entry['sha256'] for entry in self._shards)
      metadata = self.head | {
        'digest': hashlib.sha256(digests.encode()).hexdigest(),
        'shards': self._shards,
      }
      write_atomically(self.path, json.dumps(metadata, indent=1).encode())
      self._journal.unlink(missing_ok=True)
    return metadata

  @contextlib.contextmanager
  def _locked(self):
    path = self.folder / f'.{self.split}.lock'
    with open(path, 'w') as lock:
      try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
      except OSError as error:
        raise ValueError(
          f'another process converts {self.split} in {self.folder}.'
        ) from error
      try:
        yield
      finally:
        path.unlink(missing_ok=True)

  def _text(self, shards):
    plan = {'head': self.head, 'bounds': self._bounds}
    plan = hashlib.sha256(json.dumps(plan).encode()).hexdigest()
    return json.dumps({'plan': plan, 'shards': shards}).encode()

  def _resume(self):
    """Takes over the shards of a stopped conversion of the same plan."""
    self.path.unlink(missing_ok=True)  # from here on the split is not there
    kept = []
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
      found = json.loads(self._journal.read_bytes())
      if found['plan'] == json.loads(self._text([]))['plan']:
        for entry in found['shards']:
          path = self.folder / entry['file']
          if array_record.file_digest(path) != entry['sha256']:
            break
          kept.append(entry)
    self._shards = kept
    ours = re.compile(
      rf'\.?{re.escape(self.split)}-\d+-of-\d+\.array_record(\.partial)?'
    )
    names = {entry['file'] for entry in kept}
    for path in self.folder.iterdir():
      if ours.fullmatch(path.name) and path.name not in names:
        path.unlink()

  def _write_shard(self, number, num_threads, on_example):
    from array_record.python.array_record_module import ArrayRecordWriter

    name = array_record.shard_name(self.split, number, len(self._bounds) - 1)
    partial = self.folder / f'.{name}.partial'
    rows = range(self._bounds[number], self._bounds[number + 1])
    writer = ArrayRecordWriter(str(partial), _OPTIONS)
    try:
      for record in _in_order(self._record, rows, num_threads):
        writer.write(record)
        if on_example:
          on_example()
      writer.close()
      entry = {
        'file': name,
        'count': len(rows),
        'bytes': partial.stat().st_size,
        'sha256': array_record.file_digest(partial),
      }
      os.replace(partial, self.folder / name)
    except BaseException:
      with contextlib.suppress(Exception):
        writer.close()
      partial.unlink(missing_ok=True)
      raise
    self._shards.append(entry)

  def _record(self, index):
    """The bytes of a record, which was read back and compared."""
    source = self.source
    example = source[index]
    original = source.original(index) if hasattr(source, 'original') else None
    data = encode_example(pack(example, original))
    again = unpack(
      decode_example(data),
      example['file'],
      index,
      len(source.categories),
      exif=self.head['exif'],
    )
    wrong = [k for k in {*example, *again} if not _same(example, again, k)]
    if wrong:
      raise ValueError(
        f'{example["file"]} (example {index}) would be read back with another '
        f'{", ".join(sorted(wrong))}; {type(source).__name__} does not follow '
        'types.Source (index = position, ids named by the segments).'
      )
    return data


def _same(a, b, key):
  if key not in a or key not in b:
    return False
  a, b = a[key], b[key]
  if isinstance(a, np.ndarray) or isinstance(b, np.ndarray):
    return np.array_equal(a, b) and np.asarray(a).dtype == np.asarray(b).dtype
  return a == b


def _in_order(call, items, num_threads):
  """map(call, items) by threads that run a little ahead, in order."""
  if num_threads < 2:
    yield from map(call, items)
    return
  with futures.ThreadPoolExecutor(num_threads) as pool:
    waiting = collections.deque()
    try:
      for item in items:
        waiting.append(pool.submit(call, item))
        if len(waiting) > 2 * num_threads:
          yield waiting.popleft().result()
      while waiting:
        yield waiting.popleft().result()
    finally:
      for future in waiting:
        future.cancel()
