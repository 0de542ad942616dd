"""Every fault of a data set at once, whatever its reader.

A reader may have `examine(report, **kwargs)`, its constructor that reports and
goes on, and `check(index, report)`, which reports all that is wrong with an
example. Of any other reader each example is read, and held against the laws of
`types.Source`.
"""

import concurrent.futures
import itertools
import warnings
from collections import Counter
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from pix2seqd_jax.data.formats.faults import RULES, Fault, Faults

_AT_ONCE = 32  # examples a thread that wait in the queue


class Result(NamedTuple):
  """What was found: `found` has faults first, then warnings."""

  num_examples: int
  found: list[Fault]

  @property
  def faults(self) -> list[Fault]:
    return [fault for fault in self.found if not fault.is_warning]

  def by_rule(self, *, warnings: bool = False) -> dict[str, int]:
    """How often each rule was broken; the most often first."""
    counts = Counter(f.rule for f in self.found if f.is_warning == warnings)
    return dict(counts.most_common())


def validate(
  entry, kwargs: Mapping[str, Any], *, num_threads=4, progress=None
) -> Result:
  """Looks at every file of a data set; never raises for what it finds there.

  Args:
    entry: the class of the source.
    kwargs: what it is called with.
    num_threads: that read and decode.
    progress: called with (examples done, of how many), from one thread.
  """
  faults, name = Faults(), getattr(entry, '__name__', str(entry))
  open_source = entry
  if hasattr(entry, 'examine'):
    open_source = _Examine(entry, faults)
  source = faults.catch(
    open_source, **kwargs, rule='bad_argument', file=_file_of(kwargs, name)
  )
  if source is None:
    return Result(0, faults.all())
  count = faults.catch(len, source, rule='bad_example', file=name) or 0
  check = _check_of(source, faults, name)
  with (
    warnings.catch_warnings(),
    concurrent.futures.ThreadPoolExecutor(num_threads) as pool,
  ):
    warnings.simplefilter('ignore')  # of Pillow: large images
    indices = iter(range(count))
    done = 0
    while part := list(itertools.islice(indices, _AT_ONCE * num_threads)):
      for _ in pool.map(check, part):
        done += 1
        if progress is not None:
          progress(done, count)
  return Result(count, faults.all())


class _Examine:
  def __init__(self, entry, faults):
    self.entry, self.faults = entry, faults

  def __call__(self, **kwargs):
    return self.entry.examine(self.faults, **kwargs)


def _file_of(kwargs, name):
  """What to call the place of a fault that no file can be blamed for."""
  for key in ('annotations', 'root', 'images', 'path', 'directory'):
    if key in kwargs:
      return str(kwargs[key])
  return name


def _check_of(source, faults, name):
  """A function of an index that reports what is wrong with that example."""
  if hasattr(source, 'check'):

    def check(index):
      where = f'{name}, example {index}'
      faults.catch(source.check, index, faults, rule='bad_example', file=where)

  else:
    classes = len(getattr(source, 'categories', ()))

    def check(index):
      where = f'{name}, example {index}'
      example = faults.catch(
        source.__getitem__, index, rule='bad_example', file=where
      )
      if example is not None:
        faults.catch(
          check_example,
          example,
          index,
          classes,
          faults,
          rule='bad_example',
          file=where,
        )

  return check


def check_example(example, index, num_classes, report):
  """Holds an example against the laws of `types.Source`.

  Args:
    example: of any reader.
    index: that it was asked for.
    num_classes: of the source.
    report: see `faults`.
  """
  file = str(example.get('file', f'example {index}'))

  def wrong(what):
    report('bad_example', file, f'{file} (example {index}): {what}')

  for key in ('image', 'ids', 'segments', 'index', 'file'):
    if key not in example:
      wrong(f'the reader gives no {key!r}.')
      return
  image, ids = example['image'], example['ids']
  if image.dtype != np.uint8 or image.ndim != 3 or image.shape[-1] != 3:
    wrong(f'image is {image.dtype} {image.shape}, not uint8 [h, w, 3].')
  if ids.dtype != np.int32 or ids.ndim != 2:
    wrong(f'ids are {ids.dtype} {ids.shape}, not int32 [h, w].')
  if image.shape[:2] != ids.shape[:2]:
    report(
      'sizes_differ',
      file,
      f'{file} is {image.shape[:2]} but its ids are {ids.shape[:2]} (height, '
      'width).',
    )
  named = [segment.id for segment in example['segments']]
  for rule, numbers, what in (
    ('duplicate_segment', _twice(named), 'segments have the ids {} twice.'),
    (
      'id_not_in_json',
      np.setdiff1d(ids, [0, *named]),
      'ids {} have no segment.',
    ),
    ('id_not_in_map', np.setdiff1d(named, ids), 'segments {} have no pixel.'),
    (
      'unknown_category',
      [s.id for s in example['segments'] if not 0 < s.class_id <= num_classes],
      f'segments {{}} have a class outside 1..{num_classes}.',
    ),
  ):
    if len(numbers):
      some = ', '.join(str(int(n)) for n in numbers[:5])
      report(rule, file, f'{file}: {what.format(some)}')


def _twice(numbers):
  return [n for n, count in Counter(numbers).items() if count > 1]


def describe(rule: str) -> str:
  """What a rule says, for the summary."""
  return RULES.get(rule, rule.replace('_', ' '))
