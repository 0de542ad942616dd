"""What overlays and exports of one large image cost, by its segments.

  python -m benchmarks.exports --megapixels 12 --segments 10 400

Time and peak memory (NumPy's, in bytes a pixel) of everything that is made
from a map of ids, for few segments and for many. A stack of masks would take
one byte a pixel and segment. "By sorting" is how pixels were coloured before:
ranked by np.unique.

Fails where many segments take more than 1.5 times the memory of few, or more
than 48 bytes a pixel, or where an overlay is not 4 times as fast as sorting
the pixels alone.
"""

import functools
import sys
import tempfile
import time
import tracemalloc

import numpy as np

from benchmarks import common
from pix2seqd_jax.data.formats import writers
from pix2seqd_jax.inference import agreement, tiling
from pix2seqd_jax.types import Category, Segment
from pix2seqd_jax.visualize import overlays, palettes

NAME = 'exports'
MOST_BYTES, MOST_GROWTH, LEAST_SPEEDUP = 48, 1.5, 4
CATEGORIES = tuple(Category(i, f'class {i}', i % 4 > 0) for i in range(1, 81))
_SORTING, _OVERLAY = 'colours by sorting', 'overlay'


def scene(pixels: int, num_segments: int, seed: int = 0):
  """An image of 4:3 full of discs: (image, ids, segments)."""
  rng = np.random.default_rng(seed)
  height = round((pixels * 3 / 4) ** 0.5)
  width = height * 4 // 3
  ids = np.zeros((height, width), np.int32)
  rows, columns = np.arange(height)[:, None], np.arange(width)
  for i in range(1, num_segments + 1):
    radius = int(rng.uniform(0.5, 2) * (pixels / num_segments) ** 0.5 / 2) + 1
    y, x = int(rng.integers(height)), int(rng.integers(width))
    box = (
      slice(max(0, y - radius), y + radius),
      slice(max(0, x - radius), x + radius),
    )
    far = (rows[box[0]] - y) ** 2 + (columns[box[1]] - x) ** 2
    ids[box][far < radius**2] = i
  small = rng.integers(0, 256, (height // 8 + 1, width // 8 + 1, 3), np.uint8)
  image = small.repeat(8, 0).repeat(8, 1)[:height, :width]
  present = np.unique(ids)
  segments = [Segment(int(i), int(i) % 80 + 1, score=0.5) for i in present if i]
  return np.ascontiguousarray(image), ids, segments


def sort_colors(ids, table):
  """How a map was coloured before."""
  found, inverse = np.unique(ids, return_inverse=True)
  return table[found][inverse].reshape(*ids.shape, 3)


def write(ids, segments, name):
  """One map in one format."""
  with tempfile.TemporaryDirectory() as folder:
    colors = palettes.colors(CATEGORIES)
    with writers.Writer(folder, CATEGORIES, (name,), colors=colors) as writer:
      writer.add('x.png', ids, segments)


def stitch(ids, segments, side):
  """The map cut into tiles and put together again."""
  stitcher = tiling.Stitcher(ids.shape, CATEGORIES)
  for window in tiling.windows(ids.shape, side):
    stitcher.add(window, ids[window.box], segments)
  return stitcher.finish()


def jobs(image, ids, segments):
  """{what: a function without arguments}."""
  table = palettes.random(int(ids.max()))
  shifted = np.roll(ids, 5, 0)
  found = {
    _SORTING: functools.partial(sort_colors, ids, table),
    _OVERLAY: functools.partial(
      overlays.overlay, image, ids, segments, CATEGORIES
    ),
  }
  for name in writers.FORMATS:
    found[f'write {name}'] = functools.partial(write, ids, segments, name)
  found['stitch tiles'] = functools.partial(
    stitch, ids, segments, max(ids.shape) // 4
  )
  samples = [(ids, segments), (shifted, segments), (ids, segments)]
  found['agreement of 3'] = functools.partial(agreement.consensus, samples)
  return found


def measure(job, repeats: int) -> tuple[float, int]:
  """(the least seconds, the peak of bytes)."""
  times = []
  for _ in range(repeats):
    start = time.perf_counter()
    job()
    times.append(time.perf_counter() - start)
  tracemalloc.start()
  job()
  peak = tracemalloc.get_traced_memory()[1]
  tracemalloc.stop()
  return min(times), peak


def misses(found, few: int, many: int) -> list[str]:
  """The bars that were not met, in words."""
  wrong = []
  for name in found[few]:
    (_, low), (_, high) = found[few][name], found[many][name]
    if name == _SORTING:
      continue
    if high > MOST_BYTES:
      wrong.append(f'{name}: {high:.1f} bytes a pixel, at most {MOST_BYTES}')
    if high > MOST_GROWTH * low + 1:
      wrong.append(f'{name}: memory grows from {low:.1f} to {high:.1f}')
  ratio = found[many][_SORTING][0] / found[many][_OVERLAY][0]
  if ratio < LEAST_SPEEDUP:
    wrong.append(f'overlay {ratio:.1f} x as fast as sorting alone')
  return wrong


def main(argv=None) -> int:
  argv = common.arguments(argv)
  parser = common.parser(NAME, __doc__)
  parser.add_argument('--megapixels', type=float, default=12)
  parser.add_argument('--segments', type=int, nargs=2, default=(10, 400))
  parser.add_argument('--repeats', type=int, default=2)
  args = parser.parse_args(argv)
  found, pixels = {}, 0
  for count in args.segments:
    image, ids, segments = scene(round(args.megapixels * 1e6), count)
    pixels, found[count] = ids.size, {}
    for name, job in jobs(image, ids, segments).items():
      seconds, peak = measure(job, args.repeats)
      found[count][name] = seconds, peak / pixels
      print(f'{count} segments, {name}: {seconds:.2f} s', file=sys.stderr)
  few, many = args.segments
  rows = [[name, *found[few][name], *found[many][name]] for name in found[few]]
  columns = ['what'] + [
    f'{unit}, {n} segments'
    for n in (few, many)
    for unit in ('s', 'bytes/pixel')
  ]
  wrong = misses(found, few, many)
  common.report(
    args,
    argv,
    name=NAME,
    title='Overlays and exports of a large image',
    about=f'{pixels / 1e6:.1f} million pixels',
    parts=[common.table(columns, rows), *(f'MISSED: {w}.' for w in wrong)],
    numbers={'rows': rows, 'missed': wrong},
  )
  return int(bool(wrong))


if __name__ == '__main__':
  sys.exit(main())
