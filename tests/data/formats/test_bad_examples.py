"""Bad examples: one row each, named once, and all others where they were."""

import itertools
import json

import numpy as np
import pytest

from pix2seqd_jax.data import pipeline
from pix2seqd_jax.data.formats import bad_examples
from pix2seqd_jax.data.readers import shapes

SIZE = (16, 20)
GOOD = shapes.Shapes(num_examples=24, size=SIZE)
TRAIN = (
  ('random_flip', {}),
  ('pad', {'size': 20}),
  ('labels', {'size': 8, 'num_ids': 9}),
)
EVAL = (('pad', {'size': 20}), ('labels', {'size': 8, 'num_ids': 9}))


class Damaged:
  """GOOD, of which some cannot be read and one has a map of another size."""

  categories = GOOD.categories

  def __init__(self, unread=(3, 11), misshapen=(7,), error=ValueError):
    self.unread, self.misshapen, self.error = unread, misshapen, error

  @property
  def bad(self):
    return {*self.unread, *self.misshapen}

  def __len__(self):
    return len(GOOD)

  def file_name(self, index):
    return f'{index}.jpg'

  def __getitem__(self, index):
    if index in self.unread:
      raise self.error(f'{index}.jpg is cut off')
    example = GOOD[index]
    if index in self.misshapen:
      example['ids'] = np.zeros((200, 200), np.int32)
    return example


def _take(source, count=18, **kwargs):
  kwargs = {'batch_size': 4, 'seed': 5, 'num_threads': 0} | kwargs
  batches = pipeline.train_batches(source, TRAIN, **kwargs)
  return list(itertools.islice(batches, count))


class Notes(list):
  def __call__(self, index, file, error):
    self.append((index, file, str(error)))


@pytest.mark.parametrize('error', [ValueError, OSError])
def test_the_order_of_the_rest_is_unchanged(error):
  damaged, notes = Damaged(error=error), Notes()
  whole, ours = _take(GOOD), _take(damaged, on_bad=notes)
  seen = 0
  for theirs, batch in zip(whole, ours, strict=True):
    was_bad = np.isin(theirs['index'], list(damaged.bad))
    assert ((batch['skipped'] > 0) == was_bad).all()
    assert not np.isin(batch['index'], list(damaged.bad)).any()
    for key in theirs:
      np.testing.assert_array_equal(batch[key][~was_bad], theirs[key][~was_bad])
    seen += was_bad.sum()
  assert seen == 9  # three examples in three epochs
  assert {(i, f) for i, f, _ in notes} >= {(i, f'{i}.jpg') for i in (3, 11)}
  assert {i for i, _, _ in notes} == damaged.bad
  assert all('200 x 200' in t for i, _, t in notes if i == 7)


@pytest.mark.parametrize('kwargs', [{'num_threads': 3}, {'start_step': 5}])
def test_threads_and_resumption_choose_the_same_substitutes(kwargs):
  start = kwargs.get('start_step', 0)
  whole = _take(Damaged(), on_bad=Notes())[start:]
  ours = _take(Damaged(), 18 - start, on_bad=Notes(), **kwargs)
  for a, b in zip(whole, ours, strict=True):
    for key in a:
      np.testing.assert_array_equal(a[key], b[key])


def test_any_number_of_processes_chooses_the_same_substitutes():
  whole = _take(Damaged(), on_bad=Notes())
  fractions = [
    _take(Damaged(), on_bad=Notes(), process_index=p, process_count=2)
    for p in range(2)
  ]
  for alone, *parts in zip(whole, *fractions, strict=True):
    for key in alone:
      joined = np.concatenate([part[key] for part in parts])
      np.testing.assert_array_equal(alone[key], joined)


def test_without_a_policy_it_is_raised_and_bugs_always_are():
  with pytest.raises(ValueError, match='is cut off'):
    _take(Damaged())
  with pytest.raises(KeyError, match='is cut off'):
    _take(Damaged(error=KeyError), on_bad=Notes())


@pytest.mark.parametrize('threads', [0, 2])
def test_nothing_but_bad_examples_is_a_clear_error(threads):
  hopeless = Damaged(unread=range(24))
  with pytest.raises(ValueError, match=r'24 examples.*The last: .*is cut off'):
    _take(hopeless, on_bad=Notes(), num_threads=threads)
  with pytest.raises(ValueError, match='24 examples'):
    list(pipeline.eval_batches(hopeless, EVAL, batch_size=4, on_bad=Notes()))


@pytest.mark.parametrize('first', [0, 7])
@pytest.mark.parametrize('processes', [1, 2])
def test_evaluation_counts_the_good_ones(first, processes):
  damaged = Damaged(unread=(first, 11, 23), misshapen=(12, 13, 14, 15))
  notes, real, skipped = Notes(), [], []
  for p in range(processes):
    batches = pipeline.eval_batches(
      damaged,
      EVAL,
      batch_size=4,
      on_bad=notes,
      process_index=p,
      process_count=processes,
    )
    for batch in batches:
      assert batch['image'].shape == (4 // processes, 20, 20, 3)
      real += batch['index'][batch['is_real']].tolist()
      skipped += [m.get('skipped', False) for m in batch['meta']]
  assert sorted(real) == sorted({*range(24)} - damaged.bad)
  assert sum(skipped) == len(damaged.bad) == len({i for i, _, _ in notes})


def test_each_is_named_once(tmp_path, caplog):
  path = tmp_path / 'bad_examples.jsonl'
  for _ in range(2):  # as two processes, or a run that went on
    noted = bad_examples.BadExamples(path)
    for index in (3, 5, 3):
      noted.add('train', index, f'{index}.jpg', ValueError('is cut off'))
  noted.add('eval', 3, '3.jpg', ValueError('is empty'))
  rows = bad_examples.read(path)
  assert [(r['split'], r['index'], r['reason']) for r in rows] == [
    ('train', 3, 'is cut off'),
    ('train', 5, 'is cut off'),
    ('eval', 3, 'is empty'),
  ]
  assert len(caplog.records) == 3 and '5.jpg' in caplog.text


def test_a_line_that_a_kill_cut_short_is_written_again(tmp_path):
  path = tmp_path / 'bad_examples.jsonl'
  bad_examples.BadExamples(path).add('train', 1, 'a', 'b')
  path.write_text(path.read_text() + '{"split": "tra')
  bad_examples.BadExamples(path).add('train', 2, 'c', 'd')
  assert [json.loads(x)['index'] for x in path.open()] == [1, 2]
