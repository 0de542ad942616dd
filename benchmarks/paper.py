"""The tables of the papers, our numbers beside theirs.

  python -m benchmarks.paper --table input_scaling --steps 1000
  python -m benchmarks.paper --table sampling --checkpoint runs/shapes
  python -m benchmarks.paper --table loss --steps 92412 \
    --config configs/pix2seq_d_coco.py:ablation --set data.root=/data/coco
  python -m benchmarks.paper --table ldmseg_kl --steps 500
  python -m benchmarks.paper --table semflow_steps \
    --runs runs/semflow runs/semflow_dsm

Every variant of a table (all but `sampling` and those of semflow_tables) is
trained for --steps steps from the same seed on the same data, in a folder of
--workdir named after what it changes; a finished run is used again, a broken
one goes on. `sampling` takes one trained run and crosses steps, td and the
minimum area: images are sampled once for each (steps, td) and read out once
for each area. Its last row gives the same weights noise in place of images:
what it scores there, it scores without looking.

Ours are percent like the papers'. For autoencoders, `std` is the deviation of
the latents. Milliseconds a training step are the median of the log's, on
whatever else the machine does. Seconds an image are the sampler's alone
(encoder, steps, thresholds), without compilation.
"""

import contextlib
import dataclasses
import json
import pathlib
import re
import statistics
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from benchmarks import common, ldmseg_tables, paper_tables, semflow_tables
from benchmarks import timed as timed_lib
from pix2seqd_jax.experiment import build, runs, schema
from pix2seqd_jax.experiment import workdir as workdirs
from pix2seqd_jax.train import evaluate

NAME = 'paper'
SAMPLING = 'sampling'
NOISE_BAR = 0.1  # of PQ and of things' PQ, 0..1
SCORES = {
  'pq': 'PQ',
  'pq_things': 'things',
  'pq_stuff': 'stuff',
  'miou': 'mIoU',
}
AGNOSTIC = {'pq': 'PQ', 'sq': 'SQ', 'rq': 'RQ'}


class States(NamedTuple):
  """Metric states of one image, by the name of their read-out."""

  states: Mapping[Any, Any]

  def merge(self, other: 'States') -> 'States':
    return States({k: s.merge(other.states[k]) for k, s in self.states.items()})

  def compute(self) -> dict[Any, dict[str, float]]:
    return {k: s.compute() for k, s in self.states.items()}


@dataclasses.dataclass(frozen=True)
class ReadOuts:
  """Tasks that share one sampling; a types.Task."""

  tasks: Mapping[Any, Any]
  given: tuple[str, ...] = ()

  def predict(self, sample_fn, batch, keys):
    return sample_fn(batch, keys)

  def refine(self, segmentation):
    return segmentation

  def metrics(self, segmentation, meta) -> States:
    return States(
      {
        name: task.metrics(task.refine(segmentation), meta)
        for name, task in self.tasks.items()
      }
    )


def with_noise(batches: Iterator, seed: int) -> Iterator:
  """Batches whose images are uniform noise; truth and padding stay."""
  rng = np.random.default_rng(seed)
  for batch in batches:
    image = batch['image']
    noise = rng.integers(0, 256, image.shape, dtype=image.dtype)
    yield {**batch, 'image': noise}


def score(
  experiment: build.Experiment,
  params: Any,
  *,
  num_examples: int | None = None,
  steps: int | None = None,
  td: float | None = None,
  min_pixels: Sequence[int] | None = None,
  noise: bool = False,
) -> dict[int, dict[str, float]]:
  """Metrics by minimum area, from one sampling; with 'seconds' an image."""
  config = schema.from_plain(experiment.config)
  areas = min_pixels or (config.task.min_pixels,)
  tasks = {
    area: build.Experiment(
      common.override(config, {'task.min_pixels': area}), experiment.categories
    ).task
    for area in areas
  }
  batches = experiment.eval_batches(num_examples)
  timed = timed_lib.Timed(experiment.sample_fn(steps, td, mesh=experiment.mesh))
  found = evaluate.evaluate(
    experiment.model,
    ReadOuts(tasks, tasks[areas[0]].given),
    params,
    with_noise(batches, experiment.sample_seed) if noise else batches,
    sample_fn=timed,
    seed=experiment.sample_seed,
    mesh=experiment.mesh,
  )
  seconds = timed.seconds / timed.images
  return {area: {**found[area], 'seconds': seconds} for area in areas}


