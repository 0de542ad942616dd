"""What is wrong with a data set: a rule, a file, a sentence.

Readers tell faults to a `report(rule, file, message)`. The one that training
uses raises at the first (`refuse`), the one of `validate` collects them all
(`Faults`): what is trained on and what is validated are one piece of code.
"""

import threading
from collections.abc import Callable
from typing import NamedTuple

# Rule -> what it says. A reader may add rules of its own, named like these.
RULES = {
  'missing_file': 'a file that is named does not exist',
  'empty_file': 'a file has zero bytes',
  'unreadable_archive': 'a zip archive, or one of its members, is damaged',
  'unreadable_json': 'a JSON file cannot be read',
  'unreadable_image': 'an image is cut off, damaged or of no known kind',
  'unreadable_map': 'a map is cut off, damaged or of another kind or mode',
  'bad_argument': 'an argument of the reader is wrong',
  'bad_entry': 'an entry of a JSON lacks a key or has a value of a wrong kind',
  'bad_category': 'a category lacks a key or has a value of a wrong kind',
  'missing_isthing': 'a category does not say whether it is a thing',
  'duplicate_category': 'two categories have one id',
  'unknown_category': 'a segment names a category that is not there',
  'unsafe_name': 'a file name leaves its folder',
  'duplicate_file': 'two entries name one file',
  'duplicate_image': 'two images have one id',
  'duplicate_annotation': 'two annotations are of one image',
  'duplicate_segment': 'two segments of an image have one id',
  'unknown_image': 'an annotation is of an image that is not there',
  'bad_segment_id': 'the id of a segment is out of range',
  'sizes_differ': 'an image and its map differ in size',
  'size_in_json': 'an image is not of the size that the JSON says',
  'id_not_in_json': 'a map has an id that the JSON does not name',
  'id_not_in_map': 'the JSON names an id that has no pixel in the map',
  'overlap': 'segments overlap, or claim more pixels than there are',
  'area_in_json': 'a segment has another area than the JSON says',
  'class_out_of_range': 'a label map has a value that is no class',
  'wrong_count': 'the data set has another number of images than it should',
  'id_not_of_category': 'the id of a segment is not one of its category',
  'no_label': 'an image has no label map or annotation',
  'no_image': 'a label map has no image',
  'unreadable_record': 'a shard of records is damaged, cut off or exchanged',
  'bad_record': 'a record lacks a field or has a value of a wrong kind',
  'bad_example': 'the reader refuses, or makes, a wrong example',
}


class Fault(NamedTuple):
  """One thing that is wrong. Warnings are odd, but nothing refuses them."""

  rule: str
  file: str
  message: str
  is_warning: bool = False


class DataError(ValueError):
  """A fault as an exception; `fault` has its rule, `file` is its file."""

  def __init__(self, fault: Fault):
    super().__init__(fault)
    self.fault, self.file = fault, fault.file

  def __str__(self):
    return self.fault.message


class _Refuse:
  """Raises DataError at the first fault; is deaf to warnings."""

  def __call__(self, rule, file, message):
    raise DataError(Fault(rule, str(file), message))

  def warn(self, rule, file, message):
    pass


refuse = _Refuse()


def decoded(rule: str, decode: Callable, data: bytes, file: str, **kwargs):
  """decode(data, file, ...), its ValueError as a fault of the file."""
  try:
    return decode(data, file, **kwargs)
  except ValueError as error:
    raise DataError(Fault(rule, file, str(error))) from error


class Faults:
  """Collects faults, each once; from any thread."""

  def __init__(self):
    self._found: dict[Fault, None] = {}
    self._lock = threading.Lock()

  def __call__(self, rule, file, message):
    self._add(Fault(rule, str(file), message))

  def warn(self, rule, file, message):
    self._add(Fault(rule, str(file), message, True))

  def _add(self, fault):
    with self._lock:
      self._found.setdefault(fault)

  def catch(self, call: Callable, *args, rule: str, file, **kwargs):
    """call(...), or None after its error, whatever it was, was reported."""
    try:
      return call(*args, **kwargs)
    except DataError as error:
      self._add(error.fault)
    except Exception as error:  # a validator has no traceback
      kind = (
        '' if isinstance(error, ValueError) else f'{type(error).__name__}: '
      )
      self._add(Fault(rule, str(file), f'{kind}{error}'))
    return None

  def all(self) -> list[Fault]:
    """Faults before warnings, by rule, file and message."""
    with self._lock:
      found = list(self._found)
    return sorted(
      found, key=lambda f: (f.is_warning, f.rule, f.file, f.message)
    )
