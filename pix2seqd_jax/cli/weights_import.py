r"""Other people's checkpoints -> directories of ours, and back.

  python -m pix2seqd_jax.pretrained --from sd15 --checkpoint FILE_OR_FOLDER \
    --out runs/sd15 [--part unet] [--cast float32] [--dry-run]
  python -m pix2seqd_jax.pretrained --to sd15 --part unet \
    --checkpoint runs/ldmseg --prefix unet --out exported/unet
  python -m pix2seqd_jax.pretrained --from pix2seq-tf --checkpoint CKPT \
    --out runs/original --config configs/pix2seq_d_coco.py:highres \
    --categories panoptic_val2017.json
  python -m pix2seqd_jax.pretrained --from ldmseg --checkpoint ldmseg.pt \
    --out runs/released --config configs/ldmseg_coco.py \
    --categories panoptic_val2017.json

The first takes files and folders of diffusers, transformers, CompVis, U-ViT
and others, and names on the Hub (hf://owner/repo/path). Its directory is one
for config.init_from: --config.init_from="(('runs/sd15','unet','net','exact'),)"
starts the part `net` of a model from the part `unet` of the checkpoint. The
second writes a part of a run under the original's names; of LDMSeg's release,
which is one file, all of it where no part is named. The third makes a
directory for Pipeline.from_pretrained too; with --part encoder it takes the
encoder alone, of a Pix2Seq-D or of a detector. So does the fourth, which puts
the networks where our LDMSeg has them (`--from ldmseg-start`: those of Stable
Diffusion that its training begins with); without --config it writes no config.
`--from semflow` has the UNet alone: what is beside it in the model comes out
of the config's init_from.
--config.KEY=VALUE changes the config. --dry-run prints what becomes of names.
"""

import argparse
import dataclasses
import json
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax

from pix2seqd_jax.cli import weights_export, weights_whole
from pix2seqd_jax.data.formats import categories
from pix2seqd_jax.experiment import build, flags, workdir
from pix2seqd_jax.pretrained import pix2seq_tf, sources, tf_checkpoint
from pix2seqd_jax.pretrained.mapping import Plan
from pix2seqd_jax.train import state
from pix2seqd_jax.train.checkpoints import weights

_DEFAULT = 'configs/pix2seq_d_coco.py:highres'


