"""Masks completed from a part of them: the paper's figure 9, on a trained run.

  python -m benchmarks.inpainting --workdir runs/ldmseg --num 64 --steps 20

Of the true ids whole blocks are taken away (tasks.inpainting), for every block
size and drop rate of the same images with the same noise, and what a trained
LDMSeg makes of the rest is scored: PQ of the completed mask as the model draws
it, and with the given pixels pasted into it. Beside it stand the PQ of the
plain sample, which is told nothing, and of the fill of each pixel by the
nearest one that is given, which looks at no image.

Block sizes are shares of the mask's longer side. Writes the table and, under
--out, a plot. 45 cells cost 45 samplings a variant: --num, --blocks and --rates
make it shorter.
"""

import pathlib
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy import ndimage

from benchmarks import common
from pix2seqd_jax import types
from pix2seqd_jax.data.formats import files
from pix2seqd_jax.diffusion import inpainting as inpainting_lib
from pix2seqd_jax.experiment import build, schema
from pix2seqd_jax.experiment import workdir as workdirs
from pix2seqd_jax.tasks import inpainting as inpainting_task
from pix2seqd_jax.train import evaluate, sharding
from pix2seqd_jax.visualize import overlays

NAME = 'inpainting'
BLOCKS = (1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2)
RATES = tuple(n / 10 for n in range(1, 10))
# The cell of the bar: inpainting must beat both others there.
BAR = (1 / 4, 0.5)
PLAIN = 'plain'
# As the model draws it; with the given pixels in it.
HOW = ('drawn', 'pasted')


def nearest_fill(ids: np.ndarray, known: np.ndarray) -> np.ndarray:
  """Each pixel's id is that of the nearest one that is given; [h, w].

  Where nothing is given, all is void.
  """
  if not known.any():
    return np.zeros_like(ids)
  places = ndimage.distance_transform_edt(
    ~known, return_distances=False, return_indices=True
  )
  return ids[tuple(places)]


class Scorer:
  """Samples the same images again and again, and scores the answers.

  Args:
    experiment: a trained run's.
    params: of it.
    num_examples: held-out images.
    steps: of sampling; None is the config's.
  """

  def __init__(
    self,
    experiment: build.Experiment,
    params: Any,
    *,
    num_examples: int | None = None,
    steps: int | None = None,
  ):
    self.experiment, self.params = experiment, params
    self.batches = list(experiment.eval_batches(num_examples))
    self.steps, self._samplers, self._warm = steps, {}, set()
    self.seconds, self.images = 0.0, 0

  def task(self, **kwargs) -> inpainting_task.InpaintingTask:
    """Inpainting, scored by PQ without classes, as the paper does."""
    return inpainting_task.InpaintingTask(
      self.experiment.categories,
      min_pixels=self.experiment.config['task'].get('min_pixels', 0),
      merge_stuff=False,
      class_agnostic=True,
      **kwargs,
    )

  def plain(self) -> float:
    """PQ of what is told nothing."""
    task, sampler = self.task(), self._sampler(PLAIN)
    counts = {}
    for batch, keys in self._with_keys():
      inputs = sharding.device_part(types.inputs_only(batch))
      raw = self._ask(PLAIN, sampler, inputs, keys)
      for _, meta, one in self._real(batch, raw):
        found = task.refine(self.experiment.model.postprocess(one, meta))
        self._count(counts, PLAIN, task.metrics(found, meta))
    return counts[PLAIN].compute()['pq']

  def completed(self, task: Any, variant: str) -> dict[str, float]:
    """PQ of what is completed, for each of HOW."""
    sampler, counts = self._sampler(variant), {}

    def sample_fn(batch, keys):
      return self._ask(variant, sampler, batch, keys)

    for batch, keys in self._with_keys():
      inputs = sharding.device_part(types.inputs_only(batch, task.given))
      raw = jax.device_get(task.predict(sample_fn, inputs, keys))
      for _, meta, one in self._real(batch, raw):
        drawn = task.refine(self.experiment.model.postprocess(one, meta))
        pasted = task.paste(drawn, one, meta)
        for name, found in zip(HOW, (drawn, pasted), strict=True):
          self._count(counts, name, task.metrics(found, meta))
    return {name: state.compute()['pq'] for name, state in counts.items()}

  def fill(self, task: Any) -> float:
    """PQ of the fill from the nearest given pixel."""
    counts = {}
    for batch, keys in self._with_keys():
      given = jax.device_get(task.sparse(jnp.asarray(batch['instance']), keys))
      padded = np.array(batch['image'].shape[1:3], np.int32)
      for i, meta, _ in self._real(batch, ()):
        ids = nearest_fill(given['instance'][i], given['known'][i])
        told = {'instance': ids, 'known': ids > 0, 'padded': padded}
        blank = np.zeros(tuple(meta['size']), np.int32)
        found = types.Segmentation(blank, blank)
        found = task.refine(task.paste(found, {'given': told}, meta))
        self._count(counts, 'fill', task.metrics(found, meta))
    return counts['fill'].compute()['pq']

  def _with_keys(self) -> Iterator[tuple[Any, Any]]:
    for batch in self.batches:
      seed = self.experiment.sample_seed
      yield batch, evaluate.example_keys(seed, batch['index'])

  def _ask(self, variant, sampler, batch, keys):
    """One call of a sampler, timed unless it is the first."""
    start = time.perf_counter()
    raw = jax.device_get(sampler(self.params, batch, keys))
    if variant in self._warm:
      self.seconds += time.perf_counter() - start
      self.images += len(keys)
    self._warm.add(variant)
    return raw

  def _sampler(self, variant):
    if variant not in self._samplers:
      config = self.experiment.config
      sample = {**config['sample'], 'strength': 1.0}
      sample['inpainting'] = 'x0' if variant == PLAIN else variant
      told = build.Experiment(
        {**config, 'sample': sample}, self.experiment.categories
      )
      told.model = self.experiment.model
      self._samplers[variant] = told.sample_fn(self.steps)
    return self._samplers[variant]

  def _real(self, batch, raw):
    """(number, meta, raw) of the examples that are no padding."""
    metas = batch['meta']
    real = np.asarray(batch.get('is_real', np.ones(len(metas), bool)))
    for i in np.flatnonzero(real):
      yield i, metas[i], jax.tree.map(lambda leaf, i=i: leaf[i], raw)

  def _count(self, counts, name, state):
    counts[name] = counts[name].merge(state) if name in counts else state


