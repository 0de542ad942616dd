import csv

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from flax import traverse_util

from pix2seqd_jax.architectures.pyramid import TopDownMerge
from pix2seqd_jax.architectures.resnet_transformer import Encoder
from pix2seqd_jax.architectures.transunet import TransUNet
from pix2seqd_jax.pretrained import pix2seq_tf


@pytest.fixture(scope='module')
def table(shared):
  """{name: (shape, is trainable)} of the released config, 765 variables."""
  with (shared / 'methods' / 'pix2seqd_tf_vars.tsv').open() as f:
    rows = list(csv.reader(f, delimiter='\t'))[1:]
  return {
    row[0]: (tuple(int(n) for n in row[2].split('x')), row[3] == '1')
    for row in rows
  }


@pytest.fixture(scope='module')
def released():
  """Our tree of the released config, as shapes."""
  modules = oracles.Modules(
    Encoder(), TopDownMerge(), TransUNet(), (64, 64), (32, 32), 16, 0
  )
  return modules.shapes()


def test_all_names_and_shapes(table, released):
  flat = traverse_util.flatten_dict(released)
  assert len(table) == len(flat) == 765
  ours = {pix2seq_tf.their_name(path): path for path in flat}
  assert set(ours) == set(table)
  for name, path in ours.items():
    shape, is_trainable = table[name]
    assert flat[path].shape == shape, name
    assert (path[0] == 'net') == is_trainable, name
    assert pix2seq_tf.our_path(name) == path


SHAPE = jax.ShapeDtypeStruct((3,), jnp.float32)
TARGET = {
  'net': {
    'encoder': {'projection_norm': {'scale': SHAPE, 'bias': SHAPE}},
    'denoiser': {'conv_in': {'bias': SHAPE}},
  }
}
ARRAYS = {
  'encoder/stem_ln/gamma': np.full(3, 1.0),
  'encoder/stem_ln/beta': np.full(3, 2.0),
  'denoiser/conv_in/bias': np.full(3, 3.0),
}


def _assert_converted(params, offset=0.0):
  norm = params['net']['encoder']['projection_norm']
  assert norm['scale'][0] == 1 + offset
  assert norm['bias'][0] == 2 + offset
  assert params['net']['denoiser']['conv_in']['bias'][0] == 3 + offset


def test_prefix_and_suffix_of_checkpoints():
  _assert_converted(pix2seq_tf.convert(ARRAYS, TARGET))
  long = {
    f'model/{name}/.ATTRIBUTES/VARIABLE_VALUE': value
    for name, value in ARRAYS.items()
  }
  _assert_converted(pix2seq_tf.convert(long, TARGET))


def test_takes_the_copy_that_was_asked_for():
  averaged = {
    name.replace('/', '_ema/', 1): value + 10 for name, value in ARRAYS.items()
  }
  both = ARRAYS | averaged
  _assert_converted(pix2seq_tf.convert(both, TARGET))
  _assert_converted(pix2seq_tf.convert(both, TARGET, ema=True), offset=10)
  with pytest.raises(ValueError, match='3 of the averaged variables'):
    pix2seq_tf.convert(ARRAYS, TARGET, ema=True)


def test_every_difference_is_listed():
  wrong = dict(ARRAYS)
  del wrong['encoder/stem_ln/beta']
  wrong['denoiser/conv_in/bias'] = np.zeros(4)
  wrong['denoiser/conv_out/bias'] = np.zeros(3)  # known, not in the target
  wrong['denoiser/conv_in/offset'] = np.zeros(3)  # unknown
  wrong['temperature'] = np.zeros(())
  with pytest.raises(ValueError) as error:
    pix2seq_tf.convert(wrong, TARGET)
  message = str(error.value)
  assert message.startswith('5 of the raw variables')
  for line in (
    'missing: encoder/stem_ln/beta',
    'misshapen: denoiser/conv_in/bias is (4,), the model has (3,)',
    'extra: denoiser/conv_out/bias',
    'extra: denoiser/conv_in/offset',
    'extra: temperature',
  ):
    assert line in message


def test_a_name_given_twice():
  twice = ARRAYS | {'model/encoder/stem_ln/gamma': np.zeros(3)}
  with pytest.raises(ValueError, match='extra: model/encoder/stem_ln/gamma'):
    pix2seq_tf.convert(twice, TARGET)


