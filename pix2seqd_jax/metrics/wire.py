"""Metric states as bytes, so that they cross processes without being cut.

`multihost_utils.process_allgather` silently turns float64 and int64 into 32
bits, so counts travel as bytes: a JSON header that says what follows, then the
arrays, little-endian, exactly as they are.
"""

import json
from collections.abc import Iterable, Mapping
from typing import Any, get_type_hints

import numpy as np

from pix2seqd_jax import types

_KINDS = ('<i8', '<f8', '<f4')


def pack(header: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> bytes:
  """Header and arrays as bytes; `unpack` turns them back.

  Arrays are int64, float64 or float32. The length depends on the header and
  the shapes alone.
  """
  plan, blobs = [], []
  for name, array in arrays.items():
    array = np.ascontiguousarray(array)
    kind = array.dtype.newbyteorder('<').str
    if kind not in _KINDS:
      raise ValueError(
        f'metric array {name!r} has dtype {array.dtype}; a state holds '
        'int64, float64 or float32, so convert it first.'
      )
    plan.append([name, kind, list(array.shape)])
    blobs.append(array.astype(kind, copy=False).tobytes())
  head = json.dumps({'header': dict(header), 'arrays': plan}).encode()
  return len(head).to_bytes(8, 'little') + head + b''.join(blobs)


def unpack(data: bytes) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
  """The inverse of `pack`; bytes after the last array are ignored (padding)."""
  start = 8 + int.from_bytes(data[:8], 'little')
  head = json.loads(data[8:start])
  arrays = {}
  for name, kind, shape in head['arrays']:
    size = int(np.prod(shape, dtype=np.int64))
    flat = np.frombuffer(data, kind, size, start)
    arrays[name] = flat.reshape(shape).astype(np.dtype(kind).newbyteorder('='))
    start += flat.nbytes
  return head['header'], arrays


def categories_to_json(categories: Iterable[types.Category]) -> list[list]:
  """Categories as JSON lists."""
  return [
    [int(c.id), c.name, bool(c.is_thing), c.color and [int(v) for v in c.color]]
    for c in categories
  ]


def categories_from_json(rows: Iterable[list]) -> tuple[types.Category, ...]:
  """The inverse of `categories_to_json`."""
  return tuple(
    types.Category(id, name, is_thing, None if color is None else tuple(color))
    for id, name, is_thing, color in rows
  )


_CATEGORIES = tuple[types.Category, ...]
_ARRAYS = tuple[np.ndarray, ...]


def portable(cls: type) -> type:
  """Gives a NamedTuple `to_bytes` and its inverse, by the types of its fields.

  Arrays and tuples of arrays travel exactly; categories, and what JSON holds,
  in the header.
  """
  hints = get_type_hints(cls)

  def to_bytes(self) -> bytes:
    """The whole state, exactly; `from_bytes` turns it back."""
    header: dict[str, Any] = {}
    arrays: dict[str, np.ndarray] = {}
    for name, value in self._asdict().items():
      if hints[name] is np.ndarray:
        arrays[name] = value
      elif hints[name] == _ARRAYS:
        header[name] = len(value)
        arrays |= {f'{name}.{i}': part for i, part in enumerate(value)}
      elif hints[name] == _CATEGORIES:
        header[name] = categories_to_json(value)
      else:
        header[name] = value
    return pack(header, arrays)

  def from_bytes(cls, data: bytes):
    """The inverse of `to_bytes`."""
    header, fields = unpack(data)
    for name, value in header.items():
      if hints[name] == _ARRAYS:
        parts = [fields.pop(f'{name}.{i}') for i in range(value)]
        fields[name] = tuple(parts)
      elif hints[name] == _CATEGORIES:
        fields[name] = categories_from_json(value)
      else:
        fields[name] = value
    return cls(**fields)

  cls.to_bytes, cls.from_bytes = to_bytes, classmethod(from_bytes)
  return cls


def unique_names(categories: Iterable[types.Category]) -> list[str]:
  """A name for each class; names that occur twice get their id appended."""
  categories = tuple(categories)
  names = [category.name for category in categories]
  return [
    c.name if names.count(c.name) == 1 else f'{c.name}#{c.id}'
    for c in categories
  ]
