"""Which value a class has in a label map, and how wide the map is."""

import numpy as np
import pytest

from pix2seqd_jax.data.formats import label_maps
from pix2seqd_jax.types import Category, Segment


def classes(*ids):
  return [Category(i, str(i), False) for i in ids]


@pytest.mark.parametrize(
  'ids, table, dtype',
  [
    ((7, 3), [0, 7, 3], np.uint8),
    ((0, 1), [255, 0, 1], np.uint8),
    ((0, 255), [65535, 0, 255], np.uint16),
    ((1000, 2), [0, 1000, 2], np.uint16),
  ],
)
def test_void_takes_a_value_that_is_free(ids, table, dtype):
  found = label_maps.label_values(classes(*ids))
  assert found.tolist() == table and found.dtype == dtype
  numbers = label_maps.label_values(classes(*ids), 'classes')
  assert numbers.tolist() == [0, 1, 2] and numbers.dtype == np.uint8


@pytest.mark.parametrize('ids', [(-1, 2), (70_000, 1), (0, 255, 65535)])
def test_ids_that_do_not_fit(ids):
  with pytest.raises(ValueError, match="values='classes'"):
    label_maps.label_values(classes(*ids))


def test_ids_without_a_name_are_void():
  ids = np.array([[5, 6], [0, 5]])
  found = label_maps.label_map(ids, [Segment(5, 1)], classes(9))
  np.testing.assert_array_equal(found, [[9, 0], [0, 9]])


def test_too_many_classes_for_a_palette():
  many = classes(*range(256))
  with pytest.raises(ValueError, match='256 classes'):
    label_maps.check_palette(many, np.zeros((257, 3), np.uint8))
