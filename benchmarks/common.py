"""What the benchmarks share: configs by name, one header, tables, output.

Every command prints one Markdown section (command, commit, sizes, hardware,
tables) on standard output, writes it with its numbers under --out, and with
--append adds it to docs/results.md. All else goes to standard error.
"""

import argparse
import ast
import contextlib
import datetime
import importlib.util
import json
import os
import pathlib
import platform
import shlex
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import ml_collections

REPO = pathlib.Path(__file__).resolve().parents[1]
RESULTS = REPO / 'docs' / 'results.md'


# Configs.


def load_config(
  spec: str, overrides: Mapping[str, Any] | Iterable[str] = ()
) -> ml_collections.ConfigDict:
  """'configs/NAME.py:ARGUMENT' -> its config, with dotted keys overridden.

  Args:
    spec: a path, from here or from the repository, and what to pass to its
      get_config.
    overrides: {'model.scale': 0.1}, or texts like 'model.scale=0.1'.

  Raises:
    ValueError: no such file, or a key whose section is not in the config.
  """
  name, _, argument = spec.partition(':')
  paths = [p for p in (pathlib.Path(name), REPO / name) if p.is_file()]
  if not paths:
    raise ValueError(f'--config={spec}: there is no file {name}.')
  module_spec = importlib.util.spec_from_file_location('recipe_', paths[0])
  module = importlib.util.module_from_spec(module_spec)
  if str(REPO) not in sys.path:
    sys.path.insert(0, str(REPO))  # configs import configs.common
  module_spec.loader.exec_module(module)
  config = module.get_config(*filter(None, [argument]))
  return override(config, parse_overrides(overrides))


def parse_overrides(
  overrides: Mapping[str, Any] | Iterable[str],
) -> dict[str, Any]:
  """'a.b=1' -> {'a.b': 1}; what is no Python literal is a string."""
  if isinstance(overrides, Mapping):
    return dict(overrides)
  parsed = {}
  for text in overrides:
    key, equals, value = text.partition('=')
    if not equals:
      raise ValueError(f'--set {text!r} must read key=value.')
    try:
      parsed[key] = ast.literal_eval(value)
    except (ValueError, SyntaxError):
      parsed[key] = value
  return parsed


def override(
  config: ml_collections.ConfigDict, values: Mapping[str, Any]
) -> ml_collections.ConfigDict:
  """A copy of the config with other values under dotted keys.

  Raises:
    ValueError: a section is not in the config. (Whether the last part is a
      known key is checked when the experiment is built.)
  """
  config = config.copy_and_resolve_references().unlock()
  for key, value in values.items():
    *sections, last = key.split('.')
    node = config
    for section in sections:
      if section not in node:
        raise ValueError(f'{key}: config has no section {section!r}.')
      node = node[section]
    node[last] = value
  return config


# What a result was measured with.


def commit() -> str:
  """The short hash of HEAD, with '+' where tracked files have changed."""
  try:
    head, changes = (
      subprocess.run(
        ['git', *command], cwd=REPO, capture_output=True, text=True, check=True
      ).stdout.strip()
      for command in (
        ('rev-parse', '--short', 'HEAD'),
        ('status', '--porcelain', '--untracked-files=no'),
      )
    )
  except (OSError, subprocess.CalledProcessError):
    return 'unknown'
  return head + ('+' if changes else '')


def hardware() -> str:
  """'2 x <processor>, 9 GiB' and, where there are others, the devices."""
  model = platform.processor() or platform.machine()
  with contextlib.suppress(OSError), open('/proc/cpuinfo') as lines:
    names = [line for line in lines if line.startswith('model name')]
    model = names[0].partition(':')[2].strip() if names else model
  cores = len(os.sched_getaffinity(0))
  memory = os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30
  devices = jax.devices()
  text = f'{cores} x {model}, {memory:.0f} GiB'
  if devices[0].platform != 'cpu':
    text += f', {len(devices)} x {devices[0].device_kind}'
  return text


