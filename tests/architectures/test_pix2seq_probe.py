"""The full-size networks against numbers that the original printed.

Every variable is filled from its name, so no weights are needed; the numbers
come from the original in TensorFlow (table 3.7 of our notes on it). The slow
one of this package: 94 million parameters on an image of 64 x 64.
"""

import csv
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pix2seqd_jax.architectures.pyramid import TopDownMerge
from pix2seqd_jax.architectures.resnet_transformer import Encoder
from pix2seqd_jax.architectures.transunet import TransUNet
from pix2seqd_jax.encoding import bits
from pix2seqd_jax.pretrained import pix2seq_tf

SCALE = 0.1
# tensor: (mean, standard deviation, first three values).
THEIRS = {
  'hidden /4': (0.322478, 0.363015, 0.218395, 0.837949, 0.189003),
  'hidden /8': (0.345464, 0.389451, 0.363885, 0.207146, 0.316638),
  'encoded': (0.000073, 1.012980, -1.839195, 0.377980, -0.980413),
  'encoder_fuse': (0.197427, 0.544564, -0.209434, 0.542743, 0.222449),
  'logits': (-0.025782, 0.602447, -0.223149, 0.460516, 0.175425),
  'bits': (0.000944, 0.004223, -0.007239, -0.006085, -0.009342),
}
LOSS = 4.439376
ENCODED_WITH_BATCH_STATISTICS = (-0.875338, 0.307005, -2.386605)


def _normal(seed, shape):
  draw = np.random.RandomState(seed).standard_normal(shape)
  return draw.astype(np.float32)


def _fill(name, shape):
  z = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape)
  leaf = name.rpartition('/')[2]
  if leaf == 'kernel':
    z *= np.sqrt(shape[-1] / np.prod(shape))
  elif leaf == 'gamma':
    z = 1 + 0.1 * z
  elif leaf == 'moving_variance':
    z = 1 + 0.1 * np.abs(z)
  else:
    z *= 0.1
  return z.astype(np.float32)


@pytest.fixture(scope='module')
def params(shared):
  table = shared / 'methods' / 'pix2seqd_tf_vars.tsv'
  with table.open() as f:
    rows = list(csv.reader(f, delimiter='\t'))[1:]
  variables = {
    row[0]: _fill(row[0], tuple(int(n) for n in row[2].split('x')))
    for row in rows
  }
  assert len(variables) == 765
  return pix2seq_tf.convert(variables)


def _forward(params, image, x, gamma):
  encoder = {
    'params': params['net']['encoder'],
    'batch_stats': params['stats']['encoder'],
  }
  module = Encoder(dropout=0.0, drop_path=0.0)
  hidden, tokens = module.apply(encoder, image, train=False)
  (_, tokens_train), _ = module.apply(
    encoder, image, train=True, mutable=['batch_stats']
  )
  merged = TopDownMerge().apply(
    {'params': params['net']['merge']}, hidden, tokens, mask_size=(32, 32)
  )
  logits = (
    TransUNet(time_scaling=1000.0)
    .apply(
      {'params': params['net']['denoiser']},
      jnp.concatenate([x, merged], axis=-1),
      gamma,
      tokens,
    )
    .reshape(2, 32, 32, 2, 256)
  )
  code = bits.Code(8)
  expected = jnp.concatenate(
    [code.expected(logits[..., i, :], SCALE) for i in range(2)], axis=-1
  )
  return {
    'hidden /4': hidden[0],
    'hidden /8': hidden[1],
    'encoded': tokens,
    'encoded train': tokens_train,
    'encoder_fuse': merged,
    'logits': logits,
    'bits': expected,
  }


def test_probe(params):
  image = 0.5 + 0.25 * _normal(1, (2, 64, 64, 3))
  x = 0.7 * _normal(2, (2, 32, 32, 16))
  gamma = np.asarray([0.3, 0.9], np.float32)
  with jax.default_matmul_precision('highest'):
    ours = jax.jit(_forward)(params, image, x, gamma)
  for key, (mean, std, *first) in THEIRS.items():
    value = np.asarray(ours[key], np.float64)
    # The table has six digits; features may differ by 1e-5 of the largest.
    single = 1e-6 + 1e-5 * np.abs(value).max()
    np.testing.assert_allclose(value.mean(), mean, atol=2e-6, err_msg=key)
    np.testing.assert_allclose(value.std(), std, atol=2e-6, err_msg=key)
    np.testing.assert_allclose(
      value.ravel()[:3], first, atol=single, err_msg=key
    )
  np.testing.assert_allclose(
    ours['encoded train'].ravel()[:3], ENCODED_WITH_BATCH_STATISTICS, atol=1e-4
  )

  # Targets are the thresholded bits of a fixed random map.
  target = np.asarray(bits.Code(8).decode(_normal(3, (2, 32, 32, 2, 8))))
  weight = np.abs(_normal(4, (2, 32, 32)))
  nll = -np.take_along_axis(
    np.asarray(jax.nn.log_softmax(ours['logits'])), target[..., None], axis=-1
  )[..., 0]
  np.testing.assert_allclose((nll * weight[..., None]).mean(), LOSS, rtol=2e-6)
