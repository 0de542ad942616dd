"""Images and label maps in two folders: CamVid, Cityscapes, ADE20K, ..."""

import os
import pathlib

import numpy as np

from pix2seqd_jax.data.formats.decode import decode_image, decode_label_map
from pix2seqd_jax.data.formats.faults import decoded, refuse
from pix2seqd_jax.data.formats.files import SUFFIXES
from pix2seqd_jax.data.formats.storage import Storage
from pix2seqd_jax.data.readers.layouts import LAYOUTS, Layout, table
from pix2seqd_jax.registry import DATASETS, did_you_mean
from pix2seqd_jax.types import Segment

_LARGEST = 1 << 16


@DATASETS.register('semantic_folder')
class SemanticFolder:
  """Images with maps of classes; a `types.Source` of stuff alone.

  An image and its label map have the same path below their folders, but for
  the ending. An example has one segment for each class that it shows, whose
  id is the number of the class.

  Args:
    images: folder of images, with any folders in it; a zip archive, or a
      folder in one, will do.
    labels: folder of label maps (one channel, a number a pixel), likewise.
    layout: 'camvid', 'cityscapes' (labelIds), 'cityscapes_train_ids',
      'coco_stuff' (pixel maps 0..181), 'coco_stuff_171', 'ade20k', 'celeb'
      (merged masks 0..18); or 'plain', which the next three describe.
    classes: 'plain': the names of the classes, in the order of their numbers.
    first: 'plain': the number of the first class in the files.
    void: 'plain': numbers in the files that are no class.
    image_ending, label_ending: of file names, where the layout's are not so.
    names: a text file that names the images to take, one a line, without
      their endings; they come in its order. None takes all, by name.
    max_examples: the first so many only; None for all.
    exif: whether to turn images as their EXIF orientation says.
    follow_links: allow symbolic links out of the two folders.

  Raises:
    ValueError: here, for wrong arguments and where nothing fits together; when
      an example is read, for a bad file or a number that is no class.
  """

  def __init__(
    self,
    images,
    labels,
    *,
    layout: str = 'plain',
    classes: tuple[str, ...] = (),
    first: int = 0,
    void: tuple[int, ...] = (255,),
    image_ending: str | None = None,
    label_ending: str | None = None,
    names: str | os.PathLike | None = None,
    max_examples: int | None = None,
    exif: bool = True,
    follow_links: bool = False,
  ):
    chosen = _layout(layout, classes, first, void)
    if image_ending is not None:
      chosen = chosen._replace(image_ending=image_ending)
    if label_ending is not None:
      chosen = chosen._replace(label_ending=label_ending)
    if max_examples is not None and max_examples < 1:
      _bad(f'max_examples={max_examples} must be at least 1, or None for all.')
    self.categories, self.layout, self.exif = chosen.categories, layout, exif
    self._images = Storage(images, follow_links=follow_links, key='images')
    self._labels = Storage(labels, follow_links=follow_links, key='labels')
    self._numbers = np.full(_LARGEST, -1, np.int32)
    for value, number in chosen.values.items():
      self._numbers[value] = number
    found = _images(self._images.names(), chosen)
    if names is not None and found:
      found = _listed(found, names, chosen.label_ending)
    self._names = found[:max_examples]
    takes_all = max_examples is None and names is None
    self._unused = takes_all and sorted(
      {n for n in self._labels.names() if n.endswith(chosen.label_ending)}
      - {label for _, label in found}
    )
    if not self._names:
      refuse(
        'missing_file',
        images,
        f'data.images={images} has no images, looked for '
        f'*{chosen.image_ending or ", *".join(SUFFIXES)}; check data.layout='
        f'{layout!r} and data.image_ending.',
      )
    if not any(self._labels.has(label) for _, label in self._names):
      refuse(
        'no_label',
        labels,
        f'data.labels={labels} has no label map for any image of '
        f'data.images={images}; {self._names[0][0]} wants '
        f'{self._names[0][1]}. Check data.layout and data.label_ending.',
      )

  @classmethod
  def examine(cls, report, **kwargs):
    """The constructor, with a word on label maps that no image has."""
    source = cls(**kwargs)
    if source._unused:
      label = source._labels.label(source._unused[0])
      report.warn(
        'no_image',
        label,
        f'{len(source._unused)} label maps have no image and are not used: '
        f'{label}{", ..." if len(source._unused) > 1 else ""}.',
      )
    return source

  def __len__(self):
    return len(self._names)

  def __getitem__(self, index):
    index = int(index)
    if not 0 <= index < len(self):
      raise IndexError(f'image {index} of {len(self)}')
    image, values = self._image(index), self._map(index)
    self._check_sizes(index, image, values, refuse)
    ids = self._classes(index, values, refuse)
    present = np.flatnonzero(np.bincount(ids.ravel()))
    return {
      'image': image,
      'ids': ids,
      'segments': tuple(Segment(int(c), int(c)) for c in present if c),
      'index': index,
      'file': self._names[index][0],
    }

  def original(self, index):
    """The bytes of the image's file; see `panoptic_record.pack`."""
    return {'image': self._images.read(self._names[index][0])}

  def file_name(self, index):
    """The image's name, where the example itself cannot be read."""
    return self._names[index][0]

  def check(self, index, report):
    """Reports every fault of the files of an example; see `faults.Faults`."""
    name, label = self._names[index]
    image = report.catch(
      self._image,
      index,
      rule='unreadable_image',
      file=self._images.label(name),
    )
    values = report.catch(
      self._map, index, rule='unreadable_map', file=self._labels.label(label)
    )
    if image is not None and values is not None:
      self._check_sizes(index, image, values, report)
    if values is not None:
      self._classes(index, values, report)

  def _image(self, index):
    name, _ = self._names[index]
    label = self._images.label(name)
    data = self._images.read(name)
    return decoded(
      'unreadable_image', decode_image, data, label, exif=self.exif
    )

  def _map(self, index):
    name, label = self._names[index]
    path = self._labels.label(label)
    if not self._labels.has(label):
      image = self._images.label(name)
      refuse('no_label', image, f'{image} has no label map {path}.')
    data = self._labels.read(label)
    return decoded('unreadable_map', decode_label_map, data, path)

  def _check_sizes(self, index, image, values, report):
    if image.shape[:2] != values.shape:
      name, label = self._names[index]
      file, path = self._images.label(name), self._labels.label(label)
      report(
        'sizes_differ',
        file,
        f'{file} is {image.shape[0]} x {image.shape[1]} but {path} is '
        f'{values.shape[0]} x {values.shape[1]}; they must be equal (height x '
        'width).',
      )

  def _classes(self, index, values, report):
    """Numbers of the file -> classes, 0 = void; those that are none too."""
    # Modes of 32 bits hold any number: what is too large is no class either.
    ids = self._numbers[np.clip(values, 0, _LARGEST - 1)]
    ids[(values < 0) | (values >= _LARGEST)] = -1
    if ids.min() < 0:
      wrong = np.unique(values[ids < 0])
      path = self._labels.label(self._names[index][1])
      some = ', '.join(str(int(v)) for v in wrong[:5])
      report(
        'class_out_of_range',
        path,
        f'{path} has the values {some}{", ..." if len(wrong) > 5 else ""}, '
        f'which are no class and no void of data.layout={self.layout!r} '
        f'({len(self.categories)} classes).',
      )
      ids = np.maximum(ids, 0)
    return ids


