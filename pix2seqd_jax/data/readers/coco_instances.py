"""Data in COCO instances layout: a JSON of polygons or run lengths."""

import numpy as np

from pix2seqd_jax.data.formats.categories import read_json
from pix2seqd_jax.data.formats.decode import decode_image
from pix2seqd_jax.data.formats.faults import decoded, refuse
from pix2seqd_jax.data.formats.storage import Storage
from pix2seqd_jax.data.readers.instances_json import InstancesJson
from pix2seqd_jax.encoding import rle
from pix2seqd_jax.registry import DATASETS
from pix2seqd_jax.types import Segment

_LOOKED_FOR = 100


@DATASETS.register('coco_instances')
class CocoInstances:
  """Images with instances; a `types.Source` of things alone.

  A segmentation is a list of polygons, or run lengths, plain or compressed;
  they become pixels as pycocotools makes them. Instances may overlap, ids may
  not: crowds are painted first, then instances from the largest to the
  smallest, so that small ones stay on top; of equals the later one. Instances
  without a pixel left are passed over, and the rest is numbered 1..n in the
  order of the JSON. All else is void. Images without annotation are kept.
  Examples also have `image_id`.

  Args:
    images: folder of images; a zip archive, or a folder in one, will do.
    annotations: the JSON file, likewise.
    max_examples: the first so many images only; None for all.
    exif: whether to turn images as their EXIF orientation says; False where
      the instances were drawn on the unturned images.
    follow_links: allow symbolic links out of the folder.

  Raises:
    ValueError: here, for a broken JSON or a name that leaves its folder; when
      an example is read, for a bad file, an image of another size than the
      JSON says, or a segmentation that cannot be drawn.
  """

  def __init__(
    self,
    images,
    annotations,
    *,
    max_examples=None,
    exif=True,
    follow_links=False,
  ):
    self._open(refuse, images, annotations, max_examples, exif, follow_links)
    names = self._json.images[:_LOOKED_FOR]
    if not any(self._images.has(name, self.annotations) for name in names):
      label = self._images.label(names[0])
      refuse(
        'missing_file',
        label,
        f'{label}, named by {annotations}, does not exist, nor do others; '
        'check data.images.',
      )

  @classmethod
  def examine(
    cls,
    report,
    images,
    annotations,
    *,
    max_examples=None,
    exif=True,
    follow_links=False,
  ):
    """Like the constructor, but goes on after a fault that it reports."""
    self = cls.__new__(cls)
    self._open(report, images, annotations, max_examples, exif, follow_links)
    return self

  def _open(
    self, report, images, annotations, max_examples, exif, follow_links
  ):
    if max_examples is not None and max_examples < 1:
      refuse(
        'bad_argument',
        'data.max_examples',
        f'data.max_examples={max_examples} must be at least 1, or None for '
        'all.',
      )
    self.annotations, self.exif = str(annotations), exif
    self._json = InstancesJson(
      read_json(self.annotations),
      self.annotations,
      report,
      max_examples=max_examples,
    )
    self.categories = self._json.categories
    self._images = Storage(images, follow_links=follow_links, key='images')

  def __len__(self):
    return len(self._json.images)

  def __getitem__(self, index):
    index = int(index)
    if not 0 <= index < len(self):
      raise IndexError(f'image {index} of {len(self)}')
    image = self._image(index)
    self._check_size(index, image, refuse)
    size = image.shape[:2]
    shapes, numbers = self._json.shapes, self._numbers(index)
    counts = [shapes.counts(i, size, self.annotations) for i in numbers]
    ids, shown = _painted(counts, shapes.crowd[numbers], size)
    segments = tuple(
      Segment(
        name,
        int(shapes.classes[i]),
        bool(shapes.crowd[i]),
        None if np.isnan(shapes.score[i]) else float(shapes.score[i]),
      )
      for name, i in enumerate(np.array(numbers, int)[shown], 1)
    )
    return {
      'image': image,
      'ids': ids,
      'segments': segments,
      'index': index,
      'file': self._json.images[index],
      'image_id': self._json.image_ids[index],
    }

  def file_name(self, index):
    """The image's name, where the example itself cannot be read."""
    return self._json.images[index]

  def original(self, index):
    """The bytes of the image's file; see `panoptic_record.pack`."""
    return {'image': self._images.read(self._json.images[index])}

  def check(self, index, report):
    """Reports every fault of an example; see `faults.Faults`."""
    label = self._images.label(self._json.images[index])
    image = report.catch(
      self._image, index, rule='unreadable_image', file=label
    )
    if image is None:
      return
    self._check_size(index, image, report)
    for i in self._numbers(index):
      report.catch(
        self._json.shapes.counts,
        i,
        image.shape[:2],
        self.annotations,
        rule='bad_segmentation',
        file=self.annotations,
      )

  def _numbers(self, index):
    return range(*self._json.starts[index : index + 2].tolist())

  def _image(self, index):
    name = self._json.images[index]
    data = self._images.read(name, self.annotations)
    label = self._images.label(name)
    return decoded(
      'unreadable_image', decode_image, data, label, exif=self.exif
    )

  def _check_size(self, index, image, report):
    size = self._json.sizes.get(self._json.image_ids[index])
    if size is None or size == image.shape[:2]:
      return
    turned = size[::-1] == image.shape[:2] and self.exif
    hint = 'Were they drawn on the unturned image? Set data.exif=False.'
    label = self._images.label(self._json.images[index])
    report(
      'size_in_json',
      label,
      f'{label} is {image.shape[0]} x {image.shape[1]} but the instances of '
      f'{self.annotations} are on {size[0]} x {size[1]} (height x width). '
      f'{hint if turned else ""}'.rstrip(),
    )


def _painted(counts, crowd, size):
  """(ids int32 [h, w], which of the instances are left, in order)."""
  areas = np.array([rle.area(part) for part in counts], np.int64)
  columns = np.zeros(size[0] * size[1], np.int32)
  for i in np.lexsort((-areas, ~np.asarray(crowd, bool))).tolist():
    rle.paint(columns, counts[i], i + 1)
  left = np.bincount(columns, minlength=len(counts) + 1)[1:] > 0
  names = np.concatenate([[0], np.cumsum(left)]).astype(np.int32)
  ids = np.take(names, columns.reshape(size[::-1]).T)
  return np.ascontiguousarray(ids), np.flatnonzero(left)
