import jax.numpy as jnp
import numpy as np
import parity
import pytest

from pix2seqd_jax.encoding import panoptic_ids


@pytest.mark.parametrize('convert', [np.asarray, jnp.asarray])
def test_pack_and_unpack(convert):
  semantic, instance = np.meshgrid(np.arange(20), np.arange(300))
  packed = panoptic_ids.pack(convert(semantic), convert(instance), 1000)
  assert packed.dtype == np.int32
  np.testing.assert_array_equal(packed, semantic * 1000 + instance)
  back = panoptic_ids.unpack(packed, 1000)
  np.testing.assert_array_equal(back[0], semantic)
  np.testing.assert_array_equal(back[1], instance)


def test_pack_refuses_what_cannot_come_back():
  one = np.ones((2, 2), np.int32)
  with pytest.raises(ValueError, match='set divisor >= 101'):
    panoptic_ids.pack(one, one * 100, 100)
  with pytest.raises(ValueError, match='does not fit'):
    panoptic_ids.pack(one * 3000, one, 10**6)


def test_every_colour_is_an_id_and_back():
  ids = np.arange(1 << 24, dtype=np.int32)[:: 4097 // 17]
  ids = np.concatenate([ids, [0, 255, 256, 65535, 65536, (1 << 24) - 1]])
  rgb = panoptic_ids.id_to_rgb(ids)
  assert rgb.dtype == np.uint8
  np.testing.assert_array_equal(panoptic_ids.rgb_to_id(rgb), ids)
  np.testing.assert_array_equal(panoptic_ids.rgb_to_id(jnp.asarray(rgb)), ids)
  np.testing.assert_array_equal(
    panoptic_ids.id_to_rgb(np.array([1 + 256 * 2 + 65536 * 3])), [[1, 2, 3]]
  )


def test_ids_that_are_no_colour_are_refused():
  for wrong in (-1, 1 << 24):
    with pytest.raises(ValueError, match='24 bits'):
      panoptic_ids.id_to_rgb(np.array([wrong]))


def test_nearest_takes_half_pixel_centres():
  row = np.arange(8)[None]
  for size, expected in [(4, [1, 3, 5, 7]), (3, [1, 4, 6])]:
    np.testing.assert_array_equal(
      panoptic_ids.resize_nearest(row, (1, size))[0], expected
    )
  np.testing.assert_array_equal(
    panoptic_ids.resize_nearest(np.arange(3)[None], (1, 7))[0],
    [0, 0, 1, 1, 1, 2, 2],
  )


def test_enlarging_by_a_whole_number_and_back_is_the_identity():
  values = np.random.default_rng(0).integers(0, 99, (5, 7, 2))
  for factor in (1, 2, 3, 4):
    large = panoptic_ids.resize_nearest(values, (5 * factor, 7 * factor))
    np.testing.assert_array_equal(
      large, values.repeat(factor, 0).repeat(factor, 1)
    )
    np.testing.assert_array_equal(
      panoptic_ids.resize_nearest(large, (5, 7)), values
    )


def test_resize_refuses_nothing_at_all():
  with pytest.raises(ValueError, match='at least 1'):
    panoptic_ids.resize_nearest(np.zeros((4, 4)), (0, 3))


def naive_majority(semantic, instance):
  return {
    int(i): int(np.bincount(semantic[instance == i]).argmax())
    for i in np.unique(instance)
  }


@pytest.mark.parametrize('stretch', [1, 1_000_003])  # bins, and sorting
def test_majority_is_that_of_each_id_alone(stretch):
  rng = np.random.default_rng(0)
  for _ in range(5):
    semantic = rng.integers(0, 8, (17, 23))
    instance = rng.integers(0, 12, (17, 23)) * stretch
    ours = panoptic_ids.majority_class(semantic, instance, 7)
    assert ours == naive_majority(semantic, instance)


def test_majority_ignores_the_numbering_of_ids():
  rng = np.random.default_rng(1)
  semantic = rng.integers(0, 5, (9, 9))
  instance = rng.integers(0, 6, (9, 9))
  renumber = rng.permutation(40)[:6]
  ours = panoptic_ids.majority_class(semantic, instance, 4)
  other = panoptic_ids.majority_class(semantic, renumber[instance], 4)
  assert other == {int(renumber[i]): c for i, c in ours.items()}


def test_majority_refuses_unknown_classes():
  zeros = np.zeros((2, 2), np.int32)
  with pytest.raises(ValueError, match='num_classes=4'):
    panoptic_ids.majority_class(zeros + 5, zeros, 4)
  with pytest.raises(ValueError, match='instance id -1'):
    panoptic_ids.majority_class(zeros, zeros - 1, 4)
  assert panoptic_ids.majority_class(zeros[:0], zeros[:0], 4) == {}


def test_parity_of_the_majority_vote(shared):
  oracle = np.load(shared / 'oracles/pix2seq/pure/majority_vote.npz')
  for case in range(3):
    semantic = oracle[f'{case}_semantic']
    instance = oracle[f'{case}_identity']
    classes = panoptic_ids.majority_class(semantic, instance, 133)
    table = np.zeros(instance.max() + 1, np.int32)
    table[list(classes)] = list(classes.values())
    key = f'{case}_mp0_semantic'
    parity.check(
      'pix2seq/pure/majority_vote.npz', key, table[instance], oracle[key], 0
    )


def test_ranks_are_those_of_unique():
  rng = np.random.default_rng(0)
  for values in (
    rng.integers(0, 9, (13, 7)),
    rng.integers(0, 9, (13, 7)).astype(np.int32) * 10_000_000,
    rng.integers(-4, 4, 50),
    np.full((3, 5), 7),
    np.zeros((0, 4), np.int32),
    np.arange(200_000),
  ):
    names, areas, each = panoptic_ids.ranks(values)
    found, inverse, counts = np.unique(
      values, return_inverse=True, return_counts=True
    )
    np.testing.assert_array_equal(names, found)
    np.testing.assert_array_equal(areas, counts)
    np.testing.assert_array_equal(each, inverse.reshape(values.shape))
    assert names.dtype == values.dtype and each.dtype == np.int32
