"""Cityscapes with its official panoptic maps (cityscapes-dataset.com).

`leftImg8bit/train/aachen/aachen_000000_000019_leftImg8bit.png` and so on,
`gtFine/cityscapes_panoptic_train/` and `gtFine/cityscapes_panoptic_train.json`,
as the benchmark's own scripts write them from gtFine.
"""

import functools
import re

from pix2seqd_jax.data.formats.faults import refuse
from pix2seqd_jax.data.readers.coco_panoptic import CocoPanoptic
from pix2seqd_jax.data.readers.layouts import CITYSCAPES
from pix2seqd_jax.data.readers.panoptic_json import PanopticJson
from pix2seqd_jax.registry import DATASETS
from pix2seqd_jax.types import Category

COUNTS = {'train': 2975, 'val': 500, 'test': 1525}
_DIVISOR = 1000
_SPLIT = re.compile(rf'_({"|".join(COUNTS)})(_trainId)?\.json$')
_IMAGE = re.compile(r'^([^/_]+)(_[^/]*?)(_gtFine)?_leftImg8bit\.png$')


class CityscapesJson(PanopticJson):
  """COCO's form, with other names of images and ids that tell the class."""

  def __init__(self, data, where, report, *, count=None, **kwargs):
    super().__init__(data, where, report, **kwargs)
    found = len(data['annotations'])
    if count is not None and found != count:
      report(
        'wrong_count',
        where,
        f'{where} has {found} annotations; the official split has {count}. Set '
        'official=False for another or a part of it.',
      )

  def read_categories(self, entries):
    """The 19 classes in the order of their train ids, whatever the JSON's."""
    where = f'{self.where}: categories'
    given, _ = super().read_categories(entries)
    by_id = {category.id: category for category in given}
    numbers = (
      [label.label_id for label in CITYSCAPES],
      list(range(len(CITYSCAPES))),
    )
    for ids in numbers:
      if sorted(by_id) == sorted(ids):
        break
    else:
      refuse(
        'bad_category',
        where,
        f'{where} have the ids {sorted(by_id)}; Cityscapes evaluates 19 '
        f'classes, with the label ids {numbers[0]} or the train ids 0..18.',
      )
    for number, label in zip(ids, CITYSCAPES, strict=True):
      category = by_id[number]
      if (category.name, category.is_thing) != label[1:3]:
        self.report(
          'bad_category',
          where,
          f'{where}: {number} is {category.name!r}, isthing='
          f'{int(category.is_thing)}; in Cityscapes it is {label.name!r}, '
          f'isthing={int(label.is_thing)}.',
        )
    categories = tuple(
      Category(number, label.name, label.is_thing, label.color)
      for number, label in zip(ids, CITYSCAPES, strict=True)
    )
    return categories, {number: i for i, number in enumerate(ids, 1)}

  def image_name(self, name):
    """aachen_..._gtFine_leftImg8bit.png -> aachen/aachen_..._leftImg8bit.png.

    The JSON names a file that is nowhere; the images lie by city.
    """
    parts = _IMAGE.match(name)
    if parts is None:
      return name
    city, rest, _ = parts.groups()
    return f'{city}/{city}{rest}_leftImg8bit.png'

  def check_segment(self, where, number, category):
    """ids are the label's, or of things 1000 times it and a number."""
    index = self._classes.get(category)
    if index is None:  # which was reported
      return
    told = number // _DIVISOR if number >= _DIVISOR else number
    if told not in (CITYSCAPES[index - 1].label_id, category):
      self.report(
        'id_not_of_category',
        self.where,
        f'{where}: the id {number} is of label {told}, but its category_id is '
        f'{category} ({CITYSCAPES[index - 1].name}).',
      )


@DATASETS.register('cityscapes_panoptic')
class CityscapesPanoptic(CocoPanoptic):
  """Cityscapes' images and panoptic maps; a `types.Source`.

  The 19 classes that are evaluated, 8 of them things, in the order of their
  train ids; all else is void. The JSON may use label ids (as the scripts do by
  themselves) or train ids.

  Args:
    images: the folder of a split, leftImg8bit/train; a zip archive, or a
      folder in one, will do.
    panoptic: gtFine/cityscapes_panoptic_train.
    annotations: gtFine/cityscapes_panoptic_train.json.
    split: 'train', 'val' or 'test'; by default the JSON's name tells it.
    official: whether to insist on 2975, 500 or 1525 images.
    max_examples, exif, follow_links: as in `CocoPanoptic`.

  Raises:
    ValueError: as `CocoPanoptic`; for other classes than Cityscapes', an id
      that is not of its category, or another number of images.
  """

  def __init__(
    self,
    images,
    panoptic,
    annotations,
    *,
    split: str = '',
    official: bool = True,
    max_examples: int | None = None,
    exif: bool = True,
    follow_links: bool = False,
  ):
    self._choose(annotations, split, official)
    super().__init__(
      images,
      panoptic,
      annotations,
      max_examples=max_examples,
      exif=exif,
      follow_links=follow_links,
    )

  def _open(
    self,
    report,
    images,
    panoptic,
    annotations,
    *,
    split: str = '',
    official: bool = True,
    **kw,
  ):
    if report is not refuse:  # `examine` passes the constructor by
      self._choose(annotations, split, official)
    super()._open(report, images, panoptic, annotations, **kw)

  def _choose(self, annotations, split, official):
    if not official:
      self.form = CityscapesJson
      return
    told = _SPLIT.search(str(annotations))
    split = split or (told.group(1) if told else '')
    if split not in COUNTS:
      refuse(
        'bad_argument',
        'data.split',
        f'data.split={split!r} must be one of {", ".join(COUNTS)}, or '
        'official=False.',
      )
    self.form = functools.partial(CityscapesJson, count=COUNTS[split])
