"""Bytes -> arrays; what files hold is tested in test_files.py."""

import io

import numpy as np
import pytest
from PIL import Image

from pix2seqd_jax.data.formats import decode


def _bytes(array, kind='PNG', **kwargs):
  buffer = io.BytesIO()
  Image.fromarray(array).save(buffer, kind, **kwargs)
  return buffer.getvalue()


def test_images_and_ids_of_bytes():
  rng = np.random.default_rng(0)
  colors = rng.integers(0, 256, (5, 7, 3), np.uint8)
  data = _bytes(colors)
  np.testing.assert_array_equal(decode.decode_image(data, 'a'), colors)
  ids = decode.decode_panoptic_png(data, 'a')
  assert ids.dtype == np.int32
  np.testing.assert_array_equal(ids, colors.astype(np.int64) @ [1, 256, 65536])
  for kind in (bytearray, memoryview):
    np.testing.assert_array_equal(decode.decode_image(kind(data), 'a'), colors)


@pytest.mark.parametrize(
  'function', [decode.decode_image, decode.decode_panoptic_png]
)
def test_any_cut_and_any_byte_flipped_is_an_array_or_names_the_file(function):
  whole = _bytes(np.arange(300, dtype=np.uint8).reshape(10, 10, 3))
  rng = np.random.default_rng(1)
  for length in range(0, len(whole) - 24, 7):
    with pytest.raises(ValueError, match=r'zip!a\.png'):
      function(whole[:length], 'zip!a.png')
  for _ in range(60):
    data = bytearray(whole)
    data[rng.integers(len(data))] ^= 1 << rng.integers(8)
    try:
      assert function(data, 'zip!a.png').ndim in (2, 3)
    except ValueError as error:
      assert 'zip!a.png' in str(error) and '_io' not in str(error)
