"""What a run was fed, step by step: hashes that say if anything was lost.

Each process appends a line for each step to a file of its own, with the hash
and the index of each row that it read. A row's place in the global batch is
written beside it, so that `read` puts the rows together whatever the number of
processes was, then or later: two runs were fed the same examples, augmented
alike, in the same order, exactly where their ledgers are equal.

Nothing is ever cut away. A step that is done again after a kill must hash as it
did before; if it does not, that is an error.
"""

import hashlib
import json
import os
import pathlib
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from pix2seqd_jax import types

FILE = 'ledger.jsonl'  # of process 0; the others' are ledger.1.jsonl, ...
_HEX = 16  # digits of a row's hash: 64 bits
# How a row came about, under data.on_bad_example='skip', and not what it is: a
# run that a bad example stopped may go on with that setting.
_UNHASHED = (*types.HOST_KEYS, 'skipped')
_STEP = re.compile(rb'\{"step": (\d+), ')


class LedgerError(ValueError):
  """A step was fed other data than before, or files that are no ledger."""


class Rows(NamedTuple):
  """Consecutive rows of a global batch."""

  first: int  # where they begin
  of: int  # how many the global batch has
  hashes: tuple[str, ...]
  index: tuple[int, ...]  # of the examples; -1 where a batch has none