class Converter(NamedTuple):
  """One kind of checkpoint.

  Attributes:
    read: path -> {name: anything with a shape that NumPy can read}.
    parts: what can be taken of it, 'all' first.
    plan: (variables, expected tree, ema=, part=) -> Plan.
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


def _classes(experiment, path):
  """Those of a file, a categories.json or COCO's; else of the data set."""
  if not path:
    return experiment.categories
  found = categories.read_json(path)
  entries = found.get('categories') if isinstance(found, dict) else found
  classes = categories.categories_from_json(entries, path)
  expected = experiment.config['data']['num_classes']
  if len(classes) != expected:
    raise ValueError(
      f'--categories={path} has {len(classes)} classes but data.num_classes='
      f'{expected}; give the classes that the checkpoint was trained on.'
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
    config: the config that the weights belong to.
    part: 'all', or what the converter offers.
    classes: a JSON file of the categories; None asks the data set.

  Returns:
    Lines to print.

  Raises:
    ValueError: the checkpoint does not fit the config's model, name by name.
  """
  converter = CONVERTERS[source]
  if part not in converter.parts:
    raise ValueError(
      f'--part={part}: --from {source} offers {", ".join(converter.parts)}.'
    )
  experiment = build.Experiment(config)
  expected = wanted_tree(experiment, part)
  if out is not None:
    weights_export.check_folder(pathlib.Path(out))
    if part == 'all':
      experiment = build.Experiment(config, _classes(experiment, classes))
  variables = converter.read(checkpoint)
  plan = converter.plan(variables, expected, part=part)
  averaged = None
  if converter.has_averages(variables, part):
    averaged = converter.plan(variables, expected, part=part, ema=True)
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
  (folder / weights_export.FILE).write_text(json.dumps(told, indent=2) + '\n')
  prefix = '' if part == 'all' else part
  return [
    *lines[len(plan.rows) :],
    f'wrote {folder}; start from it with --config.init_from='
    f"\"(('{folder}','{prefix}','{prefix}','exact'),)\"",
  ]


def convert_parts(
  source: str,
  checkpoint: str,
  out: str | None,
  *,
  part: str = 'all',
  cast: str | None = None,
  key: str | None = None,
  config: Any = None,
  classes: str | None = None,
) -> list[str]:
  """Converts networks of a checkpoint, or only says how (`out` is None).

  Args:
    source: a key of sources.SOURCES.
    checkpoint: a file, a folder or a name on the Hub.
    out: the directory to make; None writes nothing.
    part: one of the source's, or 'all' that the checkpoint holds.
    cast: None refuses half precision; see sources.load.
    key: where in a .pt file the weights are.
    config: the config of a model that is made up of all that is converted;
      the directory is then one for Pipeline.from_pretrained.
    classes: with it, a JSON file of the categories; None asks the data set.

  Returns:
    Lines to print.

  Raises:
    ValueError: see sources.find; or it is not the config's model.
  """
  only = None if part == 'all' else part
  found = sources.find(source, checkpoint, only=only, key=key)
  family = sources.named(source)
  experiment = None if config is None else build.Experiment(config)
  rest = weights_whole.rest(experiment, family, found) if experiment else {}
  lines = []
  for name, one in found.items():
    lines += [f'{name}: {type(one.module).__name__}', *one.plan.lines()]
  if out is None:
    return lines
  folder = pathlib.Path(out)
  weights_export.check_folder(folder)
  if experiment:
    experiment = build.Experiment(config, _classes(experiment, classes))
  params = weights_whole.merged(_read_all(family, found, cast), rest)
  if experiment:
    workdir.save(experiment, folder)
  weights.save_params(folder, 0, params)
  told = {'from': source, 'checkpoint': str(checkpoint), 'part': part}
  told['networks'] = {
    name: {'module': type(one.module).__name__, 'fields': _fields(one.module)}
    | {'config': one.config}
    for name, one in found.items()
  }
  (folder / weights_export.FILE).write_text(json.dumps(told, indent=2) + '\n')
  return [
    *(line for line in lines if ' -> ' not in line),
    *_how_to_start(family, found, folder),
  ]


def _read_all(family, found, cast) -> dict[str, Any]:
  """The parameters of all networks, where a model of ours has them."""
  params: dict[str, Any] = {'net': {}, 'stats': {}, 'frozen': {}}
  for name, one in found.items():
    variables = one.read(cast)
    collection, _, place = family.place(name).partition('/')
    params[collection][place] = variables['params']
    if 'batch_stats' in variables:
      params['stats'][place] = variables['batch_stats']
  return params


def _how_to_start(family, found, folder) -> list[str]:
  """What to write in a config."""
  begin = f'wrote {folder}; start from it with --config.init_from='
  if family.places:  # of one model of ours
    entries = ''.join(
      f"('{folder}','{place}','{place}','{family.rule}'),"
      for place in map(family.place, found)
    )
    return [f'{begin}"({entries})"']
  return [
    f"{begin}\"(('{folder}','{name}','<part of your model>','exact'),)\""
    for name in found
  ]


def _fields(module) -> dict[str, Any]:
  """What a module was made with, readable."""
  skip = ('parent', 'name')
  return {
    field.name: value
    if isinstance(value, (int, float, str, bool, tuple, type(None)))
    else str(value)
    for field in dataclasses.fields(module)
    if field.name not in skip
    for value in [getattr(module, field.name)]
  }


def parse(argv: Sequence[str] | None = None):
  """-> (arguments, {key: value} of --config.KEY=VALUE)."""
  parser = argparse.ArgumentParser(
    prog='python -m pix2seqd_jax.pretrained',
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  add, add_exclusive = parser.add_argument, _exclusive(parser)
  which = add_exclusive(required=True)
  which('--from', dest='source', choices=(*CONVERTERS, *sources.SOURCES))
  which('--to', choices=tuple(sources.SOURCES), help='the way back')
  add('--checkpoint', required=True, help='a file, a folder, hf://owner/repo')
  add('--out', help='the directory to make; needed without --dry-run')
  add('--part', default='all', help="'all' (default), or what of the model")
  add('--prefix', help='with --to: where in the run the part is')
  add('--raw', action='store_true', help='with --to: not the averaged weights')
  add('--like', help='with --to: their config.json, for what arrays hide')
  add(
    '--cast',
    choices=sources.CASTS,
    help='the type to store; without it float32, and half precision is refused',
  )
  add('--key', help='where in a .pt file the weights are')
  add(
    '--config',
    help='the config, FILE[:VARIANT], whose model this is; of pix2seq-tf '
    f'{_DEFAULT} unless given',
  )
  add(
    '--categories',
    help='categories.json or a COCO panoptic JSON; without '
    'it the data set of --config is asked',
  )
  add('--dry-run', action='store_true', help='print the mapping, no more')
  args, rest = parser.parse_known_args(argv)
  overrides = flags.flags(rest)
  for key in overrides:
    if not key.startswith('config.'):
      parser.error(f'unknown argument --{key}')
  if not (args.out or args.dry_run):
    parser.error('--out DIRECTORY or --dry-run is needed')
  return args, {k.removeprefix('config.'): v for k, v in overrides.items()}


def _exclusive(parser):
  return lambda **how: parser.add_mutually_exclusive_group(**how).add_argument


def main(argv: Sequence[str] | None = None) -> None:
  """The command."""
  args, overrides = parse(argv)
  print('\n'.join(_run(args, overrides)))


def _run(args, overrides) -> list[str]:
  out = None if args.dry_run else args.out
  if args.to:
    if out is None:
      raise ValueError('--dry-run goes with --from; --to needs --out.')
    return weights_export.export(
      args.to,
      args.checkpoint,
      out,
      part=args.part,
      prefix=args.prefix,
      ema=not args.raw,
      like=args.like,
    )
  if args.source in CONVERTERS and (args.cast or args.key):
    raise ValueError(f'--cast and --key do not go with --from {args.source}.')
  if args.source in sources.SOURCES:
    config = None
    if args.categories and not args.config:
      raise ValueError(
        f'--categories={args.categories} goes with --config RECIPE, whose '
        'work directory they are of; parts by themselves have no classes.'
      )
    if args.config:
      config = flags.load_config(args.config, overrides)
    return convert_parts(
      args.source,
      args.checkpoint,
      out,
      part=args.part,
      cast=args.cast,
      key=args.key,
      config=config,
      classes=args.categories,
    )
  return convert(
    args.source,
    args.checkpoint,
    out,
    flags.load_config(args.config or _DEFAULT, overrides),
    part=args.part,
    classes=args.categories,
  )


if __name__ == '__main__':
  flags.main(main)