def checkpoint_of(names, shapes):
  """A checkpoint's arrays by its long names; they take no memory."""
  return {
    f'model/{name}/.ATTRIBUTES/VARIABLE_VALUE': np.broadcast_to(
      np.float32(0), shapes[name]
    )
    for name in names
  }


def beside(names):
  """What Keras' optimizers of 2022 and 2023 and the saver write."""
  end = '.ATTRIBUTES/VARIABLE_VALUE'
  found = [f'optimizer/_variables/{i}/{end}' for i in range(2 * len(names))]
  found += [f'optimizer/{n}/{end}' for n in ('learning_rate', 'iter', 'beta_1')]
  found += [
    f'model/{name}/.OPTIMIZER_SLOT/optimizer/{slot}/{end}'
    for name in names
    for slot in 'mv'
  ]
  found += [f'global_step/{end}', f'save_counter/{end}']
  return {
    name: np.zeros(()) for name in (*found, '_CHECKPOINTABLE_OBJECT_GRAPH')
  }


def test_a_whole_checkpoint_of_the_released_config(table, released):
  shapes = {name: shape for name, (shape, _) in table.items()}
  averaged = {name.replace('/', '_ema/', 1): shapes[name] for name in shapes}
  variables = checkpoint_of(averaged, averaged)
  variables |= checkpoint_of(shapes, shapes) | beside(list(shapes))
  assert pix2seq_tf.has_averages(variables)
  for ema in (False, True):
    made = pix2seq_tf.plan(variables, released, ema=ema)
    assert len(made.rows) == 765
    assert all('_ema/' in row.theirs for row in made.rows) == ema
    assert made.passed_over['the other copies of the weights'] == 765
    assert sum(made.passed_over.values()) == len(variables) - 765
  lines = made.lines()
  assert '765 arrays, 94,523,072 numbers' in lines
  assert (
    'model/encoder_ema/stem_ln/gamma/.ATTRIBUTES/VARIABLE_VALUE -> '
    'net/encoder/projection_norm/scale (512,)'
  ) in lines


DETECTOR = {
  'decoder/decoder/dec_layers/0/self_ln/gamma': (256,),
  'decoder/token_embedding': (3000, 256),
  'proj/kernel': (512, 256),
  'proj_ln/gamma': (256,),
  'proj_mlp/mlp_layers/0/dense1/kernel': (256, 1024),
}


def test_the_encoder_of_a_detector(table, released):
  shapes = {
    name: shape for name, (shape, _) in table.items() if name[:8] == 'encoder/'
  }
  target = {c: {'encoder': released[c]['encoder']} for c in ('net', 'stats')}
  variables = checkpoint_of(shapes, shapes) | checkpoint_of(DETECTOR, DETECTOR)
  variables |= beside(list(shapes | DETECTOR))
  assert not pix2seq_tf.has_averages(variables, 'encoder')
  made = pix2seq_tf.plan(variables, target, part='encoder')
  assert len(made.rows) == len(shapes) == 413
  assert made.passed_over['other parts of the model'] == len(DETECTOR)
  # As a whole model it is none: every difference is told at once.
  with pytest.raises(ValueError, match=r'part=.encoder. can be taken') as error:
    pix2seq_tf.plan(variables, released)
  assert str(error.value).count('missing: ') == 765 - 413
  assert str(error.value).count('extra: ') == len(DETECTOR)


def test_an_encoder_of_another_depth_is_refused(table, released):
  target = {c: {'encoder': released[c]['encoder']} for c in ('net', 'stats')}
  shapes = {
    name.replace('enc_layers/11', 'enc_layers/12'): shape
    for name, (shape, _) in table.items()
    if name[:8] == 'encoder/'
  }
  with pytest.raises(ValueError, match='32 of the raw variables') as error:
    pix2seq_tf.plan(checkpoint_of(shapes, shapes), target, part='encoder')
  assert str(error.value).count('enc_layers/11') == 16
  assert str(error.value).count('extra: encoder/transformer_enc') == 16


def test_an_unknown_part():
  with pytest.raises(ValueError, match="part='decoder' must be one of all"):
    pix2seq_tf.plan({}, part='decoder')