def sizes(config: Mapping[str, Any]) -> str:
  """Data set, image, mask and bits of a config, for the header."""
  data, model = config['data'], config['model']
  image, mask = (
    'x'.join(map(str, data[key])) for key in ('image_size', 'mask_size')
  )
  text = f'{data["name"]}, images {image}, masks {mask}'
  if 'class_bits' in model:
    text += f', {model["class_bits"]}+{model["instance_bits"]} bits'
  return text


def parameters(params: Mapping[str, Any]) -> str:
  """'1.23 M parameters', those that are trained."""
  count = sum(leaf.size for leaf in jax.tree.leaves(params['net']))
  return f'{count / 1e6:.3g} M parameters'


# Output.


def parser(
  name: str, doc: str, config: str | None = None
) -> argparse.ArgumentParser:
  """The arguments of every benchmark; with a default config, those of one."""
  made = argparse.ArgumentParser(
    prog=f'python -m benchmarks.{name}',
    description=doc,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  made.add_argument(
    '--out',
    type=pathlib.Path,
    default=REPO / 'runs' / 'benchmarks' / name,
    help='a folder for the numbers (JSON) and the Markdown',
  )
  made.add_argument(
    '--append', action='store_true', help='add to docs/results.md as well'
  )
  if config is not None:
    made.add_argument(
      '--config', default=config, help='configs/NAME.py, or with :ARGUMENT'
    )
    made.add_argument(
      '--set',
      nargs='*',
      default=[],
      metavar='KEY=VALUE',
      help='values of the config, as data.root=/data/coco',
    )
  return made


def cell(value: Any) -> str:
  """A value as it stands in a table."""
  if value is None:
    return ''
  if isinstance(value, bool):
    return 'yes' if value else 'no'
  return f'{value:.4g}' if isinstance(value, float) else str(value)


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
  """A Markdown table."""
  lines = [columns, ['---'] * len(columns), *rows]
  return '\n'.join(
    '| ' + ' | '.join(cell(value) for value in line) + ' |' for line in lines
  )


def header(title: str, name: str, argv: Sequence[str], about: str) -> str:
  """Title, command, commit, sizes and hardware; every result opens so."""
  command = shlex.join(['python', '-m', f'benchmarks.{name}', *argv])
  load = f', load average {os.getloadavg()[0]:.1f}'
  today = datetime.date.today().isoformat()
  return '\n'.join(
    [
      f'### {title}',
      '',
      f'`{command}`',
      '',
      f'Commit {commit()}, {today}; {about}; {hardware()}{load}, '
      f'jax {jax.__version__}.',
    ]
  )


def report(
  args: argparse.Namespace,
  argv: Sequence[str],
  *,
  name: str,
  title: str,
  about: str,
  parts: Sequence[str],
  numbers: Mapping[str, Any],
  stem: str = 'results',
) -> str:
  """Prints a result, writes it under args.out, appends it where asked.

  Args:
    args, argv: of the command.
    name: of the benchmark.
    title, about: see `header`.
    parts: Markdown blocks: tables and sentences.
    numbers: what the tables show, for programs.
    stem: of the files in args.out.

  Returns:
    The Markdown.
  """
  top = header(title, name, argv, about)
  text = '\n\n'.join([top, *parts]) + '\n'
  args.out.mkdir(parents=True, exist_ok=True)
  (args.out / f'{stem}.md').write_text(text, encoding='utf-8')
  whole = {'header': top, **numbers}
  (args.out / f'{stem}.json').write_text(
    json.dumps(whole, indent=2) + '\n', encoding='utf-8'
  )
  print(text)
  if args.append:
    with RESULTS.open('a', encoding='utf-8') as file:
      file.write(f'\n{text}')
  return text


def arguments(argv: Sequence[str] | None) -> list[str]:
  """What the command was given: `argv`, or the command line's."""
  return list(sys.argv[1:] if argv is None else argv)
