"""TensorFlow's files: read by TensorFlow where it is installed."""

import sys

import numpy as np
import oracles
import pytest

from pix2seqd_jax.pretrained import pix2seq_tf, tf_checkpoint


def test_without_tensorflow_the_extra_is_named(monkeypatch):
  monkeypatch.setitem(sys.modules, 'tensorflow', None)
  with pytest.raises(ValueError, match=r"pip install 'pix2seqd_jax\[tf\]'"):
    tf_checkpoint.read('ckpt')


class Reader:
  def get_tensor(self, name):
    if name == 'bad':
      raise OSError('checksum does not match')
    return np.arange(3, dtype=np.float32)


def test_values_are_read_when_they_are_needed():
  good, bad = (tf_checkpoint.Variable(Reader(), n, (3,)) for n in ('a', 'bad'))
  assert good.shape == bad.shape == (3,)
  np.testing.assert_array_equal(np.asarray(good), [0, 1, 2])
  assert np.asarray(good, np.float64).dtype == np.float64
  with pytest.raises(ValueError, match=r'bad cannot be read.*does not match'):
    np.asarray(bad)


# --- with TensorFlow ---


@pytest.fixture(scope='module')
def tf():
  return pytest.importorskip('tensorflow', reason='needs the extra tf')


@pytest.mark.parametrize('name', ['', 'ckpt-7', 'ckpt-7.index'])
def test_the_originals_own_checkpoint(tf, shared, name):
  """As its Trainer wrote it, with the optimizer and counters beside."""
  folder = shared / 'oracles' / 'pix2seq' / 'A'
  variables = tf_checkpoint.read(folder / 'ckpt' / name)
  for kind, ema in (('raw', False), ('ema', True)):
    params, _ = oracles.load_pix2seq(shared, 'A', kind)
    made = pix2seq_tf.plan(variables, params, ema=ema)
    assert len(made.rows) == 501
    assert sum(made.passed_over.values()) == len(variables) - 501
    if name != 'ckpt-7':
      continue
    found = made.tree(variables)
    theirs = oracles.load_npz(folder / f'weights_{kind}.npz')
    expected = pix2seq_tf.convert(theirs, params, ema=ema)
    np.testing.assert_equal(found, expected)


def _nested(tf, variables):
  """{'a/b/c': variable} -> objects with attributes a, b, c."""
  children = {}
  for name, variable in variables.items():
    first, _, rest = name.partition('/')
    children.setdefault(first, {})[rest] = variable
  return tf.train.Checkpoint(
    **{
      first: below[''] if '' in below else _nested(tf, below)
      for first, below in children.items()
    }
  )


def test_an_optimizer_with_slots(tf, tmp_path):
  """The names of 2022, `x/.OPTIMIZER_SLOT/optimizer/m`, are passed over."""
  weights = {
    'encoder/stem_ln/gamma': tf.Variable(np.full(3, 2.0, np.float32)),
    'encoder/stem_ln/beta': tf.Variable(np.full(3, 5.0, np.float32)),
    'proj/kernel': tf.Variable(np.zeros((3, 3), np.float32)),
  }
  optimizer = tf.compat.v1.train.AdamOptimizer(0.1)
  with tf.GradientTape() as tape:
    loss = sum(tf.reduce_sum(v * 0.0) for v in weights.values())
  grads = tape.gradient(loss, list(weights.values()))
  optimizer.apply_gradients(zip(grads, weights.values()))
  saved = tf.train.Checkpoint(
    model=_nested(tf, weights), optimizer=optimizer, global_step=tf.Variable(1)
  ).save(str(tmp_path / 'ckpt'))
  variables = tf_checkpoint.read(saved)
  slot = 'model/encoder/stem_ln/gamma/.OPTIMIZER_SLOT/optimizer/m'
  assert f'{slot}/.ATTRIBUTES/VARIABLE_VALUE' in variables
  shape = np.zeros(3, np.float32)
  target = {
    'net': {'encoder': {'projection_norm': {'scale': shape, 'bias': shape}}}
  }
  made = pix2seq_tf.plan(variables, target, part='encoder')
  found = made.tree(variables)['net']['encoder']['projection_norm']
  np.testing.assert_array_equal(found['scale'], np.full(3, 2.0))
  np.testing.assert_array_equal(found['bias'], np.full(3, 5.0))
  assert made.passed_over['state of the optimizer'] >= 6
  assert made.passed_over['other parts of the model'] == 1


def test_what_is_no_checkpoint(tf, tmp_path):
  with pytest.raises(ValueError, match='nothing is no TensorFlow checkpoint'):
    tf_checkpoint.read(tmp_path / 'nothing')
  (tmp_path / 'ckpt-1.index').write_bytes(b'not an index')
  with pytest.raises(ValueError, match='ckpt-1 is no TensorFlow checkpoint'):
    tf_checkpoint.read(tmp_path / 'ckpt-1.index')


def test_a_damaged_file(tf, shared, tmp_path):
  folder = shared / 'oracles' / 'pix2seq' / 'A' / 'ckpt'
  for path in folder.glob('ckpt-7.*'):
    data = bytearray(path.read_bytes())
    if 'data' in path.name:
      data[: len(data) // 2] = bytes(len(data) // 2)
    (tmp_path / path.name).write_bytes(data)
  variables = tf_checkpoint.read(tmp_path / 'ckpt-7')
  with pytest.raises(ValueError, match='the checkpoint is damaged'):
    for value in variables.values():
      np.asarray(value)