def numbers(layout='plain', classes=(), first=0, void=(255,), **others):
  """{number in the files: class 1..C, or 0 for void}, of a source's arguments.

  Args:
    layout, classes, first, void: as of SemanticFolder.
    **others: its other arguments, which change no number.
  """
  del others
  return dict(_layout(layout, classes, first, void).values)


def categories(layout='plain', classes=(), first=0, void=(255,), **others):
  """The classes of a source's arguments; no folder is looked at."""
  del others
  return tuple(_layout(layout, classes, first, void).categories)


def _layout(layout, classes, first, void):
  if layout == 'plain':
    names = list(classes)
    if not names:
      _bad("layout='plain' needs classes, the names in order of their numbers.")
    numbers = range(first, first + len(names))
    for value in (first, *void):
      if type(value) is not int or not 0 <= value < _LARGEST - len(names):
        _bad(f'first={first} and void={void} must be numbers in 0..65535.')
    both = set(void) & set(numbers)
    if both:
      _bad(f'void={void} and first={first}: {sorted(both)} are classes.')
    return Layout(*table(zip(numbers, names, strict=True), void))
  if layout not in LAYOUTS:
    known = ('plain', *LAYOUTS)
    _bad(
      f'layout={layout!r} is unknown.{did_you_mean(layout, known)} Known: '
      f'{", ".join(known)}.'
    )
  if classes or first or tuple(void) != (255,):
    _bad(f"layout={layout!r} has its own classes, first and void; use 'plain'.")
  return LAYOUTS[layout]


def _bad(what):
  refuse('bad_argument', 'data.source', f'data.{what}')


def _images(names, layout):
  """[(image, its label map)], in order."""
  found = []
  for name in names:
    if layout.image_ending:
      if name.endswith(layout.image_ending):
        stem = name.removesuffix(layout.image_ending)
        found.append((name, stem + layout.label_ending))
    elif name.lower().endswith(SUFFIXES):
      stem = name.rpartition('.')[0]
      if layout.label_ending == '.png' or not name.endswith(
        layout.label_ending
      ):
        found.append((name, stem + layout.label_ending))
  return found


def _listed(found, path, label_ending):
  """The images that a text file names, in its order."""
  try:
    lines = pathlib.Path(path).read_text(encoding='utf-8').split('\n')
  except (OSError, UnicodeDecodeError) as error:
    where = str(path)
    refuse('missing_file', where, f'data.names={path} cannot be read: {error}.')
  expected = [line.strip() for line in lines if line.strip()]
  # An image is called as its label map is, which has one ending.
  known = {
    label.removesuffix(label_ending): both
    for both in found
    for label in both[1:]
  }
  missing = [name for name in expected if name not in known]
  if missing or not expected:
    some = f', such as {missing[0]!r}' if missing else ''
    refuse(
      'missing_file',
      str(path),
      f'data.names={path} names {len(expected)} images, of which '
      f'{len(missing)} are not there{some}; a line is a path below data.images '
      f'without its ending, like {min(known)!r}.',
    )
  return [known[name] for name in expected]
