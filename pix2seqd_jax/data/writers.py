"""Writes panoptic maps as COCO does, so that our reader and others read them.

folder/panoptic/NAME.png with id = R + 256 G + 65536 B, and
folder/panoptic.json with images, annotations, categories.
"""

import io
import json
import pathlib

import numpy as np
from PIL import Image

from pix2seqd_jax.data.categories import categories_to_json
from pix2seqd_jax.data.files import check_relative, write_atomically
from pix2seqd_jax.encoding.panoptic_ids import id_to_rgb


class PanopticWriter:
  """Collects maps; `close` writes the JSON. A context manager, too.

  Each file appears whole or not at all. Where the block raises, no JSON is
  written.
  """

  def __init__(self, folder, categories):
    self.folder = pathlib.Path(folder)
    self.categories = tuple(categories)
    self._images, self._annotations = [], []
    self._names, self._ids = set(), set()
    (self.folder / 'panoptic').mkdir(parents=True, exist_ok=True)

  def add(self, file_name, ids, segments, image_id=None):
    """Writes one map.

    Args:
      file_name: of the picture, relative; the PNG is named after it.
      ids: int [h, w], 0 = void, below 2^24.
      segments: tuple[Segment], one for each non-zero id.
      image_id: a number or name; None counts from 1.

    Returns:
      The path of the PNG.

    Raises:
      ValueError: ids and segments do not agree, a class is unknown, or the
        image_id was used before.
    """
    name = check_relative(file_name, 'PanopticWriter')
    ids = np.asarray(ids)
    boxes = _measure(ids)
    _check(name, boxes, segments, len(self.categories))
    colors = id_to_rgb(ids)
    image_id = self._new_id(image_id, name)
    map_name = self._new_name(name)
    buffer = io.BytesIO()
    Image.fromarray(colors).save(buffer, 'PNG', compress_level=4)
    path = self.folder / 'panoptic' / map_name
    write_atomically(path, buffer.getvalue())
    h, w = ids.shape
    self._images.append(
      {'id': image_id, 'file_name': name, 'height': h, 'width': w}
    )
    infos = []
    for segment in segments:
      area, box = boxes[segment.id]
      info = {
        'id': int(segment.id),
        'category_id': self.categories[segment.category - 1].id,
        'area': area,
        'bbox': box,
        'iscrowd': int(segment.is_crowd),
      }
      if segment.score is not None:
        info['score'] = float(segment.score)
      infos.append(info)
    self._annotations.append(
      {'image_id': image_id, 'file_name': map_name, 'segments_info': infos}
    )
    return path

  def close(self):
    """Writes panoptic.json and returns its path."""
    data = {
      'images': self._images,
      'annotations': self._annotations,
      'categories': categories_to_json(self.categories),
    }
    path = self.folder / 'panoptic.json'
    write_atomically(path, json.dumps(data).encode())
    return path

  def __enter__(self):
    return self

  def __exit__(self, kind, error, trace):
    if kind is None:
      self.close()

  def _new_id(self, image_id, name):
    if image_id is None:
      image_id = len(self._images) + 1
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


def _measure(ids):
  """{id: (area, [left, top, width, height])} of every non-zero id."""
  if ids.ndim != 2 or ids.dtype.kind not in 'iu':
    raise ValueError(
      f'a map of ids must be integers [h, w], not {ids.dtype} {ids.shape}.'
    )
  names, which = np.unique(ids, return_inverse=True)
  which = which.reshape(ids.shape)
  areas = np.bincount(which.ravel(), minlength=len(names))
  top, bottom = _extent(which, len(names))
  left, right = _extent(which.T, len(names))
  sides = (left, top, right - left + 1, bottom - top + 1)
  boxes = np.stack(sides, axis=1).tolist()
  return {
    int(name): (int(area), box)
    for name, area, box in zip(names, areas, boxes)
    if name != 0
  }


def _extent(which, count):
  """The first and last row of each number; of assignments the last stays."""
  rows = np.repeat(np.arange(which.shape[0]), which.shape[1])
  flat = which.ravel()
  first, last = np.zeros(count, int), np.zeros(count, int)
  last[flat] = rows
  first[flat[::-1]] = rows[::-1]
  return first, last


def _check(name, boxes, segments, num_classes):
  named = [s.id for s in segments]
  if len(set(named)) != len(named) or set(named) != set(boxes):
    raise ValueError(
      f'{name}: the map has the ids {sorted(boxes)[:8]} but the segments name '
      f'{sorted(named)[:8]}; each non-zero id needs exactly one segment.'
    )
  for segment in segments:
    if not 1 <= segment.category <= num_classes:
      raise ValueError(
        f'{name}: segment {segment.id} has class {segment.category}, which is '
        f'not in 1..{num_classes}.'
      )
