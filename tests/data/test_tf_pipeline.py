"""tf.data's batches: grain's, byte for byte, from any step, of any process."""

import itertools
import sys

import numpy as np
import pytest

from pix2seqd_jax.data import pipeline
from pix2seqd_jax.data.readers import shapes

TRAIN = (
  ('scale_jitter', {'size': 16, 'scale': (1.0, 2.0)}),
  ('fixed_size_crop', {'size': 16}),
  ('random_flip', {}),
  ('color_jitter', {'strength': 0.5}),
  ('pad', {'size': 16}),
  ('labels', {'size': 8, 'num_ids': 9}),
)
SOURCE = shapes.Shapes(num_examples=10, size=(16, 20))


def _batches(loader, count, source=SOURCE, **kwargs):
  kwargs = {'batch_size': 4, 'seed': 3} | kwargs
  stream = pipeline.train_batches(source, TRAIN, loader=loader, **kwargs)
  return list(itertools.islice(stream, count))


@pytest.fixture
def tf():
  return pytest.importorskip('tensorflow', reason='needs the extra tf')


@pytest.mark.parametrize('threads', [0, 3])
@pytest.mark.parametrize(
  'kwargs',
  [
    {},
    {'start_step': 5},
    {'process_index': 1, 'process_count': 2, 'start_step': 2},
  ],
)
def test_batches_are_those_of_grain(tf, threads, kwargs):
  kwargs = kwargs | {'num_threads': threads}
  found, expected = (
    _batches(loader, 6, **kwargs) for loader in pipeline.LOADERS
  )
  for a, b in zip(found, expected, strict=True):
    assert sorted(a) == sorted(b)
    for key in a:
      assert a[key].dtype == b[key].dtype
      np.testing.assert_array_equal(a[key], b[key], err_msg=key)


def test_host_encoding_and_skipping_are_those_of_grain(tf):
  def encode(semantic, instance):
    return np.stack([semantic, instance], -1) * 2.0

  kwargs = {'encode': encode, 'on_bad': lambda *_: None, 'source': _Broken()}
  found, expected = (
    _batches(loader, 5, **kwargs) for loader in pipeline.LOADERS
  )
  assert sum(batch['skipped'].sum() for batch in found)
  for a, b in zip(found, expected, strict=True):
    for key in b:
      np.testing.assert_array_equal(a[key], b[key], err_msg=key)


class _Broken:
  categories = SOURCE.categories

  def __len__(self):
    return 10

  def __getitem__(self, index):
    if index == 2:
      raise ValueError('images/two.jpg has zero bytes')
    return SOURCE[index]


@pytest.mark.parametrize('threads', [0, 2])
def test_errors_are_those_of_the_reader(tf, threads):
  with pytest.raises(ValueError, match=r'images/two\.jpg has zero bytes'):
    _batches('tf_data', 5, _Broken(), num_threads=threads)


def test_without_tensorflow_it_says_what_to_do(monkeypatch):
  monkeypatch.setitem(sys.modules, 'tensorflow', None)
  with pytest.raises(ValueError, match=r"'tf_data' needs .*\[tf\]"):
    _batches('tf_data', 1)


def test_an_unknown_loader_is_refused():
  with pytest.raises(ValueError, match=r"data\.loader='torch'.*grain"):
    _batches('torch', 1)
