"""Tiles are blended into what the whole would be."""

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest

from pix2seqd_jax.architectures import sd_vae
from pix2seqd_jax.architectures.sd_tiles import decode_tiled, encode_tiled


def noise(*shape, seed=0):
  values = np.random.default_rng(seed).normal(size=shape)
  return jnp.asarray(values, jnp.float32)


def decode(z):
  """Twice the size; each place from itself alone."""
  return jnp.tanh(z).repeat(2, axis=1).repeat(2, axis=2)[..., :3]


def encode(x):
  """A quarter of the size."""
  b, h, w, c = x.shape
  x = x.reshape(b, h // 4, 4, w // 4, 4, c)
  return sd_vae.Posterior(x.mean((2, 4)), x.max((2, 4)))


@pytest.mark.parametrize('size', [(37, 90), (17, 16), (8, 41), (16, 16)])
@pytest.mark.parametrize('overlap', [0, 3, 8])
def test_equal_where_a_place_depends_on_itself(size, overlap):
  z = noise(2, *size, 4)
  tiled = decode_tiled(decode, z, 16, overlap)
  np.testing.assert_allclose(tiled, decode(z), atol=3e-7)


@pytest.mark.parametrize('size', [(48, 72), (12, 40), (16, 16)])
def test_encoding(size):
  x = noise(1, *size, 3)
  tiled = encode_tiled(encode, x, 16, 4)
  assert isinstance(tiled, sd_vae.Posterior)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, atol=3e-7), tiled, encode(x)
  )


def test_smallest_tiles():
  z = noise(1, 5, 3, 2)
  # As users compile it: the tests' own little optimisation rounds otherwise.
  options = {'xla_backend_optimization_level': 3}

  def in_tiles(z):
    return decode_tiled(decode, z, tile=1, overlap=0)

  tiled, whole = (
    jax.jit(function, compiler_options=options)(z)
    for function in (in_tiles, decode)
  )
  np.testing.assert_array_equal(tiled, whole)


def test_weights_sum_to_1():
  def ones(z):
    return jnp.ones((*z.shape[:3], 1))

  for n, tile, overlap in ((100, 16, 8), (101, 16, 5), (17, 16, 0), (9, 4, 2)):
    whole = decode_tiled(ones, jnp.zeros((1, n, n + 7, 1)), tile, overlap)
    np.testing.assert_allclose(whole, 1, atol=2e-7)


def test_weights_are_as_precise_as_the_values():
  with jax.enable_x64(True):
    z = jnp.asarray(np.random.default_rng(0).normal(size=(1, 9, 20, 3)))
    tiled = decode_tiled(decode, z, 8, 3)
    assert tiled.dtype == jnp.float64
    np.testing.assert_allclose(tiled, decode(z), atol=1e-15)


def test_all_tiles_have_one_size():
  """So that the network is compiled for it alone."""
  seen = set()

  def spy(z):
    seen.add(z.shape)
    return decode(z)

  decode_tiled(spy, noise(2, 37, 10, 4), 16, 4)
  assert seen == {(2, 16, 10, 4)}
  seen.clear()
  decode_tiled(spy, noise(2, 12, 16, 4), 16, 4)  # no larger than a tile
  assert seen == {(2, 12, 16, 4)}


def test_no_seams():
  """Tiles that disagree are faded into each other over the overlap."""

  def level(z):
    return jnp.broadcast_to(z.mean((1, 2), keepdims=True), z.shape)

  z = jnp.broadcast_to(jnp.arange(60.0)[None, :, None, None], (1, 60, 9, 1))
  faded = np.asarray(decode_tiled(level, z, 20, 10))[0, :, 4, 0]
  assert np.ptp(faded) == 40  # of the first tile and of the last
  steps = np.diff(faded)
  assert np.all(steps >= 0) and steps.max() <= 1.0 + 1e-5
  hard = np.asarray(decode_tiled(level, z, 20, 0))[0, :, 4, 0]
  assert np.diff(hard).max() == 20


def test_trees_types_and_jit():
  def two(z):
    image = decode(z)
    return {'a': image, 'b': (image[..., :1].astype(jnp.bfloat16),)}

  z = noise(2, 19, 23, 4)
  tiled = jax.jit(lambda z: decode_tiled(two, z, 8, 2))(z)
  assert tiled['b'][0].dtype == jnp.bfloat16
  np.testing.assert_allclose(tiled['a'], decode(z), atol=3e-7)
  np.testing.assert_allclose(
    tiled['b'][0].astype(jnp.float32), decode(z)[..., :1], atol=1e-2
  )


def test_the_memory_is_that_of_a_tile():
  """And the result, in place."""
  z = jax.ShapeDtypeStruct((1, 512, 512, 3), jnp.float32)
  tiled = jax.jit(lambda z: decode_tiled(decode, z, 32, 8))
  memory = tiled.lower(z).compile().memory_analysis()
  assert memory.output_size_in_bytes >= 1024 * 1024 * 3 * 4
  assert memory.temp_size_in_bytes < memory.output_size_in_bytes / 10


@pytest.mark.parametrize(
  'options, message',
  [
    ({'tile': 0}, 'tile=0'),
    ({'tile': 8, 'overlap': 5}, 'overlap=5'),
    ({'tile': 8, 'overlap': -1}, 'overlap=-1'),
  ],
)
def test_tiles_that_cannot_be(options, message):
  with pytest.raises(ValueError, match=message):
    decode_tiled(decode, noise(1, 64, 64, 4), **options)


def test_functions_that_cannot_be_tiled():
  z = noise(1, 12, 12, 4)
  for function in (
    lambda z: z[:, 1:],
    lambda z: z.mean((1, 2)),
    lambda z: z.repeat(2, axis=1),
    lambda z: (z, decode(z)),
    lambda z: jnp.pad(decode(z), ((0, 0), (0, 8), (0, 8), (0, 0)))[:, 4:, 4:],
  ):
    with pytest.raises(ValueError, match='whole number'):
      decode_tiled(function, z, 8, 2)
  with pytest.raises(ValueError, match='int32 cannot be blended'):
    decode_tiled(lambda z: z.argmax(-1, keepdims=True), z, 8, 2)
  with pytest.raises(ValueError, match='overlap 2 must be divisible by 4'):
    encode_tiled(encode, z, 8, 2)
  with pytest.raises(ValueError, match='side 18 must be divisible by 4'):
    encode_tiled(encode, noise(1, 20, 18, 3), 8, 4)


def test_an_autoencoder_in_tiles():
  """Statistics and attention are those of a tile, so only roughly equal."""
  vae = sd_vae.SDVAE(
    block_out_channels=(8,), layers_per_block=0, groups=4, parts=('decoder',)
  )
  z = noise(1, 24, 40, 4)
  variables = oracles.random_variables(vae, z)

  def both(variables, z):
    def network(z):
      return vae.apply(variables, z, method='decode')

    return network(z), decode_tiled(network, z, 24, 8)

  options = {'xla_backend_optimization_level': 0}  # compiles faster
  whole, tiled = (
    jax.jit(both).lower(variables, z).compile(options)(variables, z)
  )
  error = jnp.std(tiled - whole) / jnp.std(whole)
  assert 0 < error < 0.12
