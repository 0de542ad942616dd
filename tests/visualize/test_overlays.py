import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from pix2seqd_jax import types
from pix2seqd_jax.encoding import panoptic_ids
from pix2seqd_jax.visualize import overlays, palettes

CATEGORIES = (
  types.Category(1, 'cat', True),
  types.Category(2, 'grass', False, (10, 200, 30)),
  types.Category(3, 'a thing of an uncommonly long name', True),
)


def scene(size=(40, 60)):
  ids = np.zeros(size, np.int32)
  ids[:10, :30], ids[:10, 30:], ids[20:, :] = 7, 70_000, 3
  segments = (
    types.Segment(7, 1),
    types.Segment(70_000, 1),
    types.Segment(3, 2),
  )
  image = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
  return image, ids, segments


def test_paints_instances_in_shades_and_stuff_in_its_color():
  _, ids, segments = scene()
  painted = overlays.paint(ids, segments, CATEGORIES)
  palette = palettes.colors(CATEGORIES)
  assert (painted[ids == 0] == 0).all()
  assert (painted[ids == 3] == palette[2]).all()
  assert (painted[ids == 7] == palette[1]).all()
  assert (painted[ids == 70_000] != palette[1]).any()
  # The order of the list means nothing; ids without a name are void.
  again = overlays.paint(ids, segments[::-1], CATEGORIES)
  np.testing.assert_array_equal(painted, again)
  assert (overlays.paint(ids, segments[1:], CATEGORIES)[ids == 7] == 0).all()


def test_three_hundred_instances_have_three_hundred_shades():
  ids = np.arange(1, 301, dtype=np.int32).reshape(15, 20)
  segments = [types.Segment(i, 1) for i in range(1, 301)]
  painted = overlays.paint(ids, segments, CATEGORIES).reshape(-1, 3)
  assert len(np.unique(painted, axis=0)) > 290


def test_palettes_and_a_color_for_each_segment():
  _, ids, segments = scene()
  for palette in palettes.PALETTES:
    painted = overlays.paint(ids, segments, CATEGORIES, palette=palette)
    colors = palettes.colors(CATEGORIES, palette)
    assert (painted[ids == 3] == colors[2]).all()
  each = overlays.paint(ids, segments, CATEGORIES, each=True)
  assert len(np.unique(each.reshape(-1, 3), axis=0)) == 4
  np.testing.assert_array_equal(each[0, 0], palettes.random(3)[2])
  image = np.zeros((*ids.shape, 3), np.uint8)
  drawn = overlays.overlay(image, ids, segments, CATEGORIES, 1, each=True)
  assert drawn.shape[0] == 200  # no legend


@pytest.mark.parametrize('alpha', [0, 0.3, 0.55, 1])
def test_the_blend_is_the_formula_to_a_level(alpha):
  rng = np.random.default_rng(0)
  image = rng.integers(0, 256, (280, 256, 3), np.uint8)
  ids = rng.integers(0, 4, (4, 1)).repeat(70, 0).repeat(256, 1)
  segments = tuple(types.Segment(i, i) for i in range(1, 4))
  drawn = overlays.overlay(image, ids, segments, CATEGORIES, alpha, False)
  painted = overlays.paint(ids, segments, CATEGORIES).astype(float)
  expected = (1 - alpha) * image + alpha * painted
  inner = ids == np.roll(ids, -1, 0)
  inner[-1] = True
  assert np.abs(drawn - expected)[inner].max() <= 1.01


def test_color_key_shows_every_class():
  many = [types.Category(i, f'class {i}', True) for i in range(133)]
  for width in (120, 400, 960):
    key = overlays.color_key(many, width=width)
    assert key.shape[1] == width and key.dtype == np.uint8
    shown, expected = (
      panoptic_ids.rgb_to_id(colors) for colors in (key, palettes.colors(many))
    )
    assert np.isin(expected, shown).all()
  assert overlays.color_key(many).shape[0] < 500  # wraps
  long = [types.Category(1, 'a name without an end ' * 20, False)]
  assert overlays.color_key(long, 'random').shape == (46, 960, 3)
  with pytest.raises(ValueError, match='width=50'):
    overlays.color_key(many, width=50)


def test_heat_is_darkest_at_zero_and_brightest_at_one():
  values = np.tile(np.linspace(0, 1, 300, dtype=np.float32), (260, 1))
  image = overlays.heat(values, legend=False)
  assert image.shape == (260, 300, 3) and image.dtype == np.uint8
  luma = image[0].astype(int) @ [2, 5, 1]
  assert (np.diff(luma) >= 0).all() and luma[-1] > 3 * luma[0]
  assert overlays.heat(values).shape[0] > 260
  overlays.heat(np.full((2, 3), np.nan))


