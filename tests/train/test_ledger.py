"""The ledger: one hash a step, whatever the processes and the kills."""

import json

import numpy as np
import pytest

from pix2seqd_jax.train import ledger


def _batch(step, size=8):
  rng = np.random.default_rng([1, step])
  return {
    'image': rng.integers(0, 256, (size, 3, 4, 3), np.uint8),
    'valid': rng.random((size, 3, 4)) > 0.5,
    'index': np.arange(size) + step * size,
    'meta': [{'file': f'{i}'} for i in range(size)],
  }


def _share(batch, index, count):
  size = len(batch['index']) // count
  return {k: v[index * size :][:size] for k, v in batch.items()}


def _run(folder, steps, count=1):
  """The steps (from 1) of a run, by `count` processes."""
  for index in range(count):
    book = ledger.Ledger(folder, steps[0] - 1, index, count)
    for step in steps:
      book.write(step, book.hash(_share(_batch(step), index, count)))
    book.close()


def test_the_number_of_processes_kills_and_resumes_change_nothing(tmp_path):
  _run(tmp_path / 'whole', range(1, 13))
  whole = ledger.read(tmp_path / 'whole')
  assert list(whole) == list(range(1, 13)) and len({*whole.values()}) == 12
  # 1 -> 2 -> 4 -> 1 processes; some steps are done twice.
  for first, last, count in ((1, 4, 1), (3, 7, 2), (5, 10, 4), (10, 12, 1)):
    _run(tmp_path / 'broken', range(first, last + 1), count)
  assert ledger.differences(ledger.read(tmp_path / 'broken'), whole) == []
  rows = ledger.indices(tmp_path / 'broken')
  assert rows == {s: list(range(8 * s, 8 * s + 8)) for s in range(1, 13)}


@pytest.mark.parametrize(
  'change',
  [
    lambda b: b['image'].__setitem__((5, 0, 0, 0), b['image'][5, 0, 0, 0] ^ 1),
    lambda b: b['index'].__setitem__(3, 0),
    lambda b: b.update({k: v[::-1] for k, v in b.items()}),
    lambda b: b.update(valid=b['valid'].astype(np.uint8)),
    lambda b: b.update(image=b['image'].reshape(8, 4, 3, 3)),
    lambda b: b.pop('valid'),
    lambda b: b.update(extra=np.zeros(8)),
  ],
)
def test_any_change_is_seen(tmp_path, change):
  batch = _batch(1)
  change(batch)
  assert ledger.hash_rows(batch).hashes != ledger.hash_rows(_batch(1)).hashes
  _run(tmp_path / 'a', [1, 2])
  book = ledger.Ledger(tmp_path / 'a', 0)
  with pytest.raises(ledger.LedgerError, match='step 1, row'):
    book.write(1, book.hash(batch))
  book = ledger.Ledger(tmp_path / 'b', 0)
  book.write(1, book.hash(batch))
  found = ledger.differences(
    *map(ledger.read, (tmp_path / 'a', tmp_path / 'b'))
  )
  assert [line.split(':')[0] for line in found] == ['step 1', 'step 2']


def test_a_row_does_not_depend_on_its_neighbours_and_meta_is_not_hashed():
  batch, other = _batch(1), _batch(1)
  other['image'][1:] = 0
  other['meta'] = None
  hashes = [ledger.hash_rows(b).hashes for b in (batch, other)]
  assert hashes[0][0] == hashes[1][0] and hashes[0][1] != hashes[1][1]


def test_a_run_stopped_by_a_bad_example_may_go_on_with_skip(tmp_path):
  _run(tmp_path, [1, 2])
  whole = ledger.read(tmp_path)
  book = ledger.Ledger(tmp_path, 1)  # step 2 was done, but not saved
  book.write(2, book.hash(_batch(2) | {'skipped': np.zeros(8, np.int32)}))
  book.close()
  assert ledger.read(tmp_path) == whole


@pytest.mark.parametrize('cut', [1, 30, 100])
def test_a_line_that_a_kill_cut_short_is_done_again(tmp_path, cut):
  _run(tmp_path, range(1, 5))
  whole = ledger.read(tmp_path)
  path = tmp_path / ledger.FILE
  path.write_bytes(path.read_bytes()[:-cut])
  assert list(ledger.read(tmp_path)) == [1, 2, 3]
  _run(tmp_path, range(3, 5))
  assert ledger.read(tmp_path) == whole
  assert len(path.read_text().splitlines()) == 4


def test_a_step_that_not_all_processes_wrote_is_not_listed(tmp_path):
  _run(tmp_path, [1, 2], count=2)
  lines = (tmp_path / 'ledger.1.jsonl').read_text().splitlines(keepends=True)
  (tmp_path / 'ledger.1.jsonl').write_text(lines[0])
  assert list(ledger.read(tmp_path)) == [1]
  _run(tmp_path, [2], count=1)
  assert list(ledger.read(tmp_path)) == [1, 2]


@pytest.mark.parametrize('what', ['rows', 'index', 'first', 'step'])
def test_a_damaged_line_is_named(tmp_path, what):
  _run(tmp_path, [1, 2])
  path = tmp_path / ledger.FILE
  lines = [json.loads(line) for line in path.read_text().splitlines()]
  del lines[0][what]
  path.write_text(''.join(json.dumps(line) + '\n' for line in lines))
  with pytest.raises(ledger.LedgerError, match=r'ledger\.jsonl, line 1'):
    ledger.read(tmp_path)


def test_another_batch_size_is_refused(tmp_path):
  _run(tmp_path, [1])
  book = ledger.Ledger(tmp_path, 0)
  with pytest.raises(ledger.LedgerError, match=r'data\.batch_size'):
    book.write(1, book.hash(_batch(1, size=4)))
