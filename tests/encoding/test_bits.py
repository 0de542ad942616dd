import jax
import jax.numpy as jnp
import numpy as np
import parity
import pytest

from pix2seqd_jax.encoding import bits

SIZES = range(1, bits.MAX_BITS + 1)
CODES = [(kind, order) for kind in bits.KINDS for order in bits.ORDERS]


@pytest.fixture(scope='module')
def oracle(shared):
  return np.load(shared / 'oracles/pix2seq/pure/bits.npz')


@pytest.mark.parametrize('kind, order', CODES)
@pytest.mark.parametrize('num_bits', SIZES)
def test_every_id_of_every_size_round_trips(num_bits, kind, order):
  code = bits.Code(num_bits, kind, order, seed=3)
  ids = np.arange(code.num_codes, dtype=np.int32)
  analog = code.encode(ids, 0.1)
  assert analog.dtype == np.float32
  np.testing.assert_array_equal(np.unique(analog), np.float32([-0.1, 0.1]))
  np.testing.assert_array_equal(code.decode(analog), ids)
  np.testing.assert_array_equal(code.codebook(), (analog > 0))
  # A bijection: no two ids share a word.
  assert len(np.unique(code.codebook(), axis=0)) == code.num_codes


@pytest.mark.parametrize('kind, order', CODES)
def test_numpy_and_jax_agree_to_the_last_bit(kind, order):
  code = bits.Code(11, kind, order, seed=1)
  ids = np.arange(2048, dtype=np.int32).reshape(2, 32, 32)
  ours = jax.jit(lambda x: code.encode(x, 0.3))(ids)
  theirs = code.encode(ids, 0.3)
  np.testing.assert_array_equal(np.asarray(ours), theirs)
  noisy = theirs + np.random.default_rng(0).normal(size=theirs.shape)
  noisy = noisy.astype(np.float32)
  decoded = jax.jit(code.decode)(noisy)
  assert decoded.dtype == jnp.int32
  np.testing.assert_array_equal(np.asarray(decoded), code.decode(noisy))


def test_gray_neighbours_differ_in_one_bit():
  for num_bits in SIZES:
    words = bits.Code(num_bits, 'gray').codebook()
    steps = np.abs(np.diff(words, axis=0)).sum(1)
    np.testing.assert_array_equal(steps, 1)
    assert np.abs(words[0] - words[-1]).sum() == 1  # and the ends meet


def test_msb_is_lsb_backwards():
  for kind in bits.KINDS:
    lsb, msb = (bits.Code(6, kind, order) for order in bits.ORDERS)
    np.testing.assert_array_equal(lsb.codebook(), msb.codebook()[:, ::-1])


def test_least_significant_bit_comes_first():
  np.testing.assert_array_equal(
    bits.Code(8).codebook()[5], [1, 0, 1, 0, 0, 0, 0, 0]
  )


def test_random_codes_depend_on_the_seed_alone():
  one, again, other = (bits.Code(8, 'random', seed=s) for s in (1, 1, 2))
  np.testing.assert_array_equal(one.codebook(), again.codebook())
  assert (one.codebook() != other.codebook()).any()


@pytest.mark.parametrize('kind, order', CODES)
def test_expected_bits_of_a_sure_id_are_its_bits(kind, order):
  code = bits.Code(5, kind, order)
  ids = np.arange(32, dtype=np.int32)
  logits = np.where(np.eye(32), 200.0, 0.0).astype(np.float32)
  np.testing.assert_array_equal(
    code.expected(logits, 0.1), code.encode(ids, 0.1)
  )


def test_expected_bits_are_the_mean_of_sampled_bits():
  code, rng = bits.Code(3, 'gray'), np.random.default_rng(0)
  logits = rng.normal(size=(4, 8)) * 2
  p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
  every = code.encode(np.arange(8), 0.5).astype(np.float64)
  assert code.expected(logits, 0.5).dtype == np.float64
  np.testing.assert_allclose(code.expected(logits, 0.5), p @ every, rtol=1e-7)


def test_expected_bits_agree_between_numpy_and_jax():
  code = bits.Code(8)
  logits = np.random.default_rng(0).normal(size=(2, 3, 256)) * 3
  logits = logits.astype(np.float32)
  for num_codes in (None, 101):
    ours = code.expected(jnp.asarray(logits), 0.1, num_codes)
    theirs = code.expected(logits, 0.1, num_codes)
    assert ours.dtype == jnp.float32 and theirs.dtype == np.float32
    np.testing.assert_allclose(ours, theirs, atol=1e-7)


@pytest.mark.parametrize('kind', bits.KINDS)
def test_impossible_codes_have_no_say(kind):
  code, rng = bits.Code(4, kind), np.random.default_rng(0)
  logits = rng.normal(size=(5, 16)).astype(np.float32)
  changed = logits.copy()
  changed[:, 11:] += rng.normal(size=(5, 5)) * 50
  np.testing.assert_array_equal(
    code.expected(logits, 1.0, 11), code.expected(changed, 1.0, 11)
  )
  # One possible code left: its bits, exactly.
  np.testing.assert_array_equal(
    code.expected(logits, 1.0, 1)[0], code.encode(np.zeros(1, int), 1.0)[0]
  )
  gradient = jax.grad(lambda x: code.expected(x, 1.0, 11).sum())(
    jnp.asarray(logits)
  )
  assert np.isfinite(gradient).all()
  np.testing.assert_array_equal(gradient[:, 11:], 0)


