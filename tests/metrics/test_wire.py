import numpy as np
import pytest

from pix2seqd_jax import types
from pix2seqd_jax.metrics import wire


def test_arrays_and_header_turn_back():
  arrays = {
    'a': np.array([[2**62 + 1, -3]]),
    'b': np.array([np.pi, np.nextafter(1, 2)]),
    'c': np.zeros((0, 3)),
    'd': np.asfortranarray(np.arange(6.0).reshape(2, 3)),
  }
  header, back = wire.unpack(wire.pack({'name': 'x'}, arrays) + b'\0\0')
  assert header == {'name': 'x'}
  for name, array in arrays.items():
    assert back[name].dtype == array.dtype
    np.testing.assert_array_equal(back[name], array)
    back[name][...] = 0  # writable


def test_refuses_other_types():
  with pytest.raises(ValueError, match='float16'):
    wire.pack({}, {'a': np.zeros(2, np.float16)})


def test_categories_turn_back_even_of_numpy_numbers():
  categories = (
    types.Category(np.int64(5), 'a', np.bool_(True), (1, 2, np.uint8(3))),
    types.Category(6, 'b', False),
  )
  back = wire.categories_from_json(wire.categories_to_json(categories))
  assert back == categories
