"""Writes maps of segments as files that our readers and others read.

| format | in the folder |
|---|---|
| panoptic | panoptic/NAME.png, id = R + 256 G + 65536 B; panoptic.json (COCO) |
| rle | instances.json, the things as a COCO data set of compressed RLE; |
| | instances_results.json, the bare list that pycocotools' loadRes takes |
| labels | labels/NAME.png, one channel of 8 or 16 bits; labels.json says what |
| | each value means |
| palette | palette/NAME.png, class numbers (0 = void) with colours |

Time and memory are linear in the pixels, however many segments there are.
"""

import io
import json
import pathlib
from typing import NamedTuple

import numpy as np
from PIL import Image

from pix2seqd_jax.data.formats.categories import categories_to_json
from pix2seqd_jax.data.formats.files import check_relative, write_atomically
from pix2seqd_jax.data.formats.label_maps import (
  check_palette,
  label_map,
  label_values,
  palette_image,
)
from pix2seqd_jax.encoding import rle
from pix2seqd_jax.encoding.panoptic_ids import id_to_rgb, ranks, run_starts
from pix2seqd_jax.registry import did_you_mean


class _Map(NamedTuple):
  """What each format gets: one map, checked."""

  file_name: str  # of the image
  map_name: str  # of the PNG
  image_id: int | str
  ids: np.ndarray
  segments: tuple
  boxes: dict  # id -> (area, [left, top, width, height])


class Writer:
  """Writes maps in several formats; `close` writes the JSON files.

  A context manager, too. Each file appears whole or not at all; where the
  block raises, no JSON is written.

  Args:
    folder: made if need be.
    categories: class c is `categories[c - 1]`.
    formats: of FORMATS.
    colors: uint8 [num_classes + 1, 3], void first, for 'palette'.
    values: of 'labels': the data set's own 'ids', or 'classes' 1..C.

  Raises:
    ValueError: an unknown format, or categories that a format cannot hold.
  """

  def __init__(
    self,
    folder,
    categories,
    formats=('panoptic',),
    *,
    colors=None,
    values='ids',
  ):
    self.folder = pathlib.Path(folder)
    self.categories = tuple(categories)
    for name in formats:
      if name not in FORMATS:
        raise ValueError(
          f'format {name!r} is unknown.{did_you_mean(name, FORMATS)} Known: '
          f'{", ".join(FORMATS)}.'
        )
    settings = {'palette': colors, 'labels': values}
    self._parts = [
      FORMATS[name](self.folder, self.categories, settings.get(name))
      for name in dict.fromkeys(formats)
    ]
    self._names, self._ids = set(), set()

  def add(self, file_name, ids, segments, image_id=None):
    """Writes one map.

    Args:
      file_name: of the image, relative; the PNGs are named after it.
      ids: int [h, w], 0 = void, below 2^24.
      segments: tuple[Segment], one for each non-zero id.
      image_id: a number or name; None counts from 1.

    Returns:
      The name of the PNGs, relative to the folder of each format.

    Raises:
      ValueError: ids and segments do not agree, a class is unknown, or the
        image_id was used before.
    """
    name = check_relative(file_name, 'Writer')
    ids = np.asarray(ids)
    boxes = _measure(ids)
    _check(name, boxes, segments, len(self.categories))
    if boxes and not 0 < min(boxes) <= max(boxes) < 1 << 24:
      raise ValueError(
        f'{name}: ids {min(boxes)} to {max(boxes)} do not fit into 24 bits; '
        'renumber the segments from 1.'
      )
    image_id = self._new_id(image_id, name)
    map_name = self._new_name(name)
    found = _Map(name, map_name, image_id, ids, tuple(segments), boxes)
    for part in self._parts:
      part.add(found)
    return map_name

  def close(self):
    """Writes the JSON files."""
    for part in self._parts:
      part.close()

  def __enter__(self):
    return self

  def __exit__(self, kind, error, trace):
    if kind is None:
      self.close()

  def _new_id(self, image_id, name):
    if image_id is None:
      image_id = len(self._ids) + 1
      while image_id in self._ids:
        image_id += 1
    if image_id in self._ids:
      raise ValueError(f'{name}: image_id={image_id} was written before.')
    self._ids.add(image_id)
    return image_id

  def _new_name(self, name):
    """x.jpg -> x.png; where that is taken (x.bmp before), x_2.png."""
    stem = str(pathlib.PurePosixPath(name.replace('\\', '/')).with_suffix(''))
    found, count = f'{stem}.png', 2
    while found in self._names:
      found, count = f'{stem}_{count}.png', count + 1
    self._names.add(found)
    return found


class _Panoptic:
  """COCO panoptic: a PNG an image, and a JSON that names its ids."""

  def __init__(self, folder, categories, _):
    self.folder, self.categories = folder, categories
    self._images, self._annotations = [], []
    (folder / 'panoptic').mkdir(parents=True, exist_ok=True)

  def add(self, found: _Map):
    path = self.folder / 'panoptic' / found.map_name
    _write_png(path, Image.fromarray(id_to_rgb(found.ids)))
    self._images.append(_image_entry(found))
    infos = []
    for segment in found.segments:
      area, box = found.boxes[segment.id]
      info = {
        'id': int(segment.id),
        'category_id': self.categories[segment.class_id - 1].id,
        'area': area,
        'bbox': box,
        'iscrowd': int(segment.is_crowd),
      }
      if segment.score is not None:
        info['score'] = float(segment.score)
      infos.append(info)
    self._annotations.append(
      {
        'image_id': found.image_id,
        'file_name': found.map_name,
        'segments_info': infos,
      }
    )

  def close(self):
    data = {
      'images': self._images,
      'annotations': self._annotations,
      'categories': categories_to_json(self.categories),
    }
    _write_json(self.folder / 'panoptic.json', data)


