"""A data set on a command line: that of a config, or a reader by its name.

--config configs/NAME.py[:VARIANT] --split train [--config.data.root=PATH]
--name coco_panoptic --images DIR --panoptic DIR --annotations FILE
"""

import argparse
import ast
import importlib.util
import inspect
import os
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

from pix2seqd_jax import data as data_room
from pix2seqd_jax.experiment import build, schema
from pix2seqd_jax.registry import DATASETS
from pix2seqd_jax.types import Source

_ROOM = data_room  # imported: names are registered


def add_source(parser: argparse.ArgumentParser) -> None:
  """Adds --config, --name and --split; the rest is read by `open_source`."""
  parser.add_argument(
    '--config',
    help='a config, FILE[:VARIANT]; its values are overridden as in '
    '--config.data.root=PATH',
  )
  parser.add_argument(
    '--name',
    help='a reader, with its arguments as flags of their own (--images DIR); '
    f'known: {", ".join(DATASETS)}',
  )
  parser.add_argument(
    '--split',
    default='train',
    help="with --config 'train' or 'eval'; passed to a reader that has splits",
  )


def open_source(
  args: argparse.Namespace, rest: Sequence[str]
) -> tuple[Source, dict[str, Any]]:
  """The reader that the arguments name, and what they say of it, for a JSON.

  Args:
    args: of a parser that `add_source` saw.
    rest: the arguments that it did not know (`parse_known_args`).

  Raises:
    ValueError: an argument is unknown, missing or wrong.
  """
  if bool(args.config) == bool(args.name):
    raise ValueError('give --config FILE, or --name READER: one of the two.')
  given = flags(rest)
  if args.config:
    for key in given:
      if not key.startswith('config.'):
        raise ValueError(f'unknown argument --{key}; see --help.')
    if args.split not in ('train', 'eval'):
      raise ValueError(
        f'--split={args.split}: a config has the splits train and eval.'
      )
    overrides = {k.removeprefix('config.'): v for k, v in given.items()}
    experiment = build.Experiment(load_config(args.config, overrides))
    data = experiment.config['data']
    origin = {'name': data['name'], 'root': data['root']}
    origin |= {'arguments': {**data['source'], **data[args.split]}}
    return experiment.source(args.split), origin
  entry = DATASETS[args.name]
  if 'split' in inspect.signature(entry).parameters:
    given.setdefault('split', args.split)
  source = schema.construct('data', entry, given)
  return source, {'name': args.name, 'arguments': given}


def load_config(spec: str, overrides: dict[str, Any] | None = None):
  """'configs/NAME.py:VARIANT' -> its config, with dotted keys overridden.

  Raises:
    ValueError: no such file, or a key whose section is not in the config.
  """
  name, _, argument = spec.partition(':')
  path = pathlib.Path(name)
  if not path.is_file():
    raise ValueError(f'--config={spec}: there is no file {name}.')
  folder = str(path.resolve().parent.parent)
  if folder not in sys.path:
    sys.path.insert(0, folder)  # configs import configs.common
  found = importlib.util.spec_from_file_location('recipe_', path)
  module = importlib.util.module_from_spec(found)
  found.loader.exec_module(module)
  config = module.get_config(*filter(None, [argument])).unlock()
  for key, value in (overrides or {}).items():
    *sections, last = key.split('.')
    node = config
    for section in sections:
      if section not in node:
        raise ValueError(f'--config.{key}: no section {section!r}.')
      node = node[section]
    node[last] = value
  return config


def main(run) -> None:
  """Calls run(); our own errors end the program without a traceback."""
  try:
    sys.exit(run())
  except (ValueError, OSError) as error:
    if os.environ.get('PIX2SEQD_TRACEBACK'):
      raise
    sys.exit(f'{type(error).__name__}: {error}')


def flags(rest: Sequence[str]) -> dict[str, Any]:
  """['--a', '1', '--b=x'] -> {'a': 1, 'b': 'x'}."""
  given, rest = {}, list(rest)
  while rest:
    flag = rest.pop(0)
    if not flag.startswith('--') or flag == '--':
      raise ValueError(f'unexpected argument {flag!r}; see --help.')
    key, equals, value = flag[2:].partition('=')
    if not equals:
      if not rest:
        raise ValueError(f'--{key} lacks its value.')
      value = rest.pop(0)
    try:
      given[key] = ast.literal_eval(value)
    except (ValueError, SyntaxError):
      given[key] = value
  return given
