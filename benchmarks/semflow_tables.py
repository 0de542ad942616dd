"""The tables of the SemFlow paper, https://arxiv.org/abs/2405.20282.

Each takes trained runs (--runs) and measures all of them on the same held-out
examples, on one device; runs are to be trained by equal budgets, which is for
who trains them to see to. Tables of synthesis leave the baseline out, which
draws no images. Calls of the network that rk45 chooses for itself are counted
as it runs.
"""

import argparse
import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from benchmarks import common, semflow_runs
from benchmarks.semflow_runs import EULER, Run
from pix2seqd_jax.cli import show_flow
from pix2seqd_jax.diffusion import straightness
from pix2seqd_jax.experiment import schema
from pix2seqd_jax.inference import pipeline
from pix2seqd_jax.inference.synthesis import FACTORS

STEPS = (1, 2, 5, 10, 25, 50, 100, 200)
# The paper's mIoU of COCO-Stuff by steps (table 2), in percent.
PAPER_STEPS = {
  'Euler': dict(
    zip(STEPS, (28.3, 31.0, 36.9, 38.4, 38.6, 38.4, 38.3, 38.3), strict=True)
  ),
  'DDIM': {2: 0.1, 5: 4.0, 10: 9.5, 25: 13.6, 50: 14.9, 100: 15.7, 200: 16.1},
  'DDPM': {2: 0.1, 5: 5.3, 10: 12.3, 25: 17.5, 50: 18.9, 100: 19.6, 200: 20.2},
}
# And of CelebAMask-HQ (table 1): FID, and an LPIPS that it does not define.
PAPER_FID, PAPER_LPIPS = 32.6, 0.393
SYNTHESIS_STEPS = (1, 2, 5, 10, 25)
SEEDS = 5
PATH_STEPS, PATHS = 50, 16
# What runs that are compared must have in common, of config.data.
_SAME = ('name', 'root', 'eval', 'num_classes', 'image_size')


# Of the solvers' table: with how many steps.
SOLVERS = (
  (EULER, 25),
  (semflow_runs.Sampler('Heun', 'heun'), 13),
  (semflow_runs.Sampler('Heun', 'heun'), 25),
  (semflow_runs.Sampler('RK45 1e-3', 'rk45', {'rtol': 1e-3, 'atol': 1e-3}), 1),
  (semflow_runs.Sampler('RK45 1e-5', 'rk45', {'rtol': 1e-5, 'atol': 1e-5}), 1),
)
SCORES = {
  'fid': 'FID',
  'lpips_pairwise': 'LPIPS to the truth',
  'lpips_diversity': 'LPIPS of samples',
}


class Table(NamedTuple):
  """What a table says.

  Attributes:
    columns, rows: of it.
    numbers: a dict for each measurement, for programs.
    said: sentences below it.
  """

  columns: list[str]
  rows: list[list[Any]]
  numbers: list[dict[str, Any]]
  said: Sequence[str] = ()


def by_steps(runs: Sequence[Run], steps: Sequence[int]) -> Table:
  """mIoU and seconds by steps, of every run by every sampler (table 2)."""
  ways = [(run, sampler) for run in runs for sampler in run.samplers]
  rows, numbers = [], []
  for count in steps:
    row = [count]
    for run, sampler in ways:
      found = run.score(sampler, count)
      paper = PAPER_STEPS[sampler.name].get(count)
      row += [paper, _percent(found['miou']), found['seconds']]
      case = {'run': run.name, 'sampler': sampler.name, 'steps': count}
      numbers.append({**case, 'paper_miou': paper, **found})
    rows.append(row)
  columns = ['steps']
  for run, sampler in ways:
    columns += ['paper', f'{run.name}, {sampler.name}', 's/image']
  said = []
  theirs = [n for n in numbers if n['sampler'] != EULER.name]
  for run in runs if theirs else ():
    if not run.draws:
      continue
    ours = [n for n in numbers if n['run'] == run.name]
    above = [
      n['steps']
      for n in ours
      if all(n['miou'] > t['miou'] for t in theirs if t['steps'] == n['steps'])
    ]
    word = 'at every number of steps' if len(above) == len(ours) else f'{above}'
    said.append(f'{run.name} is above the baselines: {word}.')
  return Table(columns, rows, numbers, said)


