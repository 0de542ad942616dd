"""Colours of classes: fixed, distinct, and those of the named data sets."""

import json

import numpy as np
import pytest

from pix2seqd_jax.data.formats import categories as categories_lib
from pix2seqd_jax.types import Category
from pix2seqd_jax.visualize import palettes


def classes(num):
  return [Category(i, str(i), i % 2 == 0) for i in range(num)]


@pytest.mark.parametrize('palette', [None, 'hues', 'random'])
def test_colors_differ_void_is_black_and_a_class_keeps_its_own(palette):
  table = palettes.colors(classes(200), palette)
  assert table.dtype == np.uint8 and table.shape == (201, 3)
  assert table[0].tolist() == [0, 0, 0]
  assert len(np.unique(table, axis=0)) == 201
  # A class keeps its colour when others are added.
  few = palettes.colors(classes(5), palette)
  np.testing.assert_array_equal(few, table[:6])
  # What a caller does to its table stays with the caller.
  table[:] = 0
  np.testing.assert_array_equal(palettes.colors(classes(5), palette), few)


def test_random_colors_are_far_apart_while_there_is_room():
  table = palettes.random(100).astype(int)
  apart = np.abs(table[:, None] - table).sum(-1)
  assert apart[~np.eye(101, dtype=bool)].min() >= 40


def test_own_colors_win_unless_a_palette_is_named():
  category = Category(1, 'road', False, (1, 2, 3))
  assert palettes.colors([category])[1].tolist() == [1, 2, 3]
  for palette in palettes.PALETTES:
    assert palettes.colors([category], palette)[1].tolist() != [1, 2, 3]


def test_coco_colors_are_those_of_its_categories(shared):
  path = shared / 'data/coco_mini/annotations/panoptic_full.json'
  entries = json.loads(path.read_text())['categories']
  expected = [entry['color'] for entry in entries]
  assert len(expected) == 133
  plain = categories_lib.categories_from_json(
    [{**entry, 'color': None} for entry in entries[::-1]]
  )
  found = palettes.colors(plain, 'coco')
  np.testing.assert_array_equal(found[1:], expected[::-1])


def test_cityscapes_colors_go_by_name():
  names = ('road', 'Sky', 'bicycle', 'no such class')
  table = palettes.colors([Category(0, n, True) for n in names], 'cityscapes')
  assert table[1:4].tolist() == [[128, 64, 128], [70, 130, 180], [119, 11, 32]]
  np.testing.assert_array_equal(table[4], palettes.random(4)[4])


def test_an_unknown_palette():
  with pytest.raises(ValueError, match="palette='viridis' is unknown"):
    palettes.colors(classes(2), 'viridis')
