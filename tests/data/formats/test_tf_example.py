"""tf.train.Example without TensorFlow: inverse, hostile bytes."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pix2seqd_jax.data.formats.tf_example import decode_example, encode_example

_EXAMPLE = {
  'image': b'\xff\xd8\x00',
  'names': ['a', 'größe', b''],
  'ids': np.array([0, 1, -1, 127, 128, 2**63 - 1, -(2**63)]),
  'boxes': np.array([0.25, -1e-30, np.inf], np.float32),
  'empty': np.array([], np.int64),
  'flags': np.array([True, False]),
}


def _equal(found, expected):
  assert sorted(found) == sorted(expected)
  for name, value in expected.items():
    if isinstance(value, np.ndarray):
      np.testing.assert_array_equal(found[name], value)
    else:
      value = [value] if isinstance(value, bytes) else value
      assert found[name] == [
        v.encode() if isinstance(v, str) else v for v in value
      ]


def test_decoding_is_the_inverse():
  found = decode_example(encode_example(_EXAMPLE))
  _equal(found, _EXAMPLE)
  assert found['ids'].dtype == np.int64
  assert found['boxes'].dtype == np.float32


def test_equal_dicts_give_equal_bytes():
  turned = dict(reversed(_EXAMPLE.items()))
  assert encode_example(turned) == encode_example(_EXAMPLE)


_VALUES = st.one_of(
  st.lists(st.binary(max_size=20), min_size=1, max_size=4),
  st.lists(st.integers(-(2**63), 2**63 - 1), max_size=6).map(
    lambda v: np.array(v, np.int64)
  ),
  st.lists(st.floats(width=32, allow_nan=False), max_size=6).map(
    lambda v: np.array(v, np.float32)
  ),
)


@settings(max_examples=100, deadline=None)
@given(st.dictionaries(st.text(max_size=8), _VALUES, max_size=5))
def test_any_example_survives(example):
  _equal(decode_example(encode_example(example)), example)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_damaged_bytes_are_a_value_error_or_another_example(data):
  whole = bytearray(encode_example(_EXAMPLE))
  for _ in range(data.draw(st.integers(1, 3))):
    place = data.draw(st.integers(0, len(whole) - 1))
    whole[place] = data.draw(st.integers(0, 255))
  cut = data.draw(st.integers(0, len(whole)))
  for hostile in (bytes(whole), bytes(whole[:cut])):
    try:
      assert isinstance(decode_example(hostile), dict)
    except ValueError as error:
      assert str(error)


def test_what_an_example_cannot_hold_is_refused():
  for value in ([1, 'a'], np.zeros((2, 2)), [{}]):
    with pytest.raises(ValueError, match="field 'x' holds"):
      encode_example({'x': value})


def test_the_bytes_are_as_the_format_says():
  # Field 1 of Example, of Features, then key and value of the map's entry.
  known = {
    b'\n\x0b\n\t\n\x01x\x12\x04\n\x02\n\x00': {'x': b''},
    b'\n\x0c\n\n\n\x01x\x12\x05\x1a\x03\n\x01\x07': {'x': [7]},
    b'\n\x09\n\x07\n\x01x\x12\x02\x1a\x00': {'x': np.array([], np.int64)},
  }
  for data, example in known.items():
    assert encode_example(example) == data
    assert list(decode_example(data)) == ['x']


def test_equals_tensorflow():
  tf = pytest.importorskip('tensorflow', reason='needs the extra tf')
  parsed = tf.train.Example.FromString(encode_example(_EXAMPLE))
  # The order of the names may be another.
  _equal(decode_example(parsed.SerializeToString()), _EXAMPLE)