def test_equal_logits_are_undecided():
  for num_bits in (1, 4, 8):
    code = bits.Code(num_bits)
    undecided = code.expected(np.zeros((2, code.num_codes), np.float32), 1.0)
    np.testing.assert_allclose(undecided, 0, atol=1e-7)
    np.testing.assert_allclose(bits.confidence(undecided, 1.0), 0, atol=1e-7)


def test_confidence_is_the_mean_distance_from_undecided():
  analog = np.float32([[0.1, -0.1], [0.05, 0.0], [0.4, -0.2]])
  wanted = np.float32([1, 0.25, 1])
  np.testing.assert_allclose(bits.confidence(analog, 0.1), wanted, rtol=1e-6)
  ours = bits.confidence(jnp.asarray(analog), 0.1)
  np.testing.assert_allclose(ours, wanted, rtol=1e-6)


@pytest.mark.parametrize('convert', [np.asarray, jnp.asarray])
def test_float64_and_low_precision_are_widened(convert):
  code = bits.Code(3)
  logits = convert(np.zeros((2, 8), np.float16))
  assert code.expected(logits, 0.1).dtype == np.float32
  assert bits.confidence(convert(np.zeros(2, np.float16)), 1).dtype == (
    np.float32
  )
  assert code.decode(convert(np.float16([0.1, -0.1, 0.1]))) == 5


def test_unsigned_ids_encode_like_signed_ones():
  code = bits.Code(8)
  ids = np.arange(256)
  for dtype in (np.uint8, np.int16, np.int64):
    np.testing.assert_array_equal(
      code.encode(ids.astype(dtype), 1), code.encode(ids, 1)
    )


def test_errors_say_what_to_do():
  with pytest.raises(ValueError, match='num_bits=17 must be 1 to 16'):
    bits.Code(17)
  with pytest.raises(ValueError, match="code='grey' is unknown"):
    bits.Code(4, 'grey')
  with pytest.raises(ValueError, match="bit order='big'"):
    bits.Code(4, order='big')
  with pytest.raises(
    ValueError,
    match=r'num_bits=6 can name 64 ids but data.num_ids=101 needs id '
    r'100; set num_bits >= 7',
  ):
    bits.Code(6).check(100, 'data.num_ids=101')
  bits.Code(7).check(100, 'data.num_ids=101')
  with pytest.raises(ValueError, match='5 channels'):
    bits.Code(6).decode(np.zeros((2, 5), np.float32))
  with pytest.raises(ValueError, match='32 logits'):
    bits.Code(6).expected(np.zeros((2, 32), np.float32), 1.0)
  with pytest.raises(ValueError, match='num_codes=99'):
    bits.Code(6).expected(np.zeros((2, 64), np.float32), 1.0, 99)


class TestParity:
  NAME = 'pix2seq/pure/bits.npz'

  @pytest.mark.parametrize('n', [1, 4, 6, 8, 10, 16])
  def test_integers(self, oracle, n):
    code = bits.Code(n)
    word = code.encode(oracle[f'x_{n}'], 1.0) > 0
    parity.check(self.NAME, f'bits_{n}', word, oracle[f'bits_{n}'], 0)
    back = code.decode(oracle[f'bits_{n}'] - np.float32(0.5))
    parity.check(self.NAME, f'back_{n}', back, oracle[f'back_{n}'], 0)

  def test_too_large_ids_keep_their_low_bits(self, oracle):
    ours = bits.Code(8).encode(oracle['over_x'], 1.0) > 0
    parity.check(self.NAME, 'over_bits8', ours, oracle['over_bits8'], 0)

  @pytest.mark.parametrize(
    'ids, key, n, scale',
    [
      ('map', 'analog_16_0.1', 8, 0.1),
      ('map', 'analog_16_1.0', 8, 1.0),
      ('map', 'analog_20_0.5', 10, 0.5),
      ('map6', 'analog6_48', 8, 0.1),
    ],
  )
  def test_maps(self, oracle, ids, key, n, scale):
    theirs = oracle[key]
    for convert in (np.asarray, jnp.asarray):
      ours = bits.Code(n).encode(convert(oracle[ids]), scale)
      parity.check(self.NAME, key, ours.reshape(theirs.shape), theirs, 0)

  @pytest.mark.parametrize(
    'classes, instances', [(134, 101), (1, 16), (20, 256), (256, 256)]
  )
  def test_postprocess_clamps(self, oracle, classes, instances):
    key = f'panoptic_{classes}_{instances}'
    analog = oracle['rand_bits']
    ours = np.stack(
      [
        bits.Code(8).decode(analog[..., :8], classes),
        bits.Code(8).decode(analog[..., 8:], instances),
      ],
      -1,
    )
    parity.check(self.NAME, key, ours, oracle[key], 0)