def train(config, overrides: Mapping[str, Any], steps: int, workdir):
  """(experiment, params, folder) of a variant; trained unless it has been.

  Variants that change nothing in the config share one folder.

  Raises:
    ValueError: the folder holds a run of another config.
  """
  plain = schema.plain(config)
  changes = {k: v for k, v in overrides.items() if _value(plain, k) != v}
  name = ','.join(f'{k}={_short(v)}' for k, v in changes.items()) or 'base'
  folder = pathlib.Path(workdir) / f'{name}-{steps}'
  settings = {'train.steps': steps, 'train.eval_every': 0}
  experiment = build.Experiment(
    common.override(config, {**changes, **settings, 'train.best_metric': ''})
  )
  with contextlib.redirect_stdout(sys.stderr):
    print(f'{folder}:')
    # Also checks that the folder is this config's, and returns at once where
    # it is done.
    state = runs.train(schema.from_plain(experiment.config), folder)
  if int(state.step) < steps:
    raise KeyboardInterrupt(f'{folder} stopped at step {int(state.step)}.')
  params = workdirs.load_params(experiment, folder, steps, mesh=experiment.mesh)
  return experiment, params, folder


def _value(node, key):
  for part in key.split('.'):
    node = node.get(part, {})
  return node


def _short(value) -> str:
  """A value as a part of a folder's name."""
  if isinstance(value, Mapping):
    value = '-'.join(str(v) for v in value.values())
  return re.sub(r'[^\w.]+', '_', str(value)).strip('_')


def _columns(task) -> dict[str, str]:
  return AGNOSTIC if getattr(task, 'class_agnostic', False) else SCORES


def _percent(found: Mapping[str, float], names) -> list[Any]:
  values = [
    None if found.get(k) is None else f'{100 * found[k]:.1f}' for k in names
  ]
  return [*values, found['seconds']]


def _logged(folder: pathlib.Path) -> dict[str, float | None]:
  """Milliseconds a training step, and the last deviation of the latents."""
  path = folder / 'metrics.jsonl'
  lines = path.read_text().splitlines() if path.is_file() else []
  logged = [json.loads(line) for line in lines]
  rates = [e['steps_per_second'] for e in logged if 'steps_per_second' in e]
  stds = [e['latent_std'] for e in logged if 'latent_std' in e]
  return {
    'ms/step': 1000 / statistics.median(rates) if rates else None,
    'std': stds[-1] if stds else None,
  }


def trained_table(args, config):
  """(columns, rows, numbers, a header's sizes) of a table of trained runs."""
  table = tables()[args.table]
  rows, numbers, about = [], [], ''
  for row in table.rows:
    experiment, params, folder = train(
      config, row.overrides, args.steps, args.workdir
    )
    names = _columns(experiment.task)
    logged = {k: v for k, v in _logged(folder).items() if v is not None}
    about = f'{common.sizes(experiment.config)}, {common.parameters(params)}'
    found = score(experiment, params, num_examples=args.num_examples)
    [metrics] = found.values()
    rows.append(
      [row.label, row.paper_pq, *_percent(metrics, names), *logged.values()]
    )
    case = {'label': row.label, 'paper_pq': row.paper_pq}
    numbers.append({**case, 'metrics': metrics, **logged})
  sample = config.sample
  about += (
    f', {args.steps} training steps of batch {config.data.batch_size} each, '
    f'sampled with {sample.steps} steps, td {sample.td:g}, '
    f'{args.num_examples} held-out images'
  )
  columns = [table.column, 'paper PQ', *names.values(), 's/image', *logged]
  return columns, rows, numbers, about


