"""The JSON of COCO's panoptic form, checked entry by entry."""

from typing import NamedTuple

import numpy as np

from pix2seqd_jax.data.formats.categories import categories_from_json, short
from pix2seqd_jax.data.formats.faults import DataError, refuse
from pix2seqd_jax.data.formats.files import check_relative

_LARGEST_SCORE = 1e9


class Table(NamedTuple):
  """The annotations of all images, flat: COCO has 1.3 million segments."""

  images: list[str]  # file names
  maps: list[str]
  image_ids: list
  starts: np.ndarray  # [images + 1], into the following
  ids: np.ndarray  # int32, as in the PNG
  classes: np.ndarray  # int32, 1..num_classes
  crowd: np.ndarray  # bool
  score: np.ndarray  # float64, NaN where there is none


class _Columns:
  """What becomes a Table, annotation by annotation."""

  def __init__(self):
    self.images, self.maps, self.image_ids = [], [], []
    self.starts, self.ids, self.classes = [0], [], []
    self.crowd, self.score = [], []

  def table(self):
    return Table(
      self.images,
      self.maps,
      self.image_ids,
      np.array(self.starts),
      np.array(self.ids, np.int32),
      np.array(self.classes, np.int32),
      np.array(self.crowd, bool),
      np.array(self.score, np.float64),
    )