def by_seeds(runs: Sequence[Run], steps: Sequence[int]) -> Table:
  """How far answers differ from seed to seed."""
  rows, numbers = [], []
  for run, count in itertools.product(runs, steps):
    for sampler in run.samplers:
      mious, maps = [], []
      for seed in range(SEEDS):
        seen = []
        found = run.score(
          sampler,
          count,
          seed=seed,
          on_example=lambda one, seen=seen: seen.append(one.semantic.ravel()),
        )
        mious.append(found['miou'])
        maps.append(np.concatenate(seen))
      pairs = itertools.combinations(maps, 2)
      same = np.mean([np.mean(a == b) for a, b in pairs])
      case = {
        'run': run.name,
        'sampler': sampler.name,
        'steps': count,
        'miou': float(np.mean(mious)),
        'miou_std': float(np.std(mious)),
        'agreement': float(same),
        'all_agree': float((np.stack(maps) == maps[0]).all(0).mean()),
      }
      numbers.append(case)
      scores = ('miou', 'miou_std', 'agreement', 'all_agree')
      shown = [_percent(case[k]) for k in scores]
      rows.append([run.name, sampler.name, count, *shown])
  columns = ['run', 'sampler', 'steps', 'mIoU', 'its deviation']
  columns += ['pixels on which two seeds agree', f'all {SEEDS} agree']
  return Table(columns, rows, numbers)


def by_solver(runs: Sequence[Run], steps: Sequence[int]) -> Table:
  """Calls of the network, mIoU and FID of solvers; steps are the solvers'."""
  del steps
  rows, numbers = [], []
  for run, (sampler, count) in itertools.product(_drawing(runs), SOLVERS):
    there = run.score(sampler, count)
    back = run.score(sampler, count, 'synthesis', num_samples=1)
    case = {'run': run.name, 'sampler': sampler.name, 'steps': count}
    numbers.append({**case, 'segmentation': there, 'synthesis': back})
    scores = [_percent(there['miou']), there['calls'], there['seconds']]
    scores += [back['fid'], back['calls_back']]
    rows.append([run.name, sampler.name, count, *scores])
  columns = ['run', 'solver', 'steps', 'mIoU', 'calls', 's/image']
  columns += ['FID', 'calls of synthesis']
  return Table(columns, rows, numbers, _cut_short(numbers))


def _cut_short(numbers):
  """What rk45's max_steps left undone: it is no solution to its tolerance."""
  said = []
  for one in numbers:
    for way, key in (('segmentation', ''), ('synthesis', '_back')):
      if count := one[way][f'cut_short{key}']:
        said.append(
          f'{one["sampler"]} of {one["run"]}, {way}: max_steps cut {count} '
          'images short.'
        )
  return said


def synthesis(runs: Sequence[Run], steps: Sequence[int]) -> Table:
  """FID and LPIPS of images by steps, and whether they show the mask."""
  rows, numbers = [], []
  for run, count in itertools.product(_drawing(runs), steps):
    found = run.score(EULER, count, 'synthesis')
    numbers.append({'run': run.name, 'steps': count, **found})
    scores = [found[k] for k in SCORES]
    again = _percent(found['resegmentation_miou'])
    rows.append([run.name, count, *scores, again])
  columns = ['run', 'steps', *SCORES.values(), 'mIoU of the re-segmentation']
  said = [_networks(numbers)] if numbers else []
  said.append(
    f'The paper has FID {PAPER_FID} and LPIPS {PAPER_LPIPS} on CelebAMask-HQ '
    'at 25 steps.'
  )
  return Table(columns, rows, numbers, said)


def by_noise(runs: Sequence[Run], steps: Sequence[int]) -> Table:
  """Images by the noise on masks, in training and in sampling: without any
  all samples of a mask are one."""
  rows, numbers = [], []
  runs = _drawing(runs)
  widest = max(run.experiment.model.perturbation for run in runs)
  limit = min(run.experiment.model.palette.spacing for run in runs) / 2
  factors = [f for f in FACTORS if f * widest < limit]
  for run, factor in itertools.product(runs, factors):
    count = run.steps if steps is None else steps[-1]
    seen = []
    found = run.score(
      EULER,
      count,
      'synthesis',
      on_example=lambda one, seen=seen: seen.append(one.image.mean() / 255),
      perturbation=factor * widest,
    )
    trained = run.experiment.model.perturbation
    case = {'run': run.name, 'trained': trained, 'given': factor * widest}
    case['brightness'] = float(np.mean(seen))
    numbers.append({**case, **found})
    scores = [found[k] for k in SCORES]
    again = _percent(found['resegmentation_miou'])
    rows.append([*case.values(), *scores, again])
  columns = ['run', 'noise in training', 'noise given', 'brightness']
  columns += [*SCORES.values(), 'mIoU of the re-segmentation']
  truth = list(itertools.chain(*map(_brightness, runs[0].batches)))
  said = [
    'Noise is half its width, in levels of 0..255. The true images have the '
    f'brightness {np.mean(truth):.3f}. {_networks(numbers)}'
  ]
  if len(factors) < len(FACTORS):
    said.append(
      f'Noise of {limit:g} and more would make one class another: left out.'
    )
  return Table(columns, rows, numbers, said)


