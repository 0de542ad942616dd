"""Times Panoptic Quality against the structure that panopticapi has.

    python benchmarks/panoptic_quality.py --repeats=9

The reference is our own reimplementation of how panopticapi's
`pq_compute_single_core` goes about one image whose PNGs are decoded: a sort
(`np.unique`) of the predicted ids for their areas, a sort of the pairs of ids
as 64-bit numbers, a dict from pair to intersection, and Python loops over
pairs, true segments and predicted segments. Both sides get the same maps, in
turn, in the same run, and their counts must agree. Prints the median of each
in milliseconds an image and the ratio of the medians, whose bar is 0.4, and
exits with 1 above it.

Ours counts runs of constant ids, so it gains on maps as annotations and
networks make them; `--noise 1`, a random segment at each pixel, has no runs
and takes as long as the reference.
"""

import argparse
import functools
import json
import statistics
import sys
import time

import numpy as np

from pix2seqd_jax import types
from pix2seqd_jax.metrics import panoptic_quality

_OFFSET = 256**3
CATEGORIES = tuple(
  types.Category(i, f'class {i}', i <= 80) for i in range(1, 134)
)


def reference(
  truth_ids, truth_segments, pred_ids, pred_segments, truth_area, num_classes
):
  """tp, fp, fn, iou of one image, by dicts and loops over segments."""
  tp, fp, fn = (np.zeros(num_classes, np.int64) for _ in range(3))
  iou_sum = np.zeros(num_classes)
  truth = {s.id: s for s in truth_segments}
  pred = {s.id: s for s in pred_segments}
  pred_area = dict(zip(*_unique(pred_ids)))
  pairs, counts = _unique(
    truth_ids.astype(np.uint64) * np.uint64(_OFFSET)
    + pred_ids.astype(np.uint64)
  )
  overlap = {divmod(pair, _OFFSET): n for pair, n in zip(pairs, counts)}

  truth_hit, pred_hit = set(), set()
  for (t, p), shared in overlap.items():
    if t not in truth or p not in pred or truth[t].is_crowd:
      continue
    if truth[t].class_id != pred[p].class_id:
      continue
    union = truth_area[t] + pred_area[p] - shared - overlap.get((0, p), 0)
    if shared / union > 0.5:
      tp[truth[t].class_id - 1] += 1
      iou_sum[truth[t].class_id - 1] += shared / union
      truth_hit.add(t)
      pred_hit.add(p)

  crowds = {}
  for t, segment in truth.items():
    if segment.is_crowd:
      crowds[segment.class_id] = t
    elif t not in truth_hit:
      fn[segment.class_id - 1] += 1

  for p, segment in pred.items():
    if p in pred_hit:
      continue
    ignored = overlap.get((0, p), 0)
    if segment.class_id in crowds:
      ignored += overlap.get((crowds[segment.class_id], p), 0)
    if ignored / pred_area[p] <= 0.5:
      fp[segment.class_id - 1] += 1
  return tp, fp, fn, iou_sum


def _unique(values):
  unique, counts = np.unique(values, return_counts=True)
  return unique.tolist(), counts.tolist()


def scene(rng, size, num_segments, noise):
  """A truth and a prediction near it: blobs, moved points, speckles."""
  points = rng.uniform(0, 1, (num_segments, 2)) * size
  classes = rng.integers(1, len(CATEGORIES) + 1, num_segments)
  names = 1 + rng.choice(_OFFSET - 1, num_segments, replace=False)
  crowd = rng.random(num_segments) < 0.05
  void = rng.random(num_segments) < 0.1

  def draw(points, classes, crowd):
    y, x = np.indices(size, np.float32)
    nearest, best = np.zeros(size, np.int64), np.full(size, np.inf, np.float32)
    for k, (a, b) in enumerate(points):
      distance = (y - a) ** 2 + (x - b) ** 2
      nearest = np.where(distance < best, k, nearest)
      best = np.minimum(distance, best)
    where = rng.random(size) < noise
    nearest[where] = rng.integers(0, num_segments, where.sum())
    ids = np.where(void[nearest], 0, names[nearest]).astype(np.int32)
    segments = tuple(
      types.Segment(int(names[k]), int(classes[k]), bool(crowd[k]))
      for k in np.unique(nearest)
      if not void[k]
    )
    return ids, segments

  truth = draw(points, classes, crowd)
  void = rng.random(num_segments) < 0.1
  changed = rng.random(num_segments) < 0.2
  others = rng.integers(1, len(CATEGORIES) + 1, num_segments)
  moved = points + rng.normal(0, 8, points.shape)
  pred = draw(moved, np.where(changed, others, classes), crowd & False)
  return truth, pred


def measure(images, repeats):
  """Median seconds an image: ours, the reference; checks that they agree."""
  times = {'ours': [], 'reference': []}
  for repeat in range(repeats):
    for truth, pred in images:
      # The reference reads these from the annotation, so it gets them free.
      areas = dict(zip(*_unique(truth[0])))
      sides = {
        'ours': functools.partial(
          panoptic_quality.PanopticQuality.from_maps, categories=CATEGORIES
        ),
        'reference': functools.partial(
          reference, truth_area=areas, num_classes=len(CATEGORIES)
        ),
      }
      found = {}
      for name in sorted(sides, reverse=repeat % 2 == 1):
        # Both find the maps in the cache, as they are after decoding.
        _ = truth[0].max(), pred[0].max()
        start = time.perf_counter()
        found[name] = sides[name](*truth, *pred)
        times[name].append(time.perf_counter() - start)
      for a, b in zip(found['ours'], found['reference']):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-12)
  return tuple(statistics.median(values) for values in times.values())


def main(argv=None) -> int:
  parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
  parser.add_argument('--size', type=int, nargs=2, default=(480, 640))
  parser.add_argument('--segments', type=int, nargs=2, default=(30, 60))
  parser.add_argument('--images', type=int, default=8)
  parser.add_argument('--repeats', type=int, default=7)
  parser.add_argument(
    '--noise',
    type=float,
    default=0.0,
    nargs='+',
    help='shares of pixels with a random segment',
  )
  parser.add_argument('--bar', type=float, default=0.4)
  parser.add_argument('--seed', type=int, default=0)
  args = parser.parse_args(argv)
  rng = np.random.default_rng(args.seed)
  worst = 0.0
  for noise in np.atleast_1d(args.noise):
    images = [
      scene(rng, tuple(args.size), int(rng.integers(*args.segments)), noise)
      for _ in range(args.images)
    ]
    ours, theirs = measure(images, args.repeats)
    worst = max(worst, ours / theirs)
    print(
      json.dumps(
        {
          'size': list(args.size),
          'noise': float(noise),
          'ours_ms': round(1e3 * ours, 3),
          'reference_ms': round(1e3 * theirs, 3),
          'ratio': round(ours / theirs, 4),
          'bar': args.bar,
        }
      )
    )
  return int(worst > args.bar)


if __name__ == '__main__':
  sys.exit(main())
