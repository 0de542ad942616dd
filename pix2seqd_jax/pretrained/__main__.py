"""Other people's checkpoints -> directories of ours.

  python -m pix2seqd_jax.pretrained --from pix2seq-tf --checkpoint CKPT \
    --out runs/original --config configs/pix2seq_d_coco.py:highres \
    --categories panoptic_val2017.json
  python -m pix2seqd_jax.pretrained --from pix2seq-tf --checkpoint CKPT \
    --part encoder --out runs/detector

The first is one for Pipeline.from_pretrained and config.init_from. The second
holds the encoder alone, of a Pix2Seq-D or of a detector, for
--config.init_from="(('runs/detector','encoder','encoder','exact'),)".
--config.KEY=VALUE changes the recipe. --dry-run prints which name becomes
which, reads no value and writes nothing.
"""

import argparse
import json
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax

from pix2seqd_jax import arguments, build, workdir
from pix2seqd_jax.data import categories
from pix2seqd_jax.pretrained import pix2seq_tf, tf_checkpoint
from pix2seqd_jax.pretrained.plan import Plan
from pix2seqd_jax.train import state, weights

FILE = 'pretrained.json'  # where the weights of a directory come from


class Converter(NamedTuple):
  """One kind of checkpoint.

  Attributes:
    read: path -> {name: anything with a shape that NumPy can read}.
    parts: what can be taken of it, 'all' first.
    plan: (variables, wanted tree, ema=, part=) -> Plan.
    has_averages: (variables, part) -> whether ema=True can be asked for.
  """

  read: Callable[[str], Mapping[str, Any]]
  parts: tuple[str, ...]
  plan: Callable[..., Plan]
  has_averages: Callable[[Mapping[str, Any], str], bool]


CONVERTERS = {
  'pix2seq-tf': Converter(
    read=tf_checkpoint.read,
    parts=tuple(pix2seq_tf.PARTS),
    plan=pix2seq_tf.plan,
    has_averages=pix2seq_tf.has_averages,
  ),
}


def wanted_tree(experiment: build.Experiment, part: str) -> dict[str, Any]:
  """Shapes of the model's parameters, or of a part of them.

  Raises:
    ValueError: the model has no such part.
  """
  tree = jax.eval_shape(
    experiment.model.init, jax.random.key(0), experiment.abstract_batch()
  )
  tree = {name: tree.get(name, {}) for name in state.AVERAGED}
  if part == 'all':
    return tree
  if part not in tree['net']:
    raise ValueError(
      f'--part={part}: the model of --config has {sorted(tree["net"])} only.'
    )
  return {
    name: {part: found[part]} for name, found in tree.items() if part in found
  }


def _check_folder(out: pathlib.Path) -> None:
  if out.exists() and (not out.is_dir() or any(out.iterdir())):
    raise ValueError(f'--out={out} is not empty; name a new directory.')


def _classes(experiment, path):
  """Those of a file, a categories.json or COCO's; else of the data set."""
  if not path:
    return experiment.categories
  found = categories.read_json(path)
  entries = found.get('categories') if isinstance(found, dict) else found
  classes = categories.categories_from_json(entries, path)
  wanted = experiment.config['data']['num_classes']
  if len(classes) != wanted:
    raise ValueError(
      f'--categories={path} has {len(classes)} classes but data.num_classes='
      f'{wanted}; give the classes that the checkpoint was trained on.'
    )
  return classes


def convert(
  source: str,
  checkpoint: str,
  out: str | None,
  config: Any,
  *,
  part: str = 'all',
  classes: str | None = None,
) -> list[str]:
  """Converts a checkpoint, or only says how (`out` is None).

  Args:
    source: a key of CONVERTERS.
    checkpoint: its path.
    out: the directory to make; None writes nothing.
    config: the recipe that the weights belong to.
    part: 'all', or what the converter offers.
    classes: a JSON file of the categories; None asks the data set.

  Returns:
    Lines to print.

  Raises:
    ValueError: the checkpoint does not fit the recipe's model, name by name.
  """
  converter = CONVERTERS[source]
  if part not in converter.parts:
    raise ValueError(
      f'--part={part}: --from {source} offers {", ".join(converter.parts)}.'
    )
  experiment = build.Experiment(config)
  wanted = wanted_tree(experiment, part)
  if out is not None:
    _check_folder(pathlib.Path(out))
    if part == 'all':
      experiment = build.Experiment(config, _classes(experiment, classes))
  variables = converter.read(checkpoint)
  plan = converter.plan(variables, wanted, part=part)
  averaged = None
  if converter.has_averages(variables, part):
    averaged = converter.plan(variables, wanted, part=part, ema=True)
  lines = plan.lines() + [
    'with averaged copies of all of them' if averaged else 'no averaged copies'
  ]
  if out is None:
    return lines
  folder = pathlib.Path(out)
  params = plan.tree(variables)
  ema = averaged and averaged.tree(variables)
  if part == 'all':
    workdir.save(experiment, folder)
  weights.save_params(folder, 0, params, ema)
  told = {'from': source, 'checkpoint': str(checkpoint), 'part': part}
  (folder / FILE).write_text(json.dumps(told, indent=2) + '\n')
  prefix = '' if part == 'all' else part
  return [
    *lines[len(plan.rows) :],
    f'wrote {folder}; start from it with --config.init_from='
    f"\"(('{folder}','{prefix}','{prefix}','exact'),)\"",
  ]


def parse(argv: Sequence[str] | None = None):
  """-> (arguments, {key: value} of --config.KEY=VALUE)."""
  parser = argparse.ArgumentParser(
    prog='python -m pix2seqd_jax.pretrained',
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  add = parser.add_argument
  add('--from', dest='source', required=True, choices=tuple(CONVERTERS))
  add('--checkpoint', required=True, help='a folder, or a prefix in one')
  add('--out', help='the directory to make; needed without --dry-run')
  add('--part', default='all', help="'all' (default), or what of the model")
  add(
    '--config',
    default='configs/pix2seq_d_coco.py:highres',
    help='the recipe, FILE[:VARIANT], whose model this is (%(default)s)',
  )
  add(
    '--categories',
    help='categories.json or a COCO panoptic JSON; without '
    'it the data set of --config is asked',
  )
  add('--dry-run', action='store_true', help='print the mapping, no more')
  args, rest = parser.parse_known_args(argv)
  overrides = arguments.flags(rest)
  for key in overrides:
    if not key.startswith('config.'):
      parser.error(f'unknown argument --{key}')
  if not (args.out or args.dry_run):
    parser.error('--out DIRECTORY or --dry-run is needed')
  return args, {k.removeprefix('config.'): v for k, v in overrides.items()}


def main(argv: Sequence[str] | None = None) -> None:
  """The command."""
  args, overrides = parse(argv)
  lines = convert(
    args.source,
    args.checkpoint,
    None if args.dry_run else args.out,
    arguments.load_config(args.config, overrides),
    part=args.part,
    classes=args.categories,
  )
  print('\n'.join(lines))


if __name__ == '__main__':
  arguments.main(main)