def straight(runs: Sequence[Run], steps: Sequence[int]) -> Table:
  """How straight paths are, beside mIoU and FID of few steps."""
  rows, numbers = [], []
  runs = _drawing(runs)
  for run in runs:
    pipe = pipeline.Pipeline(run.experiment, run.params)
    follower, paths = show_flow.Follower(pipe, PATH_STEPS), {}
    for example in show_flow.examples(pipe, num=min(PATHS, run.num_examples)):
      for direction, given in zip(
        show_flow.DIRECTIONS, example[1:], strict=True
      ):
        path = getattr(follower, direction)(given)
        paths.setdefault(direction, []).append(path.states)
    case = {'run': run.name}
    for direction, states in paths.items():
      told = straightness.straightness(np.concatenate(states, 1))
      case[direction] = {'S': told.value, 'relative': told.relative}
    few = {n: run.score(EULER, n, 'synthesis', num_samples=1) for n in steps}
    plain = {n: run.score(EULER, n) for n in steps}
    for n in steps:
      case[f'miou_{n}'], case[f'fid_{n}'] = plain[n]['miou'], few[n]['fid']
    numbers.append(case)
    shown = [
      case[d][k] for d in show_flow.DIRECTIONS for k in ('S', 'relative')
    ]
    shown += [_percent(plain[n]['miou']) for n in steps]
    rows.append([run.name, *shown, *(few[n]['fid'] for n in steps)])
  columns = ['run', 'S to masks', 'relative', 'S to images', 'relative']
  columns += [f'mIoU, {n}' for n in steps] + [f'FID, {n}' for n in steps]
  said = [
    f'S is over {PATH_STEPS} steps; relative to the squared length of straight '
    'lines, 0 is straight.'
  ]
  return Table(columns, rows, numbers, said)


class Kind(NamedTuple):
  """A table: its title, what makes it, and for which steps if not told."""

  title: str
  make: Callable[[Sequence[Run], Any], Table]
  steps: tuple[int, ...] | None


TABLES = {
  'semflow_steps': Kind('SemFlow: mIoU by steps', by_steps, STEPS),
  'semflow_agreement': Kind('SemFlow: agreement over seeds', by_seeds, (25,)),
  'semflow_solvers': Kind('SemFlow: solvers', by_solver, None),
  'semflow_synthesis': Kind(
    'SemFlow: synthesis by steps', synthesis, SYNTHESIS_STEPS
  ),
  'semflow_perturbation': Kind('SemFlow: noise on masks', by_noise, None),
  'semflow_straightness': Kind(
    'SemFlow: straightness of paths', straight, (1, 2, 25)
  ),
}


def make(args: argparse.Namespace) -> tuple[str, Table, str]:
  """(title, table, what the header tells) of args.table.

  Args:
    args: of benchmarks.paper: table, runs, step, num_examples, sample_steps.

  Raises:
    ValueError: a folder without a run, or runs of different data.
  """
  runs = [Run(folder, args.step, args.num_examples) for folder in args.runs]
  configs = [run.experiment.config for run in runs]
  for run, config in zip(runs[1:], configs[1:], strict=True):
    if any(config['data'][k] != configs[0]['data'][k] for k in _SAME):
      raise ValueError(
        f'{run.folder} is of other data than {runs[0].folder}; compare runs '
        'of one data set.'
      )
  kind = TABLES[args.table]
  found = kind.make(runs, args.sample_steps or kind.steps)
  told = [
    f'{run.name} at step {run.step} ({common.parameters(run.params)})'
    for run in runs
  ]
  count = sum(int(batch['is_real'].sum()) for batch in runs[0].batches)
  about = f'{common.sizes(schema.plain(configs[0]))}, {count} '
  return kind.title, found, about + f'held-out images; {"; ".join(told)}'


def _brightness(batch):
  """Of each true image: fillers of a batch and padding do not count."""
  values = batch['image'].mean(-1) / 255
  kept = zip(values, batch['valid'], batch['is_real'], strict=True)
  return [image[valid].mean() for image, valid, real in kept if real]


def _drawing(runs):
  found = [run for run in runs if run.draws]
  if not found:
    raise ValueError('none of --runs makes images of masks; name a SemFlow.')
  return found


def _networks(numbers) -> str:
  found = numbers[0]
  networks = {
    'FID': found['fid_is_inception'],
    'LPIPS': found['lpips_is_trained'],
  }
  odd = [name for name, standard in networks.items() if not standard]
  if not odd:
    return 'FID is by Inception and LPIPS by its own weights.'
  return (
    f'{" and ".join(odd)}: of stand-in networks (see '
    'pix2seqd_jax/pretrained/perceptual.py):'
    ' compare them within this table only.'
  )


def _percent(value: float) -> str:
  return f'{100 * value:.1f}'
