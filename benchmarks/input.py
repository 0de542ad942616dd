"""How fast real images come through the whole input pipeline.

  python -m benchmarks.input --rounds 12

COCO panoptic images and maps are read, decoded, renumbered, scaled by U(1,
3), cropped, flipped, padded to 512 x 512 uint8 and given labels at 256 x 256;
the numbers of the colour jitter are drawn, its work is the device's. The rate,
by the processor's time on one thread, is set against that of nothing but
decoding the same JPEGs and PNGs with Pillow, turn by turn in the same run.
Then a consumer takes batches at the rate of the bar from worker threads, as a
device would, and what it waits is its fraction of a step. Exits with 1 where a
bar is missed: 0.45 of the bare rate with Pillow, 0.6 with OpenCV (where it is
installed), 5 % of waiting.
"""

import importlib.util
import itertools
import os
import pathlib
import sys
import time

import numpy as np
from PIL import Image

from benchmarks import common
from pix2seqd_jax.data import pipeline
from pix2seqd_jax.data.formats import decode
from pix2seqd_jax.data.readers import coco_panoptic
from pix2seqd_jax.train import prefetch

NAME = 'input'
BARS = {'pillow': 0.45, 'opencv': 0.6}
_MAX_WAIT = 0.05
_SIZE, _MASK, _BATCH = (512, 512), (256, 256), 6


def default_root() -> pathlib.Path:
  """coco_mini of ../shared, or of PIX2SEQD_SHARED."""
  shared = os.environ.get('PIX2SEQD_SHARED', common.REPO.parent / 'shared')
  return pathlib.Path(shared) / 'data' / 'coco_mini'


def transforms(backend: str):
  """The config of Pix2Seq-D on COCO at 512 x 512, colours on the device."""
  scale = {'size': _SIZE, 'scale': (1.0, 3.0), 'backend': backend}
  return (
    ('scale_jitter', scale),
    ('fixed_size_crop', {'size': _SIZE}),
    ('random_flip', {}),
    ('color_jitter', {'strength': 1.0, 'where': 'device'}),
    ('pad', {'size': _SIZE}),
    ('labels', {'size': _MASK, 'num_ids': 101}),
  )


def batches(source, backend: str, num_threads: int = 0):
  """The training batches, without end."""
  return pipeline.train_batches(
    Often(source),
    transforms(backend),
    batch_size=_BATCH,
    seed=0,
    num_threads=num_threads,
  )


class Often:
  """A source as long as COCO, of few images.

  grain's shuffle takes 2 ms for an index out of 18, and next to nothing for
  one out of 118,287.
  """

  def __init__(self, source, length: int = 118_287):
    self.source, self.length = source, length
    self.categories = source.categories

  def __len__(self):
    return self.length

  def __getitem__(self, index):
    return self.source[int(index) % len(self.source)]


def decode_all(paths) -> None:
  """Bare decoding of images and maps, files included."""
  for path in paths:
    with Image.open(path) as image:
      np.asarray(image)


def seconds(function, *args) -> float:
  """Of the processor, so that other programs count little."""
  start = time.process_time()
  function(*args)
  return time.process_time() - start


def rates(source, paths, backends, rounds: int) -> dict[str, float]:
  """Examples a second: 'bare' and each backend, medians of interleaved turns.

  Each turn of the pipeline takes as many examples, whole batches, at random.
  """
  decode.keep_memory()
  streams = {b: batches(source, b) for b in backends}
  count = -(-len(source) // _BATCH)

  def take(stream):
    for batch in itertools.islice(stream, count):
      if batch['image'].shape != (_BATCH, *_SIZE, 3):
        raise RuntimeError(f'a batch of shape {batch["image"].shape}')

  times = {name: [] for name in ('bare', *backends)}
  for turn in range(rounds + 1):  # the first is for warming up
    spent = {'bare': seconds(decode_all, paths) / len(source)}
    for name, stream in streams.items():
      spent[name] = seconds(take, stream) / (count * _BATCH)
    for name, value in spent.items():
      times[name] += [value] if turn else []
  return {name: 1 / float(np.median(v)) for name, v in times.items()}


def wait_fraction(source, backend: str, rate: float, steps: int, threads: int):
  """The fraction of its time that a consumer of `rate` examples/s waits."""
  step_seconds = _BATCH / rate
  with prefetch.Prefetch(
    batches(source, backend, threads), lambda batch: batch
  ) as stream:
    next(stream)  # as in the loop, whose first step compiles
    time.sleep(step_seconds)
    start, waited = time.perf_counter(), stream.waited
    for _ in range(steps):
      next(stream)
      time.sleep(step_seconds)
    return (stream.waited - waited) / (time.perf_counter() - start)


def main(argv=None) -> int:
  argv = common.arguments(argv)
  parser = common.parser(NAME, __doc__)
  parser.add_argument('--root', type=pathlib.Path, default=default_root())
  parser.add_argument('--annotations', default='panoptic_class_agnostic.json')
  parser.add_argument('--rounds', type=int, default=12)
  parser.add_argument('--steps', type=int, default=40, help='of the consumer')
  parser.add_argument('--threads', type=int, default=2)
  parser.add_argument('--bar', type=float, default=0, help='in place of all')
  args = parser.parse_args(argv)
  folders = args.root / 'images', args.root / 'panoptic'
  source = coco_panoptic.CocoPanoptic(
    *folders, args.root / 'annotations' / args.annotations
  )
  files = [path for folder in folders for path in sorted(folder.iterdir())]
  installed = importlib.util.find_spec('cv2') is not None
  backends = [b for b in BARS if b == 'pillow' or installed]
  found = rates(source, files, backends, args.rounds)
  rows = [['bare decoding', found['bare'], 1.0, None, None, None]]
  missed = []
  for backend in backends:
    bar = args.bar or BARS[backend]
    fraction = found[backend] / found['bare']
    rate = bar * found['bare']
    waited = wait_fraction(source, backend, rate, args.steps, args.threads)
    fine = fraction >= bar and waited < _MAX_WAIT
    rows.append([backend, found[backend], fraction, bar, waited, fine])
    missed += [] if fine else [backend]
  columns = ('', 'examples/s', 'of bare', 'bar', 'waits at the bar', 'met')
  verdict = f'Missed: {", ".join(missed)}.' if missed else 'All bars are met.'
  common.report(
    args,
    argv,
    name=NAME,
    title='Input pipeline',
    about=f'{len(source)} COCO images to 512 x 512, masks 256 x 256, '
    f'{args.rounds} rounds; the consumer: {args.steps} steps of {_BATCH}, '
    f'{args.threads} threads',
    parts=[common.table(columns, rows), verdict],
    numbers={'rows': rows, 'missed': missed},
  )
  return int(bool(missed))


if __name__ == '__main__':
  sys.exit(main())
