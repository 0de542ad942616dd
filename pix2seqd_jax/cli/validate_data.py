"""Every fault of a data set at once, before a run meets the first of them.

  python -m pix2seqd_jax.cli.validate_data \
    --config configs/pix2seq_d_nuclei.py \
    --config.data.root=/data/mine [--split eval]
  python -m pix2seqd_jax.cli.validate_data --images DIR --panoptic DIR \
    --annotations FILE
  python -m pix2seqd_jax.cli.validate_data --name semantic_folder --images DIR \
    --labels DIR --layout cityscapes

Folders may be zip archives, or folders in them. A config's two splits are both
looked at unless --split names one. Exits with 1 where something is wrong, with
2 where the command is; --json prints one JSON object, for programs.
"""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

from pix2seqd_jax import checking
from pix2seqd_jax import data as data_room
from pix2seqd_jax.data.validate import Result, describe, validate
from pix2seqd_jax.experiment import data as data_parts
from pix2seqd_jax.experiment import flags, schema
from pix2seqd_jax.registry import DATASETS
from pix2seqd_jax.train import log

_ROOM = data_room  # imported: names are registered
_SPLITS = ('train', 'eval')


class Part(NamedTuple):
  """A data set to look at: what to call it, its reader and its arguments."""

  title: str
  entry: Any
  kwargs: dict[str, Any]


def parts_of(args: argparse.Namespace, rest: Sequence[str]) -> list[Part]:
  """The data sets that the command line names.

  Raises:
    ValueError: an argument is unknown, missing or wrong.
  """
  given = flags.flags(rest)
  if not args.config:
    name = args.name or 'coco_panoptic'
    entry = DATASETS[name]
    if args.split:
      given['split'] = args.split
    checking.check_arguments('data', entry, given)
    return [Part(name, entry, given)]
  if args.name:
    raise ValueError('give --config FILE or --name READER, not both.')
  for key in given:
    if not key.startswith('config.'):
      raise ValueError(f'unknown argument --{key}; see --help.')
  if args.split and args.split not in _SPLITS:
    raise ValueError(f'--split={args.split!r} must be train or eval.')
  overrides = {k.removeprefix('config.'): v for k, v in given.items()}
  config = flags.load_config(args.config, overrides)
  data = schema.plain(schema.complete(config))['data']
  parts = []
  for split in (args.split,) if args.split else _SPLITS:
    entry, kwargs = data_parts.source_args(data, split)
    checking.check_arguments(f'config.data.{split}', entry, kwargs)
    parts.append(Part(f'{data["name"]}, {split}', entry, kwargs))
  return parts


def _checked(part: Part, num_threads: int) -> Result:
  """What is wrong with a split; its progress goes to standard error."""
  with log.Progress(None, unit='image') as bar:

    def update(done, count):
      bar.total = count
      bar.update(done - bar.done)

    found = validate(
      part.entry, part.kwargs, num_threads=num_threads, progress=update
    )
  if bar.total:
    print(f'{part.title}: {bar.done} of {bar.total}', file=sys.stderr)
  return found


def text_of(part: Part, result: Result) -> str:
  """What was found, a line each, and a summary by rule."""
  lines = [
    f'{"warning" if fault.is_warning else "FAULT"} {fault.rule}: '
    f'{fault.message}'
    for fault in result.found
  ]
  for kind, is_warning in (('faults', False), ('warnings', True)):
    counts = result.by_rule(warnings=is_warning)
    if counts:
      lines.append(f'{part.title}: {sum(counts.values())} {kind}')
      lines += [
        f'{n:7d}  {rule}: {describe(rule)}' for rule, n in counts.items()
      ]
  if not result.faults:
    lines.append(f'{part.title}: {result.num_examples} examples, no fault.')
  return '\n'.join(lines)


def json_of(part: Part, result: Result) -> dict[str, Any]:
  """The same for programs."""
  return {
    'data': part.title,
    'arguments': {k: str(v) for k, v in part.kwargs.items()},
    'num_examples': result.num_examples,
    'num_faults': len(result.faults),
    'by_rule': result.by_rule(),
    'found': [fault._asdict() for fault in result.found],
  }


def main(argv: Sequence[str] | None = None) -> int:
  """The command; returns its exit code."""
  parser = argparse.ArgumentParser(
    prog='python -m pix2seqd_jax.cli.validate_data',
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
    epilog='Any other --KEY VALUE is an argument of the reader, or with '
    '--config a value of it, as --config.data.root=DIR.',
    allow_abbrev=False,
  )
  parser.add_argument('--config', help='a config, FILE[:VARIANT]')
  parser.add_argument(
    '--name',
    help=f'a reader: {", ".join(DATASETS)}; by default coco_panoptic',
  )
  parser.add_argument('--split', default='', help='one split only')
  parser.add_argument('--json', action='store_true', help='print JSON')
  parser.add_argument(
    '--threads', type=int, default=min(os.cpu_count() or 1, 16)
  )
  args, rest = parser.parse_known_args(argv)
  try:
    if args.threads < 1:
      raise ValueError(f'--threads={args.threads} must be at least 1.')
    parts = parts_of(args, rest)
  except (ValueError, OSError) as error:
    print(f'{type(error).__name__}: {error}', file=sys.stderr)
    return 2
  found = [_checked(part, args.threads) for part in parts]
  ok = not any(result.faults for result in found)
  # Names of files may hold what no terminal can show.
  if hasattr(sys.stdout, 'reconfigure'):
    sys.stdout.reconfigure(errors='backslashreplace')
  if args.json:
    print(json.dumps({'ok': ok, 'parts': list(map(json_of, parts, found))}))
  else:
    print('\n'.join(map(text_of, parts, found)))
  return int(not ok)


if __name__ == '__main__':
  sys.exit(main())