def sweep(
  scorer: Scorer,
  blocks: Sequence[float],
  rates: Sequence[float],
  variants: Sequence[str],
) -> list[dict[str, Any]]:
  """A dict for each cell: block, pixels, rate, and PQ 0..1 by method."""
  side = max(scorer.experiment.config['data']['mask_size'])
  plain = scorer.plain()
  rows = []
  for fraction in blocks:
    pixels = max(1, round(side * fraction))
    for rate in rates:
      task = scorer.task(block_size=pixels, drop_rate=rate)
      pq = {PLAIN: plain, 'nearest': scorer.fill(task)}
      for variant in variants:
        for name, value in scorer.completed(task, variant).items():
          pq[f'{variant}, {name}'] = value
      rows.append({'block': fraction, 'pixels': pixels, 'rate': rate, 'pq': pq})
      shown = {k: round(v, 3) for k, v in pq.items()}
      print(f'block {pixels}, rate {rate}: {shown}', file=sys.stderr)
  return rows


def verdict(rows: Sequence[dict[str, Any]], variants: Sequence[str]) -> str:
  """Whether inpainting beats both others at the cell of the bar; '' without
  that cell."""
  for row in rows:
    if (row['block'], row['rate']) != BAR:
      continue
    pq = row['pq']
    # Nothing is pasted into what is compared: that would be told the answer.
    name = f'{variants[0]}, {HOW[0]}'
    best = pq[name]
    others = max(pq[PLAIN], pq['nearest'])
    word = 'above' if best > others else 'NOT above'
    return (
      f'At 50 % dropped blocks of a quarter of the side inpainting by {name} '
      f'has PQ {100 * best:.1f}: {word} the plain sample, '
      f'{100 * pq[PLAIN]:.1f}, and the nearest given pixel, '
      f'{100 * pq["nearest"]:.1f}.'
    )
  return ''


def plot(path: pathlib.Path, rows, variants: Sequence[str]) -> None:
  """PQ over the drop rate: a panel for each block size, side by side."""
  panels = []
  names = [f'{v}, {how}' for v in variants for how in HOW]
  for fraction in dict.fromkeys(row['block'] for row in rows):
    some = [row for row in rows if row['block'] == fraction]
    rates = [row['rate'] for row in some]
    lines = {
      name: (rates, [100 * row['pq'][name] for row in some])
      for name in (*names, 'nearest', PLAIN)
    }
    pixels = some[0]['pixels']
    part = path.with_name(f'{path.stem}_{pixels}.png')
    title = f'blocks of {pixels} pixels'
    labels = {'x_label': 'drop rate', 'y_label': 'PQ'}
    overlays.curves(part, lines, title=title, **labels)
    panels.append(files.read_image(part))
  overlays.save_png(path, overlays.grid(panels, min(3, len(panels))))


def main(argv=None) -> int:
  argv = common.arguments(argv)
  parser = common.parser(NAME, __doc__)
  parser.add_argument('--workdir', required=True, help='of a trained LDMSeg')
  parser.add_argument('--step', default='', help="a checkpoint, or 'best'")
  parser.add_argument('--num', type=int, default=64, help='images')
  parser.add_argument('--steps', type=int, help="of sampling; the config's")
  parser.add_argument('--blocks', type=float, nargs='+', default=BLOCKS)
  parser.add_argument('--rates', type=float, nargs='+', default=RATES)
  parser.add_argument(
    '--variants',
    nargs='+',
    default=('x0', 'repaint'),
    choices=inpainting_lib.VARIANTS,
  )
  args = parser.parse_args(argv)
  experiment = workdirs.load(args.workdir)
  step = workdirs.find_step(args.workdir, args.step)
  params = workdirs.load_params(experiment, args.workdir, step)
  scorer = Scorer(experiment, params, num_examples=args.num, steps=args.steps)
  rows = sweep(scorer, args.blocks, args.rates, args.variants)
  names = list(rows[0]['pq'])
  table = common.table(
    ['block', 'pixels', 'dropped', *names],
    [
      [
        row['block'],
        row['pixels'],
        row['rate'],
        *(f'{100 * row["pq"][name]:.1f}' for name in names),
      ]
      for row in rows
    ],
  )
  args.out.mkdir(parents=True, exist_ok=True)
  plot(args.out / 'results.png', rows, args.variants)
  config = schema.from_plain(experiment.config)
  seconds = scorer.seconds / max(scorer.images, 1)
  about = (
    f'{common.sizes(config)}, {common.parameters(params)}, checkpoint of step '
    f'{step}, {args.steps or config.sample.steps} steps of sampling, '
    f'{args.num} held-out images, {seconds:.3g} s each'
  )
  common.report(
    args,
    argv,
    name=NAME,
    title='Inpainting of partial masks',
    about=about,
    parts=[p for p in (table, verdict(rows, args.variants)) if p],
    numbers={'rows': rows, 'seconds': seconds},
  )
  return 0


if __name__ == '__main__':
  sys.exit(main())
