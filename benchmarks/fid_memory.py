"""How much memory and time FID takes beside the features themselves.

  python -m benchmarks.fid_memory --images 5000 --width 2048

Random features arrive as in an evaluation, image by image; a process of
its own draws and adds them, then another also takes the distance, and the
kernel tells the most that each had in memory. Exits with 1 where the second
had 2 GiB more than the first.
"""

import sys
from collections.abc import Sequence

from benchmarks import common
from benchmarks.weights_memory import peak

NAME = 'fid_memory'
LIMIT = 2 * 2**30

_ADD = """
import sys
import time
import numpy as np
import scipy.linalg
from pix2seqd_jax.metrics.fid import FID

rng = np.random.default_rng(0)
total, start = FID.empty(), time.perf_counter()
for _ in range({images}):
  made, real = rng.standard_normal((2, 1, {width}), np.float32)
  total = total.merge(FID.from_features(made + 0.1, real))
print('seconds to add', time.perf_counter() - start, file=sys.stderr)
"""
_TAKE = """
start = time.perf_counter()
print(total.compute(), file=sys.stderr)
print('seconds to take', time.perf_counter() - start, file=sys.stderr)
"""


def scripts(images: int, width: int) -> dict[str, str]:
  """{step: a program of Python}."""
  add = _ADD.format(images=images, width=width)
  return {'features': add.strip(), 'distance': (add + _TAKE).strip()}


def main(argv: Sequence[str] | None = None) -> int:
  argv = common.arguments(argv)
  parser = common.parser(NAME, __doc__)
  parser.add_argument('--images', type=int, default=5000)
  parser.add_argument('--width', type=int, default=2048)
  args = parser.parse_args(argv)
  programs = scripts(args.images, args.width)
  peaks = {step: peak(script) for step, script in programs.items()}
  beside = peaks['distance'] - peaks['features']
  rows = [[step, round(most / 2**20)] for step, most in peaks.items()]
  common.report(
    args,
    argv,
    name=NAME,
    title='Memory of FID',
    about=f'{args.images} images a side, {args.width} features each '
    f'({2 * args.images * args.width * 4 / 2**20:.0f} MiB)',
    parts=[
      common.table(['process', 'peak, MiB'], rows),
      f'Beyond the features: {beside / 2**20:.0f} MiB; '
      f'{"below" if beside < LIMIT else "NOT below"} 2 GiB.',
    ],
    numbers={'peaks': peaks},
  )
  return int(beside >= LIMIT)


if __name__ == '__main__':
  sys.exit(main())
