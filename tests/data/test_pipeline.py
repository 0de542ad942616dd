"""Laws of batches: order, processes, resumption, padding, errors."""

import itertools

import numpy as np
import pytest

from pix2seqd_jax.data import pipeline
from pix2seqd_jax.data.readers import shapes
from pix2seqd_jax.data.transforms.transforms import build_transforms

TRAIN = (
  ('scale_jitter', {'size': 16, 'scale': (1.0, 2.0)}),
  ('fixed_size_crop', {'size': 16}),
  ('random_flip', {}),
  ('color_jitter', {'strength': 0.5}),
  ('pad', {'size': 16}),
  ('labels', {'size': 8, 'num_ids': 9}),
)
EVAL = (
  ('resize_to_fit', {'size': (16, 16)}),
  ('pad', {'size': (16, 16)}),
  ('labels', {'size': (8, 8), 'num_ids': 9}),
)
SOURCE = shapes.Shapes(num_examples=10, size=(16, 20))


def _take(iterator, count):
  return list(itertools.islice(iterator, count))


def _train(count, **kwargs):
  kwargs = {'batch_size': 4, 'seed': 3, 'num_threads': 0} | kwargs
  return _take(pipeline.train_batches(SOURCE, TRAIN, **kwargs), count)


def _equal(a, b):
  assert sorted(a) == sorted(b)
  for key in a:
    np.testing.assert_array_equal(a[key], b[key], err_msg=key)


def test_a_training_batch_is_what_the_models_expect():
  (batch,) = _train(1)
  kinds = {k: (v.dtype.name, v.shape) for k, v in batch.items()}
  assert kinds == {
    'image': ('uint8', (4, 16, 16, 3)),
    'valid': ('bool', (4, 16, 16)),
    'semantic': ('int32', (4, 8, 8)),
    'instance': ('int32', (4, 8, 8)),
    'is_real': ('bool', (4,)),
    'index': ('int64', (4,)),
  }
  assert batch['is_real'].all()


def test_threads_change_nothing():
  for a, b in zip(_train(6), _train(6, num_threads=3)):
    _equal(a, b)


@pytest.mark.parametrize('start', [1, 3, 7])
def test_resumption_continues_the_unbroken_stream(start):
  unbroken = _train(9)
  resumed = _train(9 - start, start_step=start, num_threads=1)
  for a, b in zip(unbroken[start:], resumed, strict=True):
    _equal(a, b)


@pytest.mark.parametrize('processes', [2, 4])
def test_processes_side_by_side_are_one_process(processes):
  alone = _train(5)
  fractions = [
    _train(5, process_index=p, process_count=processes)
    for p in range(processes)
  ]
  for step, batch in enumerate(alone):
    joined = {
      k: np.concatenate([fraction[step][k] for fraction in fractions])
      for k in batch
    }
    _equal(batch, joined)


def test_an_epoch_covers_every_example_once_and_the_next_differs():
  indices = np.concatenate([b['index'] for b in _train(10)]).reshape(4, 10)
  for epoch in indices:
    assert sorted(epoch) == list(range(10))
  assert len({tuple(epoch) for epoch in indices}) == 4


def test_augmentation_is_drawn_afresh_and_from_the_seed():
  batches = _train(20)
  seen = [
    batch['instance'][row]
    for batch in batches
    for row in range(4)
    if batch['index'][row] == 7
  ]
  assert len({m.tobytes() for m in seen}) > len(seen) // 2
  assert any(
    (a['index'] != b['index']).any() for a, b in zip(batches, _train(3, seed=4))
  )


def test_bits_are_added_on_the_host():
  def encode(semantic, instance):
    return np.stack([semantic, instance], -1) * 2.0

  (batch,) = _train(1, encode=encode)
  assert batch['bits'].dtype == np.float32
  np.testing.assert_array_equal(batch['bits'][..., 1], batch['instance'] * 2)
  first = next(pipeline.eval_batches(SOURCE, EVAL, batch_size=2, encode=encode))
  assert first['bits'].shape == (2, 8, 8, 2)