class PanopticJson:
  """Images, annotations and categories, as a flat table.

  Args:
    data: what was read from the file.
    where: the file, for messages.
    report: see `faults`.
    max_examples: annotations that are looked at; None for all.
    details: keep what only `validate` needs: sizes and areas.

  Attributes:
    categories: the classes.
    table: the annotations.
    sizes: {image id: (height, width)}, those that the JSON gives.
    areas: of each segment of the table, None where there is none.

  Raises:
    ValueError: a list is missing, or `report` does.
  """

  def __init__(self, data, where, report, *, max_examples=None, details=False):
    self.where, self.report, self.details = where, report, details
    self.sizes, self.areas = {}, []
    for key in ('images', 'annotations', 'categories'):
      if not isinstance(data, dict) or not isinstance(data.get(key), list):
        refuse(
          'bad_entry',
          where,
          f'{where} has no list {key!r}; a COCO panoptic JSON has images, '
          'annotations and categories.',
        )
    self.categories, self._classes = self.read_categories(data['categories'])
    names = self._read_images(data['images'])
    chosen = data['annotations'][:max_examples]
    self.table = self._read_annotations(chosen, names)
    if not self.table.images:
      refuse('bad_entry', where, f'{where} has no annotations.')
    without = set(names).difference(self.table.image_ids)
    if without and max_examples is None:
      report.warn(
        'no_label',
        where,
        f'{where}: {len(without)} of {len(names)} images have no annotation '
        'and are not used.',
      )

  # What a data set of the same form may do in another way.

  def read_categories(self, entries):
    """(the classes, {category id: number of the class})."""
    where = f'{self.where}: categories'
    categories = categories_from_json(entries, where, self.report)
    return categories, {c.id: i for i, c in enumerate(categories, 1)}

  def image_name(self, name):
    """The image's name below `images`, from the JSON's."""
    return name

  def check_segment(self, where, number, category):
    """Called with each segment's id and category id."""

  def _read_images(self, entries):
    """{image id: file name}; their sizes go to `sizes`."""
    where, report, names, files = self.where, self.report, {}, set()
    for i, entry in enumerate(entries):
      problem = lacks(entry, {'id': (int, str), 'file_name': str})
      if problem:
        report('bad_entry', where, f'{where}: images[{i}] {problem}')
        continue
      key, name = entry['id'], self.image_name(entry['file_name'])
      if key in names:
        report(
          'duplicate_image',
          where,
          f'{where}: two images have the same id, {key!r}.',
        )
        continue
      if name in files:
        report.warn(
          'duplicate_file', where, f'{where}: two images are called {name!r}.'
        )
      check_name(name, where, report)
      names[key] = name
      files.add(name)
      size = entry.get('height'), entry.get('width')
      if self.details and all(type(side) is int for side in size):
        self.sizes[key] = size
    return names

  def _read_annotations(self, annotations, names):
    where, report, columns = self.where, self.report, _Columns()
    seen, files = set(), set()
    kinds = {'image_id': (int, str), 'file_name': str, 'segments_info': list}
    for i, annotation in enumerate(annotations):
      problem = lacks(annotation, kinds)
      if problem:
        report('bad_entry', where, f'{where}: annotations[{i}] {problem}')
        continue
      key, name = annotation['image_id'], annotation['file_name']
      if key not in names:
        report(
          'unknown_image',
          where,
          f'{where}: the annotation of image_id={key!r} has no entry in '
          'images.',
        )
        continue
      if key in seen:
        report(
          'duplicate_annotation',
          where,
          f'{where}: two annotations have the same image_id, {key!r}.',
        )
        continue
      if name in files:
        report.warn(
          'duplicate_file', where, f'{where}: two annotations name {name!r}.'
        )
      seen.add(key)
      files.add(name)
      check_name(name, where, report)
      self._read_segments(annotation, columns)
      columns.images.append(names[key])
      columns.maps.append(name)
      columns.image_ids.append(key)
      columns.starts.append(len(columns.ids))
    return columns.table()

  def _read_segments(self, annotation, columns):
    where, report = f'{self.where}: {annotation["file_name"]}', self.report
    known, classes = set(), self._classes
    for info in annotation['segments_info']:
      problem = _segment_problem(info)
      if problem:
        report('bad_entry', self.where, f'{where}: a segment {problem}')
        continue
      number, category = info['id'], info['category_id']
      if not 0 < number < 1 << 24:
        report(
          'bad_segment_id',
          self.where,
          f'{where}: ids must lie in 1..2^24 - 1 (0 is void), not {number}.',
        )
        continue
      if number in known:
        report(
          'duplicate_segment',
          self.where,
          f'{where}: two segments have the same id, {number}.',
        )
        continue
      known.add(number)
      if category not in classes:
        report(
          'unknown_category',
          self.where,
          f'{where} has a segment of category {category}, which is not among '
          'the categories; add it there.',
        )
      self.check_segment(where, number, category)
      score = info.get('score')
      columns.ids.append(number)
      columns.classes.append(classes.get(category, 0))
      columns.crowd.append(bool(info.get('iscrowd', 0)))
      columns.score.append(np.nan if score is None else score)
      if self.details:
        area = info.get('area')
        self.areas.append(area if type(area) is int else None)


def _segment_problem(info):
  problem = lacks(info, {'id': int, 'category_id': int})
  if problem:
    return problem
  score, crowd = info.get('score'), info.get('iscrowd', 0)
  # NaN passes: it is how Python writes a score that is not known.
  if score is not None and not (
    type(score) in (int, float) and not abs(score) > _LARGEST_SCORE
  ):
    return f'has a value of the wrong kind: score={short(score)}.'
  if type(crowd) not in (int, bool) or crowd not in (0, 1):
    return f'has a value of the wrong kind: iscrowd={short(crowd)}.'
  return ''


def lacks(entry, kinds):
  """What is wrong with an entry of a JSON that needs `kinds`; '' if nothing."""
  if type(entry) is not dict:
    return f'is {short(entry)}, not an object.'
  for key, kind in kinds.items():
    value = entry.get(key)
    if not isinstance(value, kind) or value is True or value is False:
      if key not in entry:
        return f'lacks {key!r}.'
      return f'has a value of the wrong kind: {key}={short(value)}.'
  return ''


def check_name(name, where, report):
  try:
    check_relative(name, where)
  except DataError as error:
    report(*error.fault[:3])
