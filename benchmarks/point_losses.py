"""How much memory the point losses of LDMSeg's stage 1 take, on a CPU.

  python -m benchmarks.point_losses

Cross-entropy and mask loss with their gradient with respect to the logits:
labels of 512 x 512, 128 ids of which 127 show, 16 images, 12,544 points of
each image and of each of its ids. The paper's logits have 256 x 256 places
(512 MiB); those of a mask's own size, 512 x 512, take 2 GiB.

`compiled` is what XLA plans, beside the inputs: the gradient, and all else.
`measured` is the most that was in memory during a run, in a process of its
own, above what was there before it: logits, labels and the program.

Exits with 1 where what was measured is 3 GiB or more, the gradient included.
"""

import json
import pathlib
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import common
from pix2seqd_jax.models import mask_losses

NAME = 'point_losses'
MOST = 3 * 2**30
SIDES = (256, 512)  # of the paper's logits, and of the masks
LABELS, NUM_IDS, BATCH, POINTS = 512, 128, 16, 12_544


def program(points: int = POINTS):
  """(logits, ids, key) -> (the loss, its gradient in the logits)."""
  sampling = mask_losses.PointSampling(num_points=points)

  def loss(logits, ids, key):
    k_ce, k_mask = jax.random.split(key)

    def draw(key):
      return sampling.draw(key, len(logits), logits.dtype)

    def draw_fn(i):
      return draw(jax.random.fold_in(k_mask, i))

    return mask_losses.point_losses(
      logits, ids, draw(k_ce), draw_fn, sampling
    ).total

  return jax.value_and_grad(loss)


def compiled(
  side: int,
  *,
  labels: int = LABELS,
  num_ids: int = NUM_IDS,
  batch: int = BATCH,
  points: int = POINTS,
):
  """The compiled program for logits of these sizes."""
  logits = jax.ShapeDtypeStruct((batch, side, side, num_ids), jnp.float32)
  ids = jax.ShapeDtypeStruct((batch, labels, labels), jnp.int32)
  key = jax.eval_shape(lambda: jax.random.key(0))
  return jax.jit(program(points)).lower(logits, ids, key).compile()


def planned(made: Any) -> dict[str, int]:
  """Bytes that XLA asks for beside the inputs: the gradient, and the rest."""
  found = made.memory_analysis()
  return {
    'gradient': found.output_size_in_bytes,
    'temporary': found.temp_size_in_bytes,
  }


def scenes(num_ids: int, side: int, batch: int) -> np.ndarray:
  """Labels in which every id but void shows, as stripes of another order."""
  rng = np.random.default_rng(0)
  stripes = np.arange(side * side).reshape(side, side) * num_ids // side**2
  return np.stack([rng.permutation(num_ids)[stripes] for _ in range(batch)])


def resident(word: str) -> int:
  """Bytes of this process: VmRSS in memory now, VmHWM the most so far."""
  text = pathlib.Path('/proc/self/status').read_text()
  return int(re.search(rf'{word}:\s*(\d+) kB', text)[1]) * 1024


def peak_of(run) -> int:
  """The most bytes in memory during run() above what was there before."""
  pathlib.Path('/proc/self/clear_refs').write_text('5')  # VmHWM begins anew
  before = resident('VmRSS')
  run()
  return resident('VmHWM') - before


def measure(side: int) -> int:
  """The peak of one run, in this process."""
  made = compiled(side)
  shape = (BATCH, side, side, NUM_IDS)
  draws = np.random.default_rng(0)
  logits = jnp.asarray(draws.standard_normal(shape, np.float32))
  ids = jnp.asarray(scenes(NUM_IDS, LABELS, BATCH).astype(np.int32))
  inputs = jax.block_until_ready((logits, ids, jax.random.key(0)))
  return peak_of(lambda: jax.block_until_ready(made(*inputs)))


def judge(
  plans: Mapping[int, Mapping[str, int]], peaks: Mapping[int, int]
) -> list[list[Any]]:
  """A row for each side; passed is empty where it was not run."""
  rows = []
  for side, plan in plans.items():
    peak = peaks.get(side)
    gradient, temporary = (
      plan[key] / 2**20 for key in ('gradient', 'temporary')
    )
    passed = None if peak is None else peak < MOST
    rows.append(
      [
        f'{side} x {side}',
        round(gradient),
        round(temporary),
        round(gradient + temporary),
        None if peak is None else round(peak / 2**20),
        None if peak is None else round(peak / 2**20 - gradient),
        passed,
      ]
    )
  return rows


def _in_a_process(side: int) -> int:
  script = f'from benchmarks import point_losses as b; print(b.measure({side}))'
  done = subprocess.run(
    [sys.executable, '-c', script],
    cwd=common.REPO,
    stdout=subprocess.PIPE,
    text=True,
    check=True,
  )
  return json.loads(done.stdout.splitlines()[-1])


def main(argv: Sequence[str] | None = None) -> int:
  argv = common.arguments(argv)
  parser = common.parser(NAME, __doc__)
  parser.add_argument('--sides', type=int, nargs='+', default=SIDES)
  parser.add_argument(
    '--measured', type=int, nargs='*', default=SIDES, help='those run'
  )
  args = parser.parse_args(argv)
  peaks = {side: _in_a_process(side) for side in args.measured}
  plans = {side: planned(compiled(side)) for side in args.sides}
  rows = judge(plans, peaks)
  columns = [
    'logits',
    'gradient, MiB',
    'compiled: all else, MiB',
    'compiled: sum, MiB',
    'measured, MiB',
    'without the gradient, MiB',
    'below 3 GiB',
  ]
  common.report(
    args,
    argv,
    name=NAME,
    title='Memory of the point losses',
    about=f'labels {LABELS}x{LABELS}, {NUM_IDS} ids, batch {BATCH}, {POINTS} '
    'points, float32',
    parts=[
      common.table(columns, rows),
      'All of it beside the inputs: the logits themselves take as much as '
      'their gradient.',
    ],
    numbers={'peaks': peaks, 'plans': plans},
  )
  return int(not all(row[-1] in (None, True) for row in rows))


if __name__ == '__main__':
  sys.exit(main())
