"""SemFlow's ceiling: mIoU of true masks sent through the autoencoder alone.

  python -m benchmarks.round_trip --workdir runs/semflow
  python -m benchmarks.round_trip --config configs/semflow_shapes.py \
    --autoencoder runs/semflow_autoencoder --perturbation 0 6.375 12.5 24

No flow: the true classes are resized to the image's size, painted in the
anchors' colours, moved at random, encoded, decoded, and each pixel gets the
class of the nearest anchor at the original size. A flow would have to be lucky
to segment better; so this is measured before one is trained. The first row is
without the autoencoder: what resizing alone takes away.

The weights are those of --workdir, or the autoencoder of another run: of
--autoencoder, an image_autoencoder's, or of the config's init_from.
"""

import argparse
import dataclasses
import functools
import sys
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import common
from pix2seqd_jax.experiment import build
from pix2seqd_jax.experiment import workdir as workdirs
from pix2seqd_jax.models import semflow
from pix2seqd_jax.tasks.semantic import SemanticTask
from pix2seqd_jax.train import evaluate
from pix2seqd_jax.train.checkpoints import weights
from pix2seqd_jax.types import Params

NAME = 'round_trip'
_IMAGE = 'frozen/image'
SHOWN = ('miou', 'pixel_accuracy')


class GivenMasks(SemanticTask):
  """The true classes, at the size of the mask, are what is sent through."""

  given = ('semantic',)


def load(args: argparse.Namespace) -> tuple[build.Experiment, Params]:
  """The parts and an autoencoder; the flow's weights may be shapes only.

  Raises:
    ValueError: the model is no SemFlow, or nothing says whose weights to take.
  """
  if args.workdir:
    if args.set or args.autoencoder:
      raise ValueError(
        '--workdir goes by its own config and weights; drop --set and '
        '--autoencoder, or give --config in place of --workdir.'
      )
    experiment = workdirs.load(args.workdir)
    _check(experiment)
    step = workdirs.find_step(args.workdir, args.step)
    return experiment, workdirs.load_params(experiment, args.workdir, step)
  experiment = build.Experiment(common.load_config(args.config, args.set))
  _check(experiment)
  entries = experiment.init_from
  if args.autoencoder:
    entries = ((args.autoencoder, 'net/autoencoder', _IMAGE, 'exact'),)
  entries = [entry for entry in entries if entry[2] == _IMAGE]
  if not entries:
    raise ValueError(
      'whose autoencoder? Give --workdir or --autoencoder: the init_from of '
      f'{args.config} names none for {_IMAGE}.'
    )
  weights.check_entries(entries)
  shapes = jax.eval_shape(
    experiment.model.init, jax.random.key(0), experiment.abstract_batch()
  )
  return experiment, weights.init_from(shapes, entries)[0]


def _check(experiment):
  if not isinstance(experiment.model, semflow.SemFlow):
    name = experiment.config['model']['name']
    raise ValueError(
      f'model.name={name!r} paints no masks; name a run or a config of semflow.'
    )


def untouched(params: Params, batch: Any, keys: Any) -> dict[str, Any]:
  """What is given, as if it had been read out without error."""
  semantic = batch['given']['semantic']
  return {'semantic': semantic, 'score': np.ones(semantic.shape, np.float32)}


class Trip:
  """There and back by the autoencoder of a model; compiled once."""

  def __init__(self, model: semflow.SemFlow):
    self.model = model

    @jax.jit
    def run(level, params, batch, keys):
      levels = jnp.full(keys.shape[0], level, jnp.float32)
      classes = batch['given']['semantic']  # not the colours of :colors
      given = {'semantic': classes, 'perturbation': levels}
      # Of the baseline too, which has no way from masks to images.
      x_0 = semflow.SemFlow.start(
        model, params, {**batch, 'given': given}, keys
      )
      return model.decode(params, x_0, {})  # as of a mask that was found

    self._run = run

  def sampler(self, perturbation: float | int) -> Callable[..., Any]:
    """(params, batch, keys) -> the masks that are given, decoded again."""
    return functools.partial(self._run, float(perturbation))


