"""tf.train.Example as bytes, written and read without TensorFlow.

The record format of our ArrayRecord shards and of everything that TFDS
prepares: a map from names to lists of bytes, int64 or float32. The wire format
is that of protocol buffers (protobuf.dev/programming-guides/encoding); the
messages are tensorflow/core/example/{example,feature}.proto.
"""

import numpy as np

# The fields of Feature.
_BYTES, _FLOATS, _INTS = 1, 2, 3
# The wire types.
_VARINT, _FIXED64, _DELIMITED, _FIXED32 = 0, 1, 2, 5
_TRUNCATED = 'the record is cut off'


def encode_example(features):
  """A dict of lists -> bytes; equal dicts give equal bytes.

  Args:
    features: name -> bytes, str, a list of them, or an array of integers or
      floats of one axis (stored as int64 and float32).

  Raises:
    ValueError: a value of another kind.
  """
  entries = []
  for name in sorted(features):
    key = _delimited(1, name.encode())
    entries.append(_delimited(1, key + _delimited(2, _feature(name, features))))
  return _delimited(1, b''.join(entries))


def decode_example(data):
  """The inverse: name -> list of bytes, int64 array, or float32 array.

  Names without a value get an empty list. Unknown fields are passed over.

  Raises:
    ValueError: the bytes are no Example.
  """
  found = {}
  for number, wire, value in _fields(memoryview(data)):
    if (number, wire) != (1, _DELIMITED):
      continue
    for number, wire, entry in _fields(value):
      if (number, wire) == (1, _DELIMITED):
        name, feature = _entry(entry)
        found[name] = feature
  return found


def _feature(name, features):
  value = features[name]
  if isinstance(value, bytes | str):
    value = [value]
  if len(value) and all(isinstance(v, bytes | str) for v in value):
    parts = (v.encode() if isinstance(v, str) else v for v in value)
    return _delimited(_BYTES, b''.join(_delimited(1, p) for p in parts))
  array = np.asarray(value)
  if array.ndim == 1 and array.dtype.kind in 'iub':
    packed = b''.join(_varint(int(v) & (1 << 64) - 1) for v in array)
    return _delimited(_INTS, _delimited(1, packed) if packed else b'')
  if array.ndim == 1 and array.dtype.kind == 'f':
    packed = array.astype('<f4').tobytes()
    return _delimited(_FLOATS, _delimited(1, packed) if packed else b'')
  raise ValueError(
    f'field {name!r} holds {array.dtype} {array.shape}; an Example holds '
    'lists of bytes, integers or floats.'
  )


def _entry(data):
  """One item of the map; absent keys and values have protobuf's defaults."""
  name, feature = '', []
  for number, wire, value in _fields(data):
    if (number, wire) == (1, _DELIMITED):
      name = _text(value)
    elif (number, wire) == (2, _DELIMITED):
      feature = _lists(value)
  return name, feature


def _lists(data):
  feature = []
  for kind, wire, value in _fields(data):
    if wire != _DELIMITED:
      continue
    if kind == _BYTES:
      feature = [
        bytes(v)
        for number, wire, v in _fields(value)
        if (number, wire) == (1, _DELIMITED)
      ]
    elif kind == _INTS:
      feature = np.array(_ints(value), np.uint64).astype(np.int64)
    elif kind == _FLOATS:
      feature = _floats(value)
  return feature


def _ints(data):
  values = []
  for number, wire, value in _fields(data):
    if (number, wire) == (1, _VARINT):
      values.append(value)
    elif (number, wire) == (1, _DELIMITED):
      position = 0
      while position < len(value):
        one, position = _read_varint(value, position)
        values.append(one)
  return values


def _floats(data):
  parts = []
  for number, wire, value in _fields(data):
    if number == 1 and wire in (_FIXED32, _DELIMITED):
      if len(value) % 4:
        raise ValueError('a list of floats has a part of a float')
      parts.append(bytes(value))
  return np.frombuffer(b''.join(parts), '<f4').astype(np.float32)


def _fields(data):
  """(number, wire type, value) of each field of a message."""
  position = 0
  while position < len(data):
    tag, position = _read_varint(data, position)
    number, wire = tag >> 3, tag & 7
    if wire == _VARINT:
      value, position = _read_varint(data, position)
    else:
      if wire == _DELIMITED:
        size, position = _read_varint(data, position)
      elif wire in (_FIXED64, _FIXED32):
        size = 8 if wire == _FIXED64 else 4
      else:
        raise ValueError(f'the record has a field of the wire type {wire}')
      if size > len(data) - position:
        raise ValueError(_TRUNCATED)
      value = data[position : position + size]
      position += size
    if not number:
      raise ValueError('the record has a field of number 0')
    yield number, wire, value


def _read_varint(data, position):
  value = shift = 0
  while True:
    if position >= len(data):
      raise ValueError(_TRUNCATED)
    byte = data[position]
    position += 1
    value |= (byte & 127) << shift
    if byte < 128:
      break
    shift += 7
    if shift > 63:
      raise ValueError('the record has a number of more than 64 bits')
  return value & (1 << 64) - 1, position


def _varint(value):
  parts = bytearray()
  while value > 127:
    parts.append(value & 127 | 128)
    value >>= 7
  parts.append(value)
  return bytes(parts)


def _delimited(number, data):
  return _varint(number << 3 | _DELIMITED) + _varint(len(data)) + data


def _text(data):
  try:
    return str(data, 'utf-8')
  except UnicodeDecodeError as error:
    raise ValueError(f'a name in the record is no UTF-8: {error}') from error
