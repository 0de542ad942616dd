"""All ways to convolve give the same numbers and gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pix2seqd_jax.architectures import convolutions

_STRIDES_AND_PADDING = [(1, (1, 1)), (2, (1, 1)), (2, (0, 1)), (1, (0, 0))]


def _inputs(h, w, c=5, d=7, mean=0.0):
  rng = np.random.default_rng(0)
  x = jnp.asarray(mean + rng.standard_normal((2, h, w, c)))
  return x, jnp.asarray(rng.standard_normal((3, 3, c, d)))


def _assert_equal(function, inputs, *options):
  """Values and both gradients are those of XLA's convolution."""

  def values(function):
    def loss(*inputs):
      out = function(*inputs, *options)
      return jnp.sum(jnp.sin(out)), out

    return jax.grad(loss, argnums=(0, 1), has_aux=True)(*inputs)

  ours, theirs = values(function), values(convolutions.by_xla)
  assert ours[1].dtype == np.float64
  for array, expected in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs)):
    np.testing.assert_allclose(array, expected, atol=1e-12)


@pytest.mark.parametrize(('strides', 'padding'), _STRIDES_AND_PADDING)
def test_patches(strides, padding):
  with jax.enable_x64(True):  # of an odd side a stride may lose a place
    inputs = _inputs(7, 4)
    _assert_equal(convolutions.by_patches, inputs, strides, padding)


# One strip; several, the last one short; sides odd and even, and 1.
@pytest.mark.parametrize(
  ('size', 'strip'), [((6, 4), 1000), ((9, 5), 20), ((10, 3), 12), ((1, 1), 1)]
)
def test_tiles(monkeypatch, size, strip):
  monkeypatch.setattr(convolutions, '_STRIP', strip)
  with jax.enable_x64(True):
    _assert_equal(convolutions.by_tiles, _inputs(*size))


@pytest.mark.parametrize('mean', [0, 30])
def test_tiles_lose_no_digits(mean):
  inputs = [x.astype(jnp.float32) for x in _inputs(12, 12, 64, 64, mean)]
  with jax.enable_x64(True):
    expected = convolutions.by_xla(*(x.astype(jnp.float64) for x in inputs))
  ours, xla = (
    np.abs(way(*inputs) - np.asarray(expected)).max() / np.abs(expected).max()
    for way in (convolutions.by_tiles, convolutions.by_xla)
  )
  assert ours < 1e-6
  assert ours < 2 * xla


@pytest.mark.parametrize(
  ('side', 'channels', 'strides', 'dtype', 'expected'),
  [
    (16, 64, 1, jnp.float32, 'by_patches'),
    (32, 64, 1, jnp.float32, 'by_tiles'),
    (32, 63, 1, jnp.float32, 'by_xla'),
    (32, 64, 1, jnp.bfloat16, 'by_xla'),  # its tiles would lose digits
    (64, 64, 2, jnp.float32, 'by_xla'),
  ],
)
def test_the_choice(monkeypatch, side, channels, strides, dtype, expected):
  if jax.default_backend() != 'cpu':
    expected = 'by_xla'
  taken = []
  for name in ('by_patches', 'by_tiles', 'by_xla'):

    def spy(*args, name=name, way=getattr(convolutions, name)):
      taken.append(name)
      return way(*args)

    monkeypatch.setattr(convolutions, name, spy)

  def run():
    x = jnp.zeros((1, side, side, channels), dtype)
    kernel = jnp.zeros((3, 3, channels, 64), dtype)
    return convolutions.convolve(x, kernel, strides)

  run()
  assert taken == [expected]
  monkeypatch.setattr(jax, 'default_backend', lambda: 'tpu')
  run()
  assert taken == [expected, 'by_xla']