def sampling_table(args):
  """The same for steps x td x minimum area of one checkpoint."""
  experiment = workdirs.load(args.checkpoint)
  step = workdirs.find_step(args.checkpoint, args.step)
  params = workdirs.load_params(
    experiment, args.checkpoint, step, mesh=experiment.mesh
  )
  config = schema.from_plain(experiment.config)
  usual = config.task.min_pixels
  areas = sorted(set(args.min_pixels or (0, usual // 2, usual, 2 * usual)))
  cases = [(s, td, False) for s in args.sample_steps for td in args.td]
  cases.append((config.sample.steps, float(config.sample.td), True))
  names = _columns(experiment.task)
  rows, numbers = [], []
  for steps, td, noise in cases:
    found = score(
      experiment,
      params,
      num_examples=args.num_examples,
      steps=steps,
      td=td,
      min_pixels=(usual,) if noise else areas,
      noise=noise,
    )
    for area, metrics in found.items():
      paper = None
      if td == paper_tables.FINAL_TD and area == usual and not noise:
        paper = paper_tables.FINAL.get(steps)
      label = f'{steps}, noise for images' if noise else steps
      shown = None if paper is None else ' / '.join(map(str, paper))
      rows.append([label, td, area, shown, *_percent(metrics, names)])
      case = {'steps': steps, 'td': td, 'min_pixels': area, 'noise': noise}
      numbers.append({**case, 'paper': paper, 'metrics': metrics})
    print(f'steps {steps}, td {td}: done', file=sys.stderr)
  about = (
    f'{common.sizes(config)}, {common.parameters(params)}, checkpoint of step '
    f'{step}, {args.num_examples} held-out images'
  )
  columns = ['steps', 'td', 'min. area', 'paper PQ / things / stuff']
  columns += [*names.values(), 's/image']
  return columns, rows, numbers, about


def _noise_verdict(numbers) -> str:
  found = numbers[-1]['metrics']
  worst = max(found['pq'], found.get('pq_things', 0.0))
  word = 'below' if worst < NOISE_BAR else 'NOT below'
  return (
    f'With noise for images PQ is {found["pq"]:.3f} and of things '
    f'{found.get("pq_things", 0.0):.3f}: {word} the bar of {NOISE_BAR}.'
  )


def tables() -> dict[str, paper_tables.Table]:
  """All tables whose rows are trained, by name."""
  return {**paper_tables.TRAINED, **ldmseg_tables.TRAINED}


def main(argv=None) -> int:
  argv = common.arguments(argv)
  parser = _parser()
  args = parser.parse_args(argv)
  if args.table == SAMPLING:
    if not args.checkpoint:
      parser.error('--table sampling needs --checkpoint WORKDIR.')
    title = 'Steps, asymmetric time, minimum area'
    args.sample_steps = args.sample_steps or (5, 10, 20, 50)
    columns, rows, numbers, about = sampling_table(args)
    parts = [common.table(columns, rows), _noise_verdict(numbers)]
  elif args.table in semflow_tables.TABLES:
    if not args.runs:
      parser.error(f'--table {args.table} needs --runs WORKDIR ...')
    title, found, about = semflow_tables.make(args)
    parts = [common.table(found.columns, found.rows), *found.said]
    numbers = found.numbers
  else:
    table = tables()[args.table]
    title = table.title
    config = common.load_config(args.config or table.config, args.set)
    args.steps = args.steps or config.train.steps
    columns, rows, numbers, about = trained_table(args, config)
    parts = [common.table(columns, rows)]
  common.report(
    args,
    argv,
    name=NAME,
    title=title,
    about=about,
    parts=parts,
    numbers={'table': args.table, 'rows': numbers},
    stem=args.table,
  )
  return 0


def _parser():
  parser = common.parser(NAME, __doc__, '')
  add = parser.add_argument
  names = (*tables(), SAMPLING, *semflow_tables.TABLES)
  add('--table', required=True, choices=names)
  add('--steps', type=int, help='of training; the config has')
  add('--num_examples', type=int, default=256)
  add('--workdir', default='runs/paper')
  add('--checkpoint', help='sampling: a trained WORKDIR')
  add('--runs', nargs='+', default=(), help='semflow: trained WORKDIRs')
  add('--step', default='', help="sampling, semflow: a step or 'best'")
  add('--sample_steps', type=int, nargs='+', help='the table has')
  add('--td', type=float, nargs='+', default=(0.0, 1, 2, 4))
  add('--min_pixels', type=int, nargs='+', help="0, half, one, two of config's")
  return parser


if __name__ == '__main__':
  sys.exit(main())
