"""tf.train.Example as bytes, by the protobuf classes that TFDS ships.

The record format of our ArrayRecord shards and of everything that TFDS
prepares: a map from names to lists of bytes, int64 or float32. TensorFlow is
not needed. tensorflow/core/example/{example,feature}.proto.
"""

import functools

import numpy as np


@functools.cache
def _message():
  """The class; TFDS is imported with the first record (half a second)."""
  from tensorflow_datasets.proto import tf_example_generated_pb2

  return tf_example_generated_pb2.Example


def encode_example(features):
  """A dict of lists -> bytes; equal dicts give equal bytes.

  Args:
    features: name -> bytes, str, a list of them, or an array of integers or
      floats of one axis (stored as int64 and float32).

  Raises:
    ValueError: a value of another kind.
  """
  example = _message()()
  for name, value in features.items():
    feature = example.features.feature[name]
    if isinstance(value, bytes | str):
      value = [value]
    if len(value) and all(isinstance(v, bytes | str) for v in value):
      parts = (v.encode() if isinstance(v, str) else v for v in value)
      feature.bytes_list.value.extend(parts)
      continue
    array = np.asarray(value)
    if array.ndim != 1 or array.dtype.kind not in 'iubf':
      raise ValueError(
        f'field {name!r} holds {array.dtype} {array.shape}; an Example holds '
        'lists of bytes, integers or floats.'
      )
    if array.dtype.kind == 'f':
      values, array = feature.float_list, array.astype(np.float32)
    else:
      values, array = feature.int64_list, array.astype(np.int64)
    values.SetInParent()  # an empty list has a kind too
    values.value.extend(array.tolist())
  return example.SerializeToString(deterministic=True)


def decode_example(data):
  """The inverse: name -> list of bytes, int64 array, or float32 array.

  Names without a value get an empty list. Unknown fields are passed over.

  Raises:
    ValueError: the bytes are no Example.
  """
  from google.protobuf import message

  try:
    example = _message().FromString(data)
  except message.DecodeError as error:
    raise ValueError(str(error)) from None
  found = {}
  for name, feature in example.features.feature.items():
    kind = feature.WhichOneof('kind')
    if kind == 'int64_list':
      found[name] = np.array(feature.int64_list.value, np.int64)
    elif kind == 'float_list':
      found[name] = np.array(feature.float_list.value, np.float32)
    else:
      found[name] = list(feature.bytes_list.value)
  return found
