"""Colours of classes: a bijection, robust, and the release's."""

import jax
import jax.numpy as jnp
import numpy as np
import parity
import pytest

from pix2seqd_jax.encoding import anchors

DATA = {'cityscapes': 19, 'celeb': 19, 'cocostuff': 171}


@pytest.fixture(scope='module')
def original(shared):
  folder = shared / 'oracles' / 'semflow'
  return {
    name: np.load(folder / f'{name}.npz')
    for name in ('pseudo_mask', 'decode_nearest_anchor')
  }


def ours_of(ids):
  """Their ids, 0 .. and 255, as our classes."""
  return np.where(ids == 255, 0, ids.astype(np.int32) + 1)


@pytest.mark.parametrize(
  'kind, levels, spacing',
  [
    ('k6_s50', 6, 50),
    ('k6_s40', 6, 40),
    ('k6_sNone', 6, 50),  # None: they choose by k
    ('k3_sNone', 3, 125),
    ('k8_sNone', 8, 35),
  ],
)
def test_palettes_are_the_originals(original, kind, levels, spacing):
  theirs = original['pseudo_mask'][f'palette/{kind}']
  ours = anchors.Anchors(levels**3, levels, spacing).colors
  np.testing.assert_array_equal(ours[1:], theirs)
  np.testing.assert_array_equal(ours[0], 255)


@pytest.mark.parametrize('data', DATA)
def test_painted_maps_are_the_originals(original, data):
  z, palette = original['pseudo_mask'], anchors.Anchors(DATA[data])
  for ids, painted in (('ids', 'pm_u8'), ('map', 'map_pm_u8')):
    found = palette.paint(ours_of(z[f'{data}/{ids}']))
    np.testing.assert_array_equal(found, z[f'{data}/{painted}'])
    jitted = jax.jit(palette.paint)(ours_of(z[f'{data}/{ids}']))
    np.testing.assert_array_equal(jitted, found)
  known = anchors.signed(palette.colors[1:])
  for key, ours in (
    ('pm_norm', anchors.signed(palette.paint(ours_of(z[f'{data}/ids'])))),
    ('decode_table_norm', known),
  ):
    parity.check('semflow', f'{data}/{key}', ours, z[f'{data}/{key}'], 1e-6)


@pytest.mark.parametrize('data', DATA)
def test_nearest_anchors_are_the_originals(original, data):
  z, palette = original['decode_nearest_anchor'], anchors.Anchors(DATA[data])
  nearest = jax.jit(palette.nearest)
  for kind in ('pert0p1', 'unif0p39', 'unif0p8', 'random'):
    images = np.moveaxis(z[f'{data}/{kind}/pm'], 1, -1)
    clear = z[f'{data}/{kind}/l2_margin'] > 1e-4
    theirs = ours_of(z[f'{data}/{kind}/ids_l2'])
    assert clear.mean() > 0.99
    for found, score in (palette.nearest(images), nearest(images)):
      assert found.dtype == np.int32
      np.testing.assert_array_equal(np.asarray(found)[clear], theirs[clear])
      assert ((score >= 0) & (score <= 1)).all()


def test_no_two_classes_share_a_colour_and_none_has_voids():
  palette = anchors.Anchors(216)
  assert len(np.unique(palette.colors, axis=0)) == 217


@pytest.mark.parametrize('num_classes', [1, 19, 171, 216])
def test_colours_moved_by_less_than_half_the_spacing_come_back(num_classes):
  palette, rng = anchors.Anchors(num_classes), np.random.default_rng(0)
  classes = rng.integers(1, num_classes + 1, (40, 30), np.int32)
  moves = rng.uniform(-24.9, 24.9, (*classes.shape, 3)) / anchors.HALF
  images = (anchors.signed(palette.paint(classes)) + moves).astype('float32')
  for xp in (np, jnp):
    found, score = palette.nearest(xp.asarray(images))
    np.testing.assert_array_equal(found, classes)
    assert (score > 0).all()
  still = palette.nearest(anchors.signed(palette.paint(classes)))
  np.testing.assert_array_equal(still[1], 1)


def test_the_score_is_of_two_distances():
  palette = anchors.Anchors(2)  # black and (0, 0, 50)
  blue = np.zeros((1, 3, 3), np.float32)
  blue[0, :, 2] = 10, 20, 50
  classes, score = palette.nearest(blue / np.float32(anchors.HALF) - 1)
  np.testing.assert_array_equal(classes, [[1, 1, 2]])
  np.testing.assert_allclose(score, [[0.75, 1 / 3, 1]], atol=1e-6)


def test_memory_does_not_grow_with_classes():
  shape = jax.ShapeDtypeStruct((1, 512, 512, 3), jnp.float32)

  def scratch(num_classes):
    nearest = jax.jit(anchors.Anchors(num_classes).nearest)
    memory = nearest.lower(shape).compile().memory_analysis()
    return memory.temp_size_in_bytes

  few, many = scratch(3), scratch(171)
  assert many < few + 2**14  # the tables of colours
  assert many < 16 * 4 * 512**2


@pytest.mark.parametrize(
  'args, message',
  [
    ((217,), 'num_classes=217 must be 1 to 216'),
    ((0,), 'num_classes=0 must be 1 to 216'),
    ((5, 6, 51), 'is 255 but must be below 255'),
    ((5, 1), 'num_classes=5 must be 1 to 1,'),
    ((5, 0), 'levels=0 must be 1 or more'),
    ((5, 6, 0), 'spacing=0 must be 1 or more'),
  ],
)
def test_impossible_anchors_are_named(args, message):
  with pytest.raises(ValueError, match=message):
    anchors.Anchors(*args)


@pytest.mark.parametrize('bad', [-1, 20, 255])
def test_classes_beyond_the_palette_are_named(bad):
  classes = np.full((2, 2), bad, np.int32)
  with pytest.raises(ValueError, match=f'{bad} to {bad} but must be 0'):
    anchors.Anchors(19).paint(classes)
