"""Latents of images: made once, written, and read in place of the encoder.

A folder holds index.json and an array for each split, float32
[example, way, h, w, c], SPLIT.f32: way 0 is the image as it is, way 1 (where
the split's transforms flip) is the latent of the mirrored image, which is no
mirrored latent. The index has the digest of the encoder's weights and all that
the latents depend on beside them; nothing else is read with this folder.
"""

import dataclasses
import functools
import hashlib
import json
import os
import pathlib

import numpy as np

INDEX = 'index.json'
_FORMAT = 1
# Of one image they make one image, or with a flip two.
_CERTAIN = ('resize_to_fit', 'pad', 'random_flip')
# They change no image.
_OF_MASKS = ('drop_small', 'paint')


def flip_chances(split, pairs):
  """The chances of a flip with which the ways of an image are made.

  Args:
    split: for the message.
    pairs: the (name, kwargs) of the split's transforms.

  Returns:
    (0.0,), or (0.0, 1.0) where the transforms flip.

  Raises:
    ValueError: another transform draws at random: then an example has no one
      latent, or two.
  """
  chances = [kw.get('chance', 0.5) for n, kw in pairs if n == 'random_flip']
  for name, kwargs in pairs:
    idle = name == 'color_jitter' and not kwargs.get('strength', 1)
    if name not in (*_CERTAIN, *_OF_MASKS) and not idle:
      raise ValueError(
        f'data.latents: data.{split}_transforms has {name!r}, which draws '
        'anew each time, but a latent is cached once; leave it out '
        "('resize_to_fit' resizes without drawing, 'random_flip' may stay), or "
        'empty data.latents.'
      )
  if len(chances) > 1:
    raise ValueError(
      f"data.latents: data.{split}_transforms has 'random_flip' "
      f'{len(chances)} times; once is enough.'
    )
  return (0.0, 1.0) if chances and chances[0] > 0 else (0.0,)


def with_chance(pairs, chance):
  """The transforms with this chance of a flip."""
  return tuple(
    (name, {**kwargs, 'chance': chance} if name == 'random_flip' else kwargs)
    for name, kwargs in pairs
  )


def origin(data, split, pairs, network):
  """What the latents of a split depend on beside weights, as plain JSON.

  Args:
    data: config.data. Its root is left out: data may move.
    split: 'train' or 'eval'.
    pairs: the split's transforms, sizes filled in.
    network: of the encoder, keyword arguments.
  """
  told = {
    'name': data['name'],
    'source': {**data['source'], **data[split]},
    'image_size': data['image_size'],
    'transforms': [
      pair for pair in with_chance(pairs, 0.0) if pair[0] not in _OF_MASKS
    ],
    'ways': len(flip_chances(split, pairs)),
    'network': network,
  }
  return json.loads(json.dumps(told, sort_keys=True))


def digest(weights):
  """SHA-256 of {path: array}, as float32, whatever their order."""
  found = hashlib.sha256()
  for path in sorted(weights):
    array = np.ascontiguousarray(weights[path], '<f4')
    found.update(f'{path} {array.shape}\n'.encode())
    found.update(array.tobytes())
  return found.hexdigest()


def read_index(folder):
  """index.json; raises ValueError where there is none that can be read."""
  path = pathlib.Path(folder) / INDEX
  try:
    index = json.loads(path.read_text(encoding='utf-8'))
    if index['format'] == _FORMAT:
      return index
    fault = f'is of format {index["format"]}, this version reads {_FORMAT}'
  except FileNotFoundError:
    fault = 'does not exist'
  except (ValueError, KeyError, TypeError):
    fault = 'cannot be read'
  raise ValueError(
    f'data.latents: {path} {fault}; write the folder with python -m '
    'pix2seqd_jax.cli.cache_latents, or empty data.latents.'
  )


def _write_index(folder, index):
  """At once or not at all."""
  part = folder / (INDEX + '.part')
  with part.open('w', encoding='utf-8') as file:
    file.write(json.dumps(index, indent=1, sort_keys=True) + '\n')
    file.flush()
    os.fsync(file.fileno())
  os.replace(part, folder / INDEX)


def check_weights(folder, weights_digest):
  """Raises ValueError for a folder that other weights made."""
  found = read_index(folder)['weights']
  if found != weights_digest:
    raise ValueError(
      f'data.latents={folder} was made by an encoder whose weights have the '
      f'digest {found[:12]}, those here have {weights_digest[:12]}: they are '
      'other latents. Take the encoder that made it, or write another folder '
      'with python -m pix2seqd_jax.cli.cache_latents.'
    )


