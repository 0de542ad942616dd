"""Data in COCO panoptic layout: COCO 2017, and anyone's files of that form.

A folder of images, a folder of PNGs (id = R + 256 G + 65536 B) and a JSON
whose annotations name every id (arXiv 1801.00868; cocodataset.org/#format-data
describes the format).
"""

import numpy as np

from pix2seqd_jax.data.formats.categories import read_json
from pix2seqd_jax.data.formats.decode import decode_image, decode_panoptic_png
from pix2seqd_jax.data.formats.faults import DataError, decoded, refuse
from pix2seqd_jax.data.formats.storage import Storage
from pix2seqd_jax.data.readers.panoptic_json import PanopticJson
from pix2seqd_jax.encoding.panoptic_ids import run_starts
from pix2seqd_jax.registry import DATASETS
from pix2seqd_jax.types import Segment

_LOOKED_FOR = 100


@DATASETS.register('coco_panoptic')
class CocoPanoptic:
  """Images with panoptic maps; a `types.Source`.

  Only the JSON is read at construction (and it is seen whether any of the
  first files is there). Class c is the c-th of the JSON's categories; the ids
  of an image are renumbered 1..n in the order of its annotation. Crowd
  segments are kept with `is_crowd=True`. Examples also have `image_id`.

  Args:
    images: folder of images; a zip archive, or a folder in one, will do.
    panoptic: folder of PNGs, likewise.
    annotations: the JSON file, likewise.
    max_examples: the first so many only; None for all.
    exif: whether to turn images as their EXIF orientation says; False where
      the maps were drawn on the unturned images.
    follow_links: allow symbolic links out of the two folders.

  Raises:
    ValueError: here, for a broken JSON or a name that leaves its folder; when
      an example is read, for a bad file, or a map that its JSON contradicts.
  """

  form = PanopticJson  # what reads the JSON

  def __init__(
    self,
    images,
    panoptic,
    annotations,
    *,
    max_examples: int | None = None,
    exif: bool = True,
    follow_links: bool = False,
  ):
    self._open(
      refuse,
      images,
      panoptic,
      annotations,
      max_examples=max_examples,
      exif=exif,
      follow_links=follow_links,
    )
    # One missing file is an example's fault, many are the folder's.
    for storage, names in (
      (self._images, self._table.images[:_LOOKED_FOR]),
      (self._maps, self._table.maps[:_LOOKED_FOR]),
    ):
      if not any(storage.has(name, self.annotations) for name in names):
        label = storage.label(names[0])
        refuse(
          'missing_file',
          label,
          f'{label}, named by {annotations}, does not exist, nor do others; '
          'check data.images and data.panoptic.',
        )

  @classmethod
  def examine(cls, report, **kwargs):
    """Like the constructor, but goes on after a fault that it reports.

    Returns:
      A source of what is sound, for `check`.

    Raises:
      ValueError: nothing can be read at all.
    """
    self = cls.__new__(cls)
    self._open(report, **kwargs)
    return self

  def _open(
    self,
    report,
    images,
    panoptic,
    annotations,
    *,
    max_examples: int | None = None,
    exif: bool = True,
    follow_links: bool = False,
  ):
    if max_examples is not None and max_examples < 1:
      refuse(
        'bad_argument',
        'data.max_examples',
        f'data.max_examples={max_examples} must be at least 1, or None for '
        'all.',
      )
    self.annotations, self.exif = str(annotations), exif
    stores, lacking = {}, None
    for key, place in (('images', images), ('panoptic', panoptic)):
      try:
        stores[key] = Storage(place, follow_links=follow_links, key=key)
      except DataError as error:
        report(*error.fault[:3])
        lacking = error
    read = self.form(
      read_json(self.annotations),
      self.annotations,
      report,
      max_examples=max_examples,
      details=report is not refuse,
    )
    self.categories, self._table = read.categories, read.table
    self._sizes, self._areas = read.sizes, read.areas
    if lacking is not None:
      raise lacking
    self._images, self._maps = stores['images'], stores['panoptic']

  def __len__(self):
    return len(self._table.images)

  def __getitem__(self, index):
    index = int(index)
    if not 0 <= index < len(self):
      raise IndexError(f'image {index} of {len(self)}')
    image, raw = self._image(index), self._map(index)
    self._check_sizes(index, image, raw, refuse)
    part = slice(*self._table.starts[index : index + 2])
    ids = self._renumber(index, raw, refuse)
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

  def file_name(self, index):
    """The image's name, where the example itself cannot be read."""
    return self._table.images[index]

  def original(self, index):
    """The bytes of the files of an example; see `panoptic_record.pack`."""
    image, map_file = self._table.images[index], self._table.maps[index]
    return {
      'image': self._images.read(image, self.annotations),
      'map': self._maps.read(map_file, self.annotations),
      'map_file': map_file,
    }

  def check(self, index, report):
    """Reports every fault of the files of an example; see `faults.Faults`."""
    table = self._table
    image = report.catch(
      self._image,
      index,
      rule='unreadable_image',
      file=self._images.label(table.images[index]),
    )
    label = self._maps.label(table.maps[index])
    raw = report.catch(self._map, index, rule='unreadable_map', file=label)
    if image is not None and raw is not None:
      self._check_sizes(index, image, raw, report)
    size = self._sizes.get(table.image_ids[index])
    found = raw if raw is not None else image
    if found is not None and size is not None and found.shape[:2] != size:
      name = self._images.label(table.images[index])
      report(
        'size_in_json',
        name,
        f'{name} or its map is {found.shape[0]} x {found.shape[1]} but '
        f'{self.annotations} says {size[0]} x {size[1]} (height x width).',
      )
    if raw is not None:
      ids = self._renumber(index, raw, report)
      self._check_areas(index, ids, label, report)

  def _check_areas(self, index, ids, label, report):
    """What the JSON says of areas; nothing that a reader uses."""
    start, end = self._table.starts[index : index + 2]
    areas = self._areas[start:end]
    pixels = np.bincount(ids.ravel(), minlength=end - start + 1)[1:]
    pixels = pixels.tolist()
    wrong = [i for i, area in enumerate(areas) if area not in (None, pixels[i])]
    if not wrong:
      return
    what = f'{label}: {self.annotations} gives segment '
    first = wrong[0]
    report.warn(
      'area_in_json',
      label,
      f'{what}{self._table.ids[start + first]} the area {areas[first]}, it has '
      f'{pixels[first]} pixels ({len(wrong)} such segments).',
    )
    if sum(area or 0 for area in areas) > ids.size:
      report(
        'overlap',
        label,
        f'{label}: by {self.annotations} its segments have '
        f'{sum(area or 0 for area in areas)} pixels of {ids.size}.',
      )

  def _image(self, index):
    name = self._table.images[index]
    data = self._images.read(name, self.annotations)
    label = self._images.label(name)
    return decoded(
      'unreadable_image', decode_image, data, label, exif=self.exif
    )

  def _map(self, index):
    name = self._table.maps[index]
    data = self._maps.read(name, self.annotations)
    label = self._maps.label(name)
    return decoded('unreadable_map', decode_panoptic_png, data, label)

  def _check_sizes(self, index, image, raw, report):
    if image.shape[:2] == raw.shape:
      return
    turned = image.shape[1::-1] == raw.shape and self.exif
    hint = 'Was the map drawn on the unturned image? Set data.exif=False.'
    file = self._images.label(self._table.images[index])
    report(
      'sizes_differ',
      file,
      f'{file} is {image.shape[0]} x {image.shape[1]} but '
      f'{self._maps.label(self._table.maps[index])} is {raw.shape[0]} x '
      f'{raw.shape[1]}; they must be equal (height x width). '
      f'{hint if turned else ""}'.rstrip(),
    )

  def _renumber(self, index, raw, report):
    """Ids of the PNG -> 1..n in the order of the JSON; checks both ways."""
    label = self._maps.label(self._table.maps[index])
    known = self._table.ids[slice(*self._table.starts[index : index + 2])]
    flat = raw.ravel()
    # Maps are runs of equal pixels: only the runs are sorted.
    begins = run_starts(flat)
    present, which = np.unique(flat[begins], return_inverse=True)
    order = np.argsort(known)
    found = np.searchsorted(known, present, sorter=order)
    is_known = np.zeros(len(present), bool)
    inside = found < len(known)
    is_known[inside] = known[order[found[inside]]] == present[inside]
    strange = present[~is_known & (present != 0)]
    if len(strange):
      report(
        'id_not_in_json',
        label,
        f'{label} has the ids {_few(strange)}, which {self.annotations} does '
        'not name; every non-zero id needs an entry in segments_info.',
      )
    missing = np.setdiff1d(known, present)
    if len(missing):
      report(
        'id_not_in_map',
        label,
        f'{self.annotations} names the ids {_few(missing)}, of which {label} '
        'has no pixel; remove them from segments_info.',
      )
    numbers = np.zeros(len(present), np.int32)
    numbers[is_known] = order[found[is_known]] + 1
    lengths = np.diff(begins, append=flat.size)
    return np.repeat(numbers[which], lengths).reshape(raw.shape)


def _few(ids):
  text = ', '.join(str(int(i)) for i in ids[:5])
  return text + (f', ... ({len(ids)} in all)' if len(ids) > 5 else '')