def test_overlay_is_a_blend_with_borders():
  image, ids, segments = scene((280, 300))
  colors = overlays.overlay(
    image, ids, segments, CATEGORIES, alpha=1, legend=False
  )
  shown = overlays.overlay(
    image, ids, segments, CATEGORIES, alpha=0, legend=False
  )
  border = (shown != image).any(-1)
  assert 0 < border.mean() < 0.2
  painted = overlays.paint(ids, segments, CATEGORIES)
  np.testing.assert_array_equal(colors[~border], painted[~border])


def test_small_images_are_enlarged_and_the_legend_is_added_below():
  image, ids, segments = scene()
  bare = overlays.overlay(image, ids, segments, CATEGORIES, legend=False)
  full = overlays.overlay(image, ids, segments, CATEGORIES)
  assert bare.shape == (40 * 5, 60 * 5, 3)
  np.testing.assert_array_equal(full[:200], bare)
  assert full.shape[0] > 200 and full.dtype == np.uint8
  # The colours of the legend are those of the classes that are there.
  below = {tuple(c) for c in full[200:].reshape(-1, 3).tolist()}
  palette = [tuple(c) for c in palettes.colors(CATEGORIES).tolist()]
  assert {palette[0], palette[1], palette[2]} <= below
  assert palette[3] not in below


def test_long_names_and_many_classes_stay_inside():
  many = [types.Category(i, 'name ' * i, True) for i in range(1, 40)]
  ids = np.arange(40, dtype=np.int32).reshape(5, 8)
  segments = [types.Segment(i, i) for i in range(1, 40)]
  image = np.zeros((5, 8, 3), np.uint8)
  drawn = overlays.overlay(image, ids, segments, many)
  assert drawn.shape[1] == 256
  assert (drawn[-3:] == 255).any()


def test_void_alone_and_one_pixel():
  image = np.full((1, 1, 3), 200, np.uint8)
  drawn = overlays.overlay(image, np.zeros((1, 1), int), (), CATEGORIES)
  assert drawn.shape[1] == 256
  assert (drawn[:256] == 90).all()


@pytest.mark.parametrize(
  'image', [np.zeros((9, 9, 3), np.uint8), np.zeros((40, 60, 3), np.float32)]
)
def test_overlay_refuses_what_does_not_fit(image):
  _, ids, segments = scene()
  with pytest.raises(ValueError, match='overlay needs image uint8'):
    overlays.overlay(image, ids, segments, CATEGORIES)


def test_panel_is_a_strip_of_what_is_there():
  image, ids, segments = scene()
  both = overlays.panel(image, (ids, segments), (ids, segments), CATEGORIES)
  one = overlays.panel(image, None, (ids, segments), CATEGORIES)
  assert both.shape[1] == 3 * 300 + 12 and one.shape[1] == 2 * 300 + 6
  # Truth and prediction are the same here, so they are drawn alike.
  np.testing.assert_array_equal(both[20:200, 306:606], both[20:200, 612:912])
  short = overlays.panel(image, None, None, CATEGORIES, legend=False)
  assert short.shape[1] == 300


def test_grid_holds_every_image():
  images = [np.full((10 + 3 * i, 20, 3), 40 * i, np.uint8) for i in range(5)]
  plain = overlays.grid(images, 3)
  assert plain.shape == (2 * 22 + 6, 3 * 20 + 12, 3)
  for i, image in enumerate(images):
    y, x = i // 3 * 28, i % 3 * 26
    found = plain[y : y + len(image), x : x + 20]
    np.testing.assert_array_equal(found, image)
  named = overlays.grid(images, 3, list('abcde'))
  assert named.shape[0] > plain.shape[0]
  with pytest.raises(ValueError, match='a grid needs'):
    overlays.grid([], 3)


def test_files(tmp_path):
  image = scene()[0]
  overlays.save_png(tmp_path / 'new' / 'a.png', image)
  read = np.asarray(Image.open(tmp_path / 'new' / 'a.png'))
  np.testing.assert_array_equal(read, image)
  with pytest.raises(ValueError, match='float64'):
    overlays.save_png(tmp_path / 'b.png', image / 255)
  lines = {'a': ([0, 1], [1, 2]), 'b': ([0, 1], [2, 1])}
  overlays.curves(tmp_path / 'deep' / 'c.png', lines, title='x')
  assert Image.open(tmp_path / 'deep' / 'c.png').size == (720, 432)


def test_matplotlib_is_not_imported_without_need():
  code = (
    'import sys; import pix2seqd_jax.visualize.overlays; '
    'sys.exit("matplotlib" in sys.modules)'
  )
  assert subprocess.run([sys.executable, '-c', code]).returncode == 0
