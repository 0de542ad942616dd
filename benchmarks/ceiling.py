"""What a mask size allows: PQ of the truth sent through it.

  python -m benchmarks.ceiling --mask 64 128 256 --num_ids 101

No network: the truth goes through the eval transforms of the config, down to
the mask (nearest), loses the smallest segments above num_ids - 1, and
is read out again as a perfect prediction would be. No model of that mask size
scores more.

`image factor` is the side of the image over that of the mask. At 1 labels
are resized once: what the mask alone allows. At 2 they are resized to the
image and then to the mask, as in training; two nearest resizes with
half-pixel centres shift more than one (by 1.5 of 4 pixels where one step
shifts by 0.5), which costs small segments.
"""

import dataclasses
import sys

import numpy as np

from benchmarks import common
from pix2seqd_jax.data import pipeline
from pix2seqd_jax.experiment import build

NAME = 'ceiling'


@dataclasses.dataclass(frozen=True)
class Setting:
  """A mask's side and the number of ids, the null id included."""

  mask: int
  image_factor: float
  num_ids: int


def experiment_of(config, setting: Setting, min_pixels: int):
  """The config's parts in this setting."""
  image = round(setting.mask * setting.image_factor)
  values = {
    'data.mask_size': (setting.mask,) * 2,
    'data.image_size': (image,) * 2,
    'data.num_ids': setting.num_ids,
    'model.instance_bits': (setting.num_ids - 1).bit_length(),
    'task.min_pixels': min_pixels,
  }
  return build.Experiment(common.override(config, values))


def ceiling(experiment: build.Experiment, source, num_examples=None) -> dict:
  """Metrics of the truth after its way down and up."""
  total = None
  batches = pipeline.eval_batches(
    source,
    experiment.transform('eval'),
    batch_size=1,
    num_examples=num_examples,
  )
  for batch in batches:
    [meta] = batch['meta']
    raw = {k: batch[k][0] for k in ('semantic', 'instance')}
    raw['score'] = np.ones(raw['semantic'].shape, np.float32)
    found = experiment.model.postprocess(raw, meta)
    state = experiment.task.metrics(experiment.task.refine(found), meta)
    total = state if total is None else total.merge(state)
  return total.compute()


def tables(settings, results) -> list[str]:
  """All scores of each setting, and PQ of each class."""
  rows = [
    [s.mask, s.image_factor, s.num_ids]
    + [
      r.get(f'{key}{group}')
      for group in ('', '_things', '_stuff')
      for key in ('pq', 'sq', 'rq')
    ]
    for s, r in zip(settings, results)
  ]
  columns = ['mask', 'image factor', 'ids', 'PQ', 'SQ', 'RQ']
  columns += [
    f'{k} {g}' for g in ('things', 'stuff') for k in ('PQ', 'SQ', 'RQ')
  ]
  names = [k for k in results[0] if k.startswith('pq_class/')]
  classes = [[k.partition('/')[2], *(r[k] for r in results)] for k in names]
  per_class = ['PQ of class']
  per_class += [
    f'{s.mask}, x{s.image_factor:g}, {s.num_ids} ids' for s in settings
  ]
  return [common.table(columns, rows), common.table(per_class, classes)]


def main(argv=None) -> int:
  argv = common.arguments(argv)
  parser = common.parser(NAME, __doc__, 'configs/pix2seq_d_nuclei.py')
  parser.add_argument('--mask', type=int, nargs='+', default=(64, 128, 256))
  parser.add_argument('--num_ids', type=int, nargs='+', default=(101,))
  parser.add_argument('--num_examples', type=int, help='all without')
  parser.add_argument('--image_factor', type=float, nargs='+', default=(1, 2))
  parser.add_argument(
    '--min_pixels', type=int, default=0, help='smaller segments are void'
  )
  args = parser.parse_args(argv)
  config = common.load_config(args.config, args.set)
  settings = [
    Setting(mask, factor, count)
    for factor in args.image_factor
    for mask in args.mask
    for count in args.num_ids
  ]
  results = []
  for setting in settings:
    experiment = experiment_of(config, setting, args.min_pixels)
    source = experiment.source('eval')
    results.append(ceiling(experiment, source, args.num_examples))
    print(f'{setting}: PQ {results[-1]["pq"]:.4f}', file=sys.stderr)
  parts = tables(settings, results)
  common.report(
    args,
    argv,
    name=NAME,
    title='The ceiling of a mask size',
    about=f'{config.data.name}, '
    f'{min(len(source), args.num_examples or len(source))} images, segments '
    f'below {experiment.task.min_pixels} pixels dropped',
    parts=parts,
    numbers={
      'rows': [
        {**dataclasses.asdict(s), 'metrics': r}
        for s, r in zip(settings, results)
      ]
    },
  )
  return 0


if __name__ == '__main__':
  sys.exit(main())