def test_evaluation_pads_the_last_batch_and_keeps_the_truth():
  batches = list(pipeline.eval_batches(SOURCE, EVAL, batch_size=4))
  real = np.concatenate([b['is_real'] for b in batches])
  index = np.concatenate([b['index'] for b in batches])
  assert len(batches) == 3 and real.tolist() == [True] * 10 + [False] * 2
  assert index[real].tolist() == list(range(10))
  metas = [m for b in batches for m in b['meta']]
  assert len(metas) == 12
  for meta, i in zip(metas, range(10)):
    example = SOURCE[i]
    assert meta['index'] == i and meta['file'] == example['file']
    assert meta['size'] == (16, 20) and meta['unpadded'] == (13, 16)
    np.testing.assert_array_equal(meta['image'], example['image'])
    np.testing.assert_array_equal(meta['truth']['ids'], example['ids'])
    assert meta['truth']['segments'] == example['segments']
  valid = batches[0]['valid']
  assert valid[:, :13].all() and not valid[:, 13:].any()


@pytest.mark.parametrize('processes', [2, 4])
@pytest.mark.parametrize('count', [1, 5, 10, None])
def test_evaluation_by_processes_is_one_process(processes, count):
  def run(**kwargs):
    return list(
      pipeline.eval_batches(
        SOURCE, EVAL, batch_size=4, num_examples=count, **kwargs
      )
    )

  alone = run()
  fractions = [
    run(process_index=p, process_count=processes) for p in range(processes)
  ]
  assert {len(fraction) for fraction in fractions} == {len(alone)}
  for step, batch in enumerate(alone):
    joined = np.concatenate(
      [fraction[step]['is_real'] for fraction in fractions]
    )
    np.testing.assert_array_equal(joined, batch['is_real'])
    for key in ('index', 'image', 'semantic'):
      rows = np.concatenate([fraction[step][key] for fraction in fractions])
      np.testing.assert_array_equal(rows[joined], batch[key][joined])


class _Broken:
  categories = SOURCE.categories

  def __len__(self):
    return 4

  def __getitem__(self, index):
    if index == 2:
      raise ValueError('images/two.jpg has zero bytes')
    return SOURCE[index]


@pytest.mark.parametrize('threads', [0, 2])
def test_errors_of_a_reader_keep_the_name_of_the_file(threads):
  batches = pipeline.train_batches(
    _Broken(), TRAIN, batch_size=4, seed=0, num_threads=threads
  )
  with pytest.raises(ValueError, match=r'images/two\.jpg has zero bytes'):
    next(batches)


@pytest.mark.parametrize('threads', [0, 2])
def test_errors_of_a_transform_name_the_file(threads):
  batches = pipeline.train_batches(
    SOURCE, (('pad', {'size': 8}),), batch_size=2, seed=0, num_threads=threads
  )
  with pytest.raises(ValueError, match=r'shapes_train_.*pad: .* 16 x 20'):
    next(batches)


@pytest.mark.parametrize(
  'kwargs,words',
  [
    ({'batch_size': 3, 'process_count': 2}, 'data.batch_size=3.*multiple'),
    ({'batch_size': 0}, 'data.batch_size=0'),
    ({'process_index': 1}, 'process_index=1'),
    ({'start_step': -1}, 'start_step=-1'),
    ({'prefetch': 0}, 'prefetch=0'),
  ],
)
def test_bad_arguments(kwargs, words):
  kwargs = {'batch_size': 4, 'seed': 0} | kwargs
  with pytest.raises(ValueError, match=words):
    pipeline.train_batches(SOURCE, TRAIN, **kwargs)


def test_transforms_may_be_built_before():
  built = build_transforms(TRAIN)
  batch = next(
    pipeline.train_batches(SOURCE, built, batch_size=4, seed=3, num_threads=0)
  )
  _equal(batch, _train(1)[0])


def test_evaluation_refuses_no_examples():
  with pytest.raises(ValueError, match='num_examples=0'):
    pipeline.eval_batches(SOURCE, EVAL, batch_size=4, num_examples=0)