def hash_rows(
  batch: types.Batch, process_index: int = 0, process_count: int = 1
) -> Rows:
  """Hashes this process's rows of a host batch: every array, 64 bits a row.

  All arrays but `skipped`, which good examples have under one policy only.

  The hash takes in the names, types and shapes of the arrays. It does not
  depend on what else is in the batch, so not on the number of processes.
  """
  arrays = {
    k: np.ascontiguousarray(v)
    for k, v in sorted(batch.items())
    if k not in _UNHASHED
  }
  heads = {
    k: f'{k} {v.dtype.str} {v.shape[1:]};'.encode() for k, v in arrays.items()
  }
  size = len(next(iter(arrays.values())))
  hashes = []
  for row in range(size):
    made = hashlib.blake2b(digest_size=_HEX // 2)
    for name, array in arrays.items():
      made.update(heads[name])
      made.update(array[row].tobytes() if array.ndim == 1 else array[row].data)
    hashes.append(made.hexdigest())
  index = arrays.get('index', np.full(size, -1))
  return Rows(
    process_index * size,
    process_count * size,
    tuple(hashes),
    tuple(int(i) for i in index),
  )


class Ledger:
  """Appends the steps of this process to its file in a work directory.

  Args:
    workdir: the run's folder, seen by all processes.
    start: the step that the run goes on from.
    process_index, process_count: of this process, of all; by default jax's.

  Raises:
    LedgerError: here, on a file that is no ledger; in `write`, on a step that
      has other rows than when it was done before.
  """

  def __init__(
    self,
    workdir: str | os.PathLike,
    start: int = 0,
    process_index: int | None = None,
    process_count: int | None = None,
  ):
    self._index = (
      jax.process_index() if process_index is None else (process_index)
    )
    self._count = (
      jax.process_count() if process_count is None else (process_count)
    )
    # Steps after the checkpoint, which are done again now.
    self._before = _merged(pathlib.Path(workdir), after=start)
    path = pathlib.Path(workdir) / (
      f'ledger.{self._index}.jsonl' if self._index else FILE
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    _mend(path)
    self._file = path.open('ab')

  def hash(self, batch: types.Batch) -> Rows:
    """`hash_rows` for this process; from any thread."""
    return hash_rows(batch, self._index, self._count)

  def write(self, step: int, rows: Rows) -> None:
    """Notes what `step` (from 1) is fed; on disk before this returns."""
    before = self._before.pop(step, {})
    if _add(before, step, rows):
      line = {
        'step': step,
        'first': rows.first,
        'of': rows.of,
        'rows': ''.join(rows.hashes),
        'index': rows.index,
      }
      self._file.write(json.dumps(line).encode() + b'\n')
      self._file.flush()

  def close(self) -> None:
    self._file.close()


def read(workdir: str | os.PathLike) -> dict[int, str]:
  """{step: hash of the global batch} of each step whose rows are all there.

  Raises:
    LedgerError: a line is damaged (other than a last one that a kill cut
      short), or two lines of a step differ.
  """
  digests = {}
  for step, rows in sorted(_merged(pathlib.Path(workdir)).items()):
    if len(rows) == rows.pop('of') + 1:
      whole = ''.join(rows[i][0] for i in range(len(rows)))
      digests[step] = hashlib.blake2b(
        whole.encode(), digest_size=_HEX
      ).hexdigest()
  return digests


def indices(workdir: str | os.PathLike) -> dict[int, list[int]]:
  """{step: indices of its examples by row}, for the steps of `read`."""
  merged = _merged(pathlib.Path(workdir))
  return {
    step: [merged[step][i][1] for i in range(merged[step]['of'])]
    for step in read(workdir)
  }


def differences(
  ours: Mapping[int, str], theirs: Mapping[int, str]
) -> list[str]:
  """What differs between two ledgers (of `read`), a line each; [] if equal."""
  return [
    f'step {step}: {ours.get(step, "absent")} here, '
    f'{theirs.get(step, "absent")} there'
    for step in sorted({*ours, *theirs})
    if ours.get(step) != theirs.get(step)
  ]


def _add(known: dict[Any, Any], step: int, rows: Rows, where='') -> bool:
  """Adds rows to those of a step, {row: (hash, index), 'of': number}.

  Returns whether any was new.
  """
  new = False
  if known.setdefault('of', rows.of) != rows.of:
    raise LedgerError(
      f'{where}step {step} has {rows.of} rows now and had {known["of"]} '
      'before: data.batch_size was changed.'
    )
  pairs = zip(rows.hashes, rows.index, strict=True)
  for row, pair in enumerate(pairs, rows.first):
    old = known.get(row)
    if old is not None and old != pair:
      raise LedgerError(
        f'{where}step {step}, row {row}: example {pair[1]} with the hash '
        f'{pair[0]}, but example {old[1]} with {old[0]} when this step was '
        'done before. The data, the transforms or the code changed under the '
        'run; restore them, or start a new workdir.'
      )
    new = new or old is None
    known[row] = pair
  return new


def _merged(workdir: pathlib.Path, after: int = -1) -> dict[int, dict]:
  """The rows of each step past `after`, of all processes' files."""
  steps: dict[int, dict] = {}
  for path in sorted(workdir.glob('ledger*.jsonl')):
    for number, line in enumerate(_lines(path), 1):
      found = _STEP.match(line)
      if found is None:
        raise _damaged(path, number)
      step = int(found[1])
      if step > after:
        rows = _parse(line, path, number)
        _add(steps.setdefault(step, {}), step, rows, f'{path}: ')
  return steps


def _lines(path: pathlib.Path):
  """Whole lines; one without its end was cut short by a kill."""
  with path.open('rb') as file:
    for line in file:
      if line.endswith(b'\n'):
        yield line


def _parse(line: bytes, path: pathlib.Path, number: int) -> Rows:
  try:
    row = json.loads(line)
    text, index = row['rows'], tuple(int(i) for i in row['index'])
    hashes = tuple(text[i : i + _HEX] for i in range(0, len(text), _HEX))
    if len(hashes) == len(index) and text == ''.join(hashes):
      return Rows(int(row['first']), int(row['of']), hashes, index)
  except (ValueError, KeyError, TypeError):
    pass
  raise _damaged(path, number)


def _damaged(path, number):
  return LedgerError(
    f'{path}, line {number} is no line of a ledger; restore the file, or move '
    'it away to go on without its record.'
  )


def _mend(path: pathlib.Path) -> None:
  """Cuts off what a kill left of a last line."""
  if path.is_file():
    with path.open('rb+') as file:
      data_end = file.seek(0, os.SEEK_END)
      while data_end:
        start = max(data_end - 65536, 0)
        file.seek(start)
        found = file.read(data_end - start).rfind(b'\n')
        if found >= 0:
          data_end = start + found + 1
          break
        data_end = start
      file.truncate(data_end)