class _Rle:
  """COCO instances: the things, as compressed run lengths."""

  def __init__(self, folder, categories, _):
    self.folder, self.categories = folder, categories
    self._images, self._annotations = [], []
    folder.mkdir(parents=True, exist_ok=True)

  def add(self, found: _Map):
    self._images.append(_image_entry(found))
    named = {segment.id: segment for segment in found.segments}
    entries = rle_entries(found.ids, found.segments, self.categories)
    for name, entry in entries:
      area, box = found.boxes[name]
      self._annotations.append(
        {
          'id': len(self._annotations) + 1,
          'image_id': found.image_id,
          **entry,
          'area': area,
          'bbox': box,
          'iscrowd': int(named[name].is_crowd),
        }
      )

  def close(self):
    things = [c for c in self.categories if c.is_thing]
    data = {
      'images': self._images,
      'annotations': self._annotations,
      'categories': categories_to_json(things),
    }
    _write_json(self.folder / 'instances.json', data)
    keys = ('image_id', 'category_id', 'segmentation')
    results = [
      {**{k: a[k] for k in keys}, 'score': a.get('score', 1.0)}
      for a in self._annotations
      if not a['iscrowd']
    ]
    _write_json(self.folder / 'instances_results.json', results)


class _Labels:
  """One class a pixel, without instances."""

  def __init__(self, folder, categories, values):
    self.folder, self.categories, self.values = folder, categories, values
    table = label_values(categories, values)
    entries = categories_to_json(categories)
    for entry, value in zip(entries, table[1:].tolist(), strict=True):
      entry['value'] = value
    self._legend = {'void': int(table[0]), 'categories': entries}
    (folder / 'labels').mkdir(parents=True, exist_ok=True)

  def add(self, found: _Map):
    labels = label_map(found.ids, found.segments, self.categories, self.values)
    path = self.folder / 'labels' / found.map_name
    _write_png(path, Image.fromarray(labels))

  def close(self):
    _write_json(self.folder / 'labels.json', self._legend)


class _Palette:
  """Class numbers that any viewer shows in their colours."""

  def __init__(self, folder, categories, colors):
    self.folder, self.categories, self.colors = folder, categories, colors
    check_palette(categories, colors)
    (folder / 'palette').mkdir(parents=True, exist_ok=True)

  def add(self, found: _Map):
    path = self.folder / 'palette' / found.map_name
    _write_png(
      path,
      palette_image(found.ids, found.segments, self.categories, self.colors),
    )

  def close(self):
    pass


FORMATS = {
  'panoptic': _Panoptic,
  'rle': _Rle,
  'labels': _Labels,
  'palette': _Palette,
}


def rle_entries(ids, segments, categories):
  """The things of a map: yields (id, entry of a COCO JSON), by rising id.

  An entry has category_id, segmentation {'size': [h, w], 'counts': string}
  and, where the segment has one, score.
  """
  named = {segment.id: segment for segment in segments}
  for name, counts in rle.from_ids(ids):
    segment = named[name]
    category = categories[segment.class_id - 1]
    if category.is_thing:
      text = rle.to_string(counts)
      entry = {
        'category_id': category.id,
        'segmentation': {'size': list(ids.shape), 'counts': text},
      }
      if segment.score is not None:
        entry['score'] = float(segment.score)
      yield name, entry


def _image_entry(found):
  h, w = found.ids.shape
  return {
    'id': found.image_id,
    'file_name': found.file_name,
    'height': h,
    'width': w,
  }


def _write_png(path, image):
  buffer = io.BytesIO()
  image.save(buffer, 'PNG', compress_level=4)
  write_atomically(path, buffer.getvalue())


def _write_json(path, data):
  write_atomically(path, json.dumps(data).encode())


def _measure(ids):
  """{id: (area, [left, top, width, height])} of every non-zero id."""
  if ids.ndim != 2 or ids.dtype.kind not in 'iu':
    raise ValueError(
      f'a map of ids must be integers [h, w], not {ids.dtype} {ids.shape}.'
    )
  names, areas, which = ranks(ids)
  # Runs within a row know the boxes; there are far fewer of them than pixels.
  width = max(1, ids.shape[1])
  starts = run_starts(which.reshape(-1), width)
  stops = np.append(starts[1:], which.size) - 1
  rank, row = which.reshape(-1)[starts], starts // width
  first, last = (np.zeros((len(names), 2), np.int64) for _ in range(2))
  # Of several assignments the last stays.
  first[rank[::-1], 1], last[rank, 1] = row[::-1], row
  first[:, 0] = width
  np.minimum.at(first[:, 0], rank, starts % width)
  np.maximum.at(last[:, 0], rank, stops % width)
  boxes = np.concatenate([first, last - first + 1], 1)
  return {
    name: (area, box)
    for name, area, box in zip(names.tolist(), areas.tolist(), boxes.tolist())
    if name != 0
  }


def _check(name, boxes, segments, num_classes):
  named = [s.id for s in segments]
  if len(set(named)) != len(named) or set(named) != set(boxes):
    raise ValueError(
      f'{name}: the map has the ids {sorted(boxes)[:8]} but the segments name '
      f'{sorted(named)[:8]}; each non-zero id needs exactly one segment.'
    )
  for segment in segments:
    if not 1 <= segment.class_id <= num_classes:
      raise ValueError(
        f'{name}: segment {segment.id} has class {segment.class_id}, which is '
        f'not in 1..{num_classes}.'
      )
