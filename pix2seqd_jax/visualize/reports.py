"""What an evaluation tells: a table of its numbers, panels of its answers."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pix2seqd_jax.types import Category, Segment
from pix2seqd_jax.visualize import overlays

# What is told in one number, below the tables.
_SINGLE = (
  *('miou', 'pixel_accuracy', 'psnr', 'l1', 'fid'),
  *('lpips_pairwise', 'lpips_diversity', 'resegmentation_miou'),
  *('resegmentation_pixel_accuracy', 'images_per_second'),
)


def table(results: Mapping[str, float], classes: Sequence[str]) -> str:
  """PQ, SQ and RQ of all, things, stuff and each class, as aligned text.

  Without PQ, the IoU of each class. And below them what else there is to tell
  in one number; FID and LPIPS of no trained network say so.
  """
  groups = [(name, f'_class/{name}') for name in classes]
  columns = ('iou', 'resegmentation_iou')
  if 'pq' in results:
    columns = ('pq', 'sq', 'rq')
    groups[:0] = [('all', ''), ('things', '_things'), ('stuff', '_stuff')]
  columns = [c for c in columns if any(f'{c}{g}' in results for _, g in groups)]
  rows = [
    (name, [results.get(f'{c}{g}') for c in columns]) for name, g in groups
  ]
  width = max(len(name) for name, _ in rows)
  lines = []
  if columns:
    titles = ' '.join(f'{c.rpartition("_")[2].upper():>6}' for c in columns)
    lines = [f'{"":{width}} {titles}']
  for name, values in rows:
    if values and None not in values:
      numbers = ' '.join(f'{value:6.3f}' for value in values)
      lines.append(f'{name:{width}} {numbers}')
  for name in _SINGLE:
    if name in results:
      lines.append(f'{name}: {results[name]:.3f}{_of_whom(name, results)}')
  return '\n'.join(lines)


def _of_whom(name, results):
  """What makes a number another than that of papers."""
  if name == 'fid' and not results['fid_is_inception']:
    random = '' if results['lpips_is_trained'] else 'a random '
    return f' (features of {random}VGG-16, not of Inception)'
  if name.startswith('lpips') and not results['lpips_is_trained']:
    return ' (random weights)'
  return ''


def panel(
  task: Any,
  prediction: Any,
  meta: Mapping[str, Any],
  categories: Sequence[Category],
  answers: Sequence[Category],
) -> np.ndarray:
  """What a prediction looks like beside the truth; uint8 [h, w, 3].

  Args:
    task: whose prediction.
    prediction: as `task.refine` gives it.
    meta: of the example, with `image` and `truth`.
    categories: of the data set.
    answers: of what the model says, the same or one that stands for all.
  """
  drawn = prediction.image
  if drawn is not None and not task.given:
    return _side_by_side((meta['image'], drawn), ('image', 'drawn'))
  ids, expected = meta['truth']['ids'], meta['truth']['segments']
  if answers != categories:  # answers have none of the data set
    expected = [segment._replace(class_id=1) for segment in expected]
  found = task.segments(prediction)
  if drawn is None:
    return overlays.panel(meta['image'], (ids, expected), found, answers)
  # What was given knows no instances.
  given = overlays.as_map(_classes(ids, expected))
  painted = [overlays.paint(*one, answers) for one in (given, found)]
  strip = _side_by_side(
    (meta['image'], painted[0], drawn, painted[1]),
    ('image', 'given', 'drawn', 'seen in it'),
  )
  return overlays.with_legend(strip, (given, found), answers)


def _classes(ids: np.ndarray, segments: Sequence[Segment]) -> np.ndarray:
  """The class of each pixel, 0 of void and of crowds."""
  classes = np.zeros(ids.shape, np.int32)
  for segment in segments:
    if not segment.is_crowd:
      classes[ids == segment.id] = segment.class_id
  return classes


def _side_by_side(images, captions):
  """A strip of images, small ones enlarged."""
  pairs = zip(images, captions, strict=True)
  strips = [overlays.captioned(image, text) for image, text in pairs]
  return overlays.grid(strips, len(strips))
