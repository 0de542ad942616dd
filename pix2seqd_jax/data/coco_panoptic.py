"""Data in COCO panoptic layout: COCO 2017, and anyone's files of that form.

A folder of pictures, a folder of PNGs (id = R + 256 G + 65536 B) and a JSON
whose annotations name every id (arXiv 1801.00868; cocodataset.org/#format-data
describes the format).
"""

import pathlib
from typing import NamedTuple

import numpy as np

from pix2seqd_jax.data.categories import categories_from_json, read_json
from pix2seqd_jax.data.files import (
  check_relative,
  read_image,
  read_panoptic_png,
  safe_join,
)
from pix2seqd_jax.registry import DATASETS
from pix2seqd_jax.types import Segment


class _Table(NamedTuple):
  """The annotations of all pictures, flat: COCO has 1.3 million segments."""

  images: list[str]  # file names
  maps: list[str]
  image_ids: list
  starts: np.ndarray  # [pictures + 1], into the following
  ids: np.ndarray  # int32, as in the PNG
  classes: np.ndarray  # int32, 1..num_classes
  crowd: np.ndarray  # bool
  score: np.ndarray  # float64, NaN where there is none


@DATASETS.register('coco_panoptic')
class CocoPanoptic:
  """Pictures with panoptic maps; a `types.Source`.

  Only the JSON is read at construction (and the first picture and map are
  looked for). Class c is the c-th of the JSON's categories; the ids of a
  picture are renumbered 1..n in the order of its annotation. Crowd segments
  are kept with `is_crowd=True`. Examples also have `image_id`.

  Args:
    images: folder of pictures.
    panoptic: folder of PNGs.
    annotations: the JSON file.
    max_examples: the first so many only; None for all.
    exif: whether to turn pictures as their EXIF orientation says; False where
      the maps were drawn on the unturned pictures.
    follow_links: allow symbolic links out of the two folders.

  Raises:
    ValueError: here, for a broken JSON or a name that leaves its folder; when
      an example is read, for a bad file, or a map that its JSON contradicts.
  """

  def __init__(
    self,
    images,
    panoptic,
    annotations,
    *,
    max_examples=None,
    exif=True,
    follow_links=False,
  ):
    self.images, self.panoptic = pathlib.Path(images), pathlib.Path(panoptic)
    self.annotations = pathlib.Path(annotations)
    self.exif, self.follow_links = exif, follow_links
    if max_examples is not None and max_examples < 1:
      raise ValueError(
        f'data.max_examples={max_examples} must be at least 1, or None for all.'
      )
    for key, folder in (('images', images), ('panoptic', panoptic)):
      if not pathlib.Path(folder).is_dir():
        raise ValueError(f'data.{key}={folder} is not a folder.')
    data = read_json(self.annotations)
    for key in ('images', 'annotations', 'categories'):
      if not isinstance(data, dict) or not isinstance(data.get(key), list):
        raise ValueError(
          f'{self.annotations} has no list {key!r}; a COCO panoptic JSON has '
          'images, annotations and categories.'
        )
    self.categories = categories_from_json(
      data['categories'], f'{self.annotations}: categories'
    )
    chosen = data['annotations'][:max_examples]
    if not chosen:
      raise ValueError(f'{self.annotations} has no annotations.')
    try:
      self._table = self._read(data['images'], chosen)
    except (KeyError, TypeError) as error:
      raise ValueError(
        f'{self.annotations}: an entry lacks a key, or has a value of the '
        f'wrong kind: {error!r}.'
      ) from error
    for path in self._paths(0):
      if not path.is_file():
        raise ValueError(
          f'{path}, named by {self.annotations}, does not exist; check '
          'data.images and data.panoptic.'
        )

  def __len__(self):
    return len(self._table.images)

  def __getitem__(self, index):
    index = int(index)
    if not 0 <= index < len(self):
      raise IndexError(f'picture {index} of {len(self)}')
    image_path, map_path = self._paths(index)
    image = read_image(image_path, exif=self.exif)
    raw = read_panoptic_png(map_path)
    if image.shape[:2] != raw.shape:
      turned = image.shape[1::-1] == raw.shape and self.exif
      hint = 'Was the map drawn on the unturned picture? Set data.exif=False.'
      raise ValueError(
        f'{image_path} is {image.shape[0]} x {image.shape[1]} but {map_path} '
        f'is {raw.shape[0]} x {raw.shape[1]}; they must be equal (height x '
        f'width). {hint if turned else ""}'.rstrip()
      )
    part = slice(*self._table.starts[index : index + 2])
    ids = self._renumber(raw, self._table.ids[part], map_path)
    segments = tuple(
      Segment(i + 1, int(c), bool(crowd), None if np.isnan(s) else float(s))
      for i, (c, crowd, s) in enumerate(
        zip(
          self._table.classes[part],
          self._table.crowd[part],
          self._table.score[part],
        )
      )
    )
    return {
      'image': image,
      'ids': ids,
      'segments': segments,
      'index': index,
      'file': self._table.images[index],
      'image_id': self._table.image_ids[index],
    }

  def _paths(self, index):
    return (
      safe_join(folder, name, where=where, follow_links=self.follow_links)
      for folder, name, where in (
        (self.images, self._table.images[index], str(self.annotations)),
        (self.panoptic, self._table.maps[index], str(self.annotations)),
      )
    )

  def _read(self, images, annotations):
    where = str(self.annotations)
    names = {image['id']: image['file_name'] for image in images}
    if len(names) != len(images):
      raise ValueError(f'{where}: two images have the same id.')
    classes = {c.id: i + 1 for i, c in enumerate(self.categories)}
    columns = ([], [], [])
    image_ids, maps, starts, rows = [], [], [0], []
    for annotation in annotations:
      key = annotation['image_id']
      if key not in names:
        raise ValueError(
          f'{where}: the annotation of image_id={key} has no entry in images.'
        )
      image_ids.append(key)
      check_relative(names[key], where)
      maps.append(check_relative(annotation['file_name'], where))
      for info in annotation['segments_info']:
        if info['category_id'] not in classes:
          raise ValueError(
            f'{where}: {annotation["file_name"]} has a segment of category '
            f'{info["category_id"]}, which is not among the categories; add '
            'it there.'
          )
        rows.append(info['id'])
        columns[0].append(classes[info['category_id']])
        columns[1].append(bool(info.get('iscrowd', 0)))
        score = info.get('score')
        columns[2].append(np.nan if score is None else score)
      starts.append(len(rows))
      _check_ids(rows[starts[-2] :], f'{where}: {annotation["file_name"]}')
    if len(set(image_ids)) != len(image_ids):
      raise ValueError(f'{where}: two annotations have the same image_id.')
    return _Table(
      [names[key] for key in image_ids],
      maps,
      image_ids,
      np.array(starts),
      np.array(rows, np.int32),
      np.array(columns[0], np.int32),
      np.array(columns[1], bool),
      np.array(columns[2], np.float64),
    )

  def _renumber(self, raw, known, map_path):
    """Ids of the PNG -> 1..n in the order of `known`; checks both ways."""
    flat = raw.ravel()
    # Maps are runs of equal pixels: only the runs are sorted.
    begins = np.flatnonzero(np.diff(flat, prepend=flat[0] - 1))
    present, which = np.unique(flat[begins], return_inverse=True)
    order = np.argsort(known)
    found = np.searchsorted(known, present, sorter=order)
    is_known = np.zeros(len(present), bool)
    inside = found < len(known)
    is_known[inside] = known[order[found[inside]]] == present[inside]
    strange = present[~is_known & (present != 0)]
    if len(strange):
      raise ValueError(
        f'{map_path} has the ids {_few(strange)}, which {self.annotations} '
        'does not name; every non-zero id needs an entry in segments_info.'
      )
    missing = np.setdiff1d(known, present)
    if len(missing):
      raise ValueError(
        f'{self.annotations} names the ids {_few(missing)}, of which '
        f'{map_path} has no pixel; remove them from segments_info.'
      )
    numbers = np.zeros(len(present), np.int32)
    numbers[is_known] = order[found[is_known]] + 1
    lengths = np.diff(begins, append=flat.size)
    return np.repeat(numbers[which], lengths).reshape(raw.shape)


def _check_ids(ids, where):
  if len(set(ids)) != len(ids):
    raise ValueError(f'{where}: two segments have the same id.')
  if ids and not 0 < min(ids) <= max(ids) < 1 << 24:
    raise ValueError(
      f'{where}: ids must lie in 1..2^24 - 1 (0 is void), not {min(ids)}..'
      f'{max(ids)}.'
    )


def _few(ids):
  text = ', '.join(str(int(i)) for i in ids[:5])
  return text + (f', ... ({len(ids)} in all)' if len(ids) > 5 else '')