def _check_origin(folder, split, found, expected):
  wrong = [
    f'{key} is {expected.get(key)!r} here, {found.get(key)!r} there'
    for key in sorted({*expected, *found})
    if expected.get(key) != found.get(key)
  ]
  if wrong:
    raise ValueError(
      f'data.latents={folder}: its latents of {split!r} are of other images '
      f'or another network: {"; ".join(wrong)}. Make the config as it was, or '
      'write another folder.'
    )


class Writer:
  """Writes the latents of a split, example by example, or goes on with it.

  Args:
    folder: made if it does not exist.
    split: 'train' or 'eval'.
    shape: of the whole array: examples, ways, h, w, c.
    weights: the `digest` of the encoder.
    of: the `origin`.

  Attributes:
    shape: of the whole array.
    done: examples that are written for good; `add` continues there.

  Raises:
    ValueError: the folder holds latents of other weights or images.
  """

  def __init__(self, folder, split, shape, weights, of):
    self._folder = pathlib.Path(folder)
    self._folder.mkdir(parents=True, exist_ok=True)
    if not (self._folder / INDEX).exists():
      _write_index(
        self._folder, {'format': _FORMAT, 'weights': weights, 'splits': {}}
      )
    check_weights(folder, weights)
    self._index = read_index(folder)
    new = {'shape': [int(n) for n in shape], 'done': 0, 'of': of}
    self._entry = self._index['splits'].setdefault(split, new)
    _check_origin(folder, split, self._entry['of'], of)
    _check_count(folder, split, self._entry['shape'][0], new['shape'][0])
    self.shape = tuple(new['shape'])
    path = _path(folder, split)
    path.touch()
    size = 4 * int(np.prod(shape[1:]))
    # A kill may have cut a row, or left some that the index does not know.
    self.done = min(self._entry['done'], path.stat().st_size // size)
    self._file = path.open('r+b')
    self._file.truncate(self.done * size)
    self._file.seek(0, os.SEEK_END)

  def add(self, rows):
    """Appends float32 [n, ways, h, w, c]; `save` makes it lasting."""
    if rows.shape[1:] != self.shape[1:]:
      raise ValueError(f'rows are {rows.shape}, but must be {self.shape}.')
    self._file.write(np.ascontiguousarray(rows, '<f4').tobytes())
    self.done += len(rows)

  def save(self):
    """What was added so far survives a kill from here on."""
    self._file.flush()
    os.fsync(self._file.fileno())
    self._entry['done'] = self.done
    _write_index(self._folder, self._index)

  def __enter__(self):
    return self

  def __exit__(self, *_):
    self._file.close()


def _path(folder, split):
  return pathlib.Path(folder) / f'{split}.f32'


def _check_count(folder, split, found, expected):
  if found != expected:
    raise ValueError(
      f'data.latents={folder} is of {found} examples of {split!r}, but the '
      f'data set has {expected}; write another folder.'
    )


@functools.lru_cache(maxsize=8)
def _rows(path, shape):
  return np.memmap(path, '<f4', 'r', shape=shape)


@dataclasses.dataclass(frozen=True)
class CachedLatents:
  """A transform: adds `image_latent` float32 [h, w, c], unscaled.

  It reads `flipped`, which random_flip writes. Made by `open_latents`.
  """

  path: str
  shape: tuple[int, ...]

  def __call__(self, example, rng):
    del rng
    way = int(example.get('flipped', False))
    latent = np.array(_rows(self.path, self.shape)[example['index'], way])
    return example | {'image_latent': latent}


def open_latents(folder, split, of):
  """The transform that reads the latents of a split.

  Args:
    folder: of `Writer`.
    split: 'train' or 'eval'.
    of: the `origin` that they must have.

  Raises:
    ValueError: they are not there, not complete, or of another origin.
  """
  entry = read_index(folder)['splits'].get(split)
  if entry is None:
    raise ValueError(f'data.latents={folder} has no latents of {split!r}.')
  _check_origin(folder, split, entry['of'], of)
  path, shape = _path(folder, split), tuple(entry['shape'])
  size = path.stat().st_size if path.exists() else 0
  if entry['done'] != shape[0] or size != 4 * int(np.prod(shape)):
    raise ValueError(
      f'data.latents={folder}: {path.name} has {entry["done"]} of {shape[0]} '
      f'examples ({size} bytes); python -m pix2seqd_jax.cli.cache_latents '
      'goes on where '
      'it stopped.'
    )
  return CachedLatents(str(path), shape)


def check_count(folder, split, count):
  """Raises ValueError where the data set has another number of examples."""
  entry = read_index(folder)['splits'].get(split)
  if entry is not None:
    _check_count(folder, split, entry['shape'][0], count)
