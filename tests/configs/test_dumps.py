"""A readable dump of each config: which of them a changed block changes.

  UPDATE_DUMPS=1 python -m pytest tests/configs/test_dumps.py

writes tests/configs/dumps/ anew; look at its diff before you commit it.
"""

import ast
import difflib
import importlib
import os
import pathlib

import pytest

from pix2seqd_jax.experiment import schema

CONFIGS = pathlib.Path(__file__).parents[2] / 'configs'
DUMPS = pathlib.Path(__file__).with_name('dumps')
BLOCKS = ('common', 'workdir', '__init__')


def is_block(name: str) -> bool:
  return name in BLOCKS or name.endswith('_common')


NAMES = sorted(p.stem for p in CONFIGS.glob('*.py') if not is_block(p.stem))


def lines(tree, prefix='') -> list[str]:
  """'a.b = value', sorted."""
  if not isinstance(tree, dict) or not tree:
    return [f'{prefix} = {tree!r}']
  found = []
  for key in sorted(tree):
    found += lines(tree[key], f'{prefix}.{key}' if prefix else key)
  return found


def dump(name: str) -> str:
  """The config, then what each of its variants changes of it."""
  module = importlib.import_module(f'configs.{name}')
  whole = lines(schema.plain(module.get_config()))
  text = [*whole]
  for variant in module.VARIANTS:
    changed = lines(schema.plain(module.get_config(variant)))
    keys = {line.split(' = ')[0] for line in changed}
    gone = [k for k in (w.split(' = ')[0] for w in whole) if k not in keys]
    text += ['', f'[{variant}]', *(x for x in changed if x not in whole)]
    text += [f'{key} is gone' for key in gone]
  return '\n'.join(text) + '\n'


@pytest.mark.parametrize('name', NAMES)
def test_a_config_is_as_its_dump_says(name):
  path, found = DUMPS / f'{name}.txt', dump(name)
  if os.environ.get('UPDATE_DUMPS'):
    path.write_text(found, encoding='utf-8')
  written = path.read_text(encoding='utf-8') if path.is_file() else ''
  diff = difflib.unified_diff(
    written.splitlines(), found.splitlines(), path.name, 'now', lineterm='', n=0
  )
  assert found == written, (
    f'configs/{name}.py has other values than its dump. If they are meant, '
    'run UPDATE_DUMPS=1 python -m pytest tests/configs/test_dumps.py\n'
    + '\n'.join(diff)
  )


def test_every_dump_is_of_a_config():
  assert sorted(path.stem for path in DUMPS.glob('*.txt')) == NAMES


def test_configs_import_blocks_and_no_other_config():
  wrong = []
  for path in sorted(CONFIGS.glob('*.py')):
    for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
      if isinstance(node, ast.ImportFrom) and node.module == 'configs':
        names = [alias.name for alias in node.names]
      elif isinstance(node, ast.ImportFrom | ast.Import):
        names = [
          getattr(node, 'module', '') or '',
          *(a.name for a in node.names),
        ]
        names = [n[8:] for n in names if n.startswith('configs.')]
      else:
        continue
      wrong += [f'{path.name}: {n}' for n in names if not is_block(n)]
  assert not wrong, f'share blocks, in *_common.py, instead: {wrong}'