def score(
  experiment: build.Experiment,
  params: Params,
  trip: Trip | None = None,
  perturbation: float | int = 0.0,
  num_examples: int | None = None,
) -> dict[str, float]:
  """Metrics of the true masks after their way there and back.

  Args:
    experiment: of a SemFlow.
    params: its frozen part alone is read.
    trip: None leaves the autoencoder out.
    perturbation: in levels of 0..255.
    num_examples: the first so many only; None for all.
  """
  model = dataclasses.replace(experiment.model, resize='labels')
  return evaluate.evaluate(
    model if trip is None else trip.model,
    GivenMasks(experiment.categories),
    {'frozen': params['frozen']},
    experiment.eval_batches(num_examples),
    sample_fn=untouched if trip is None else trip.sampler(perturbation),
    seed=experiment.sample_seed,
    progress=False,
  )


def rows_of(
  experiment: build.Experiment, params: Params, args: argparse.Namespace
) -> list[dict[str, Any]]:
  """A row for what resizing takes away, and one for each setting."""
  levels = args.perturbation
  for level in levels or ():
    experiment.model.check_perturbation(level, '--perturbation')
  if levels is None:
    levels = sorted({0.0, float(experiment.model.perturbation)})
  cases = [(None, 'labels', None)]
  for resize in args.resize:
    trip = Trip(dataclasses.replace(experiment.model, resize=resize))
    cases += [(level, resize, trip) for level in levels]
  rows = []
  for level, resize, trip in cases:
    found = score(experiment, params, trip, level or 0.0, args.num_examples)
    case = {'perturbation': level, 'resize': resize}
    rows.append({**case, 'metrics': found})
    print(f'{case}: mIoU {found["miou"]:.4f}', file=sys.stderr)
  return rows


def tables(rows: Sequence[dict[str, Any]]) -> list[str]:
  """Scores of each row, and the IoU of each class."""
  lines = [
    [
      'no autoencoder' if row['perturbation'] is None else row['perturbation'],
      row['resize'],
      *(row['metrics'][key] for key in SHOWN),
    ]
    for row in rows
  ]
  names = [k for k in rows[0]['metrics'] if k.startswith('iou_class/')]
  classes = [
    [name.partition('/')[2], *(row['metrics'][name] for row in rows)]
    for name in names
  ]
  columns = [f'{line[0]}, {line[1]}' for line in lines]
  return [
    common.table(['perturbation', 'resize', 'mIoU', 'pixels'], lines),
    common.table(['IoU of class', *columns], classes),
  ]


def main(argv: Sequence[str] | None = None) -> int:
  argv = common.arguments(argv)
  parser = common.parser(NAME, __doc__, 'configs/semflow_shapes.py')
  parser.add_argument('--workdir', help='a run of semflow; its config counts')
  parser.add_argument('--step', default='', help="its checkpoint, or 'best'")
  parser.add_argument('--autoencoder', help='a run of image_autoencoder')
  parser.add_argument('--num_examples', type=int, help='all without')
  parser.add_argument(
    '--perturbation',
    type=float,
    nargs='+',
    help="in levels of 0..255; without: 0 and the model's",
  )
  parser.add_argument(
    '--resize', nargs='+', default=semflow.RESIZES, choices=semflow.RESIZES
  )
  args = parser.parse_args(argv)
  experiment, params = load(args)
  rows = rows_of(experiment, params, args)
  anchors = experiment.model.palette
  common.report(
    args,
    argv,
    name=NAME,
    title='Masks through the autoencoder: the ceiling of SemFlow',
    about=f'{common.sizes(experiment.config)}, {anchors.num_classes} colours '
    f'of {anchors.levels} levels, {anchors.spacing} apart',
    parts=tables(rows),
    numbers={'rows': rows},
  )
  return 0


if __name__ == '__main__':
  sys.exit(main())
