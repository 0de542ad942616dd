"""Who may import whom, read from the sources; what importing costs.

The table is the architecture: arrows point one way, and a method is a page
because nothing reaches across.
"""

import ast
import pathlib
import subprocess
import sys
from typing import NamedTuple

import pytest

REPO = pathlib.Path(__file__).resolve().parents[1]
PACKAGE = 'pix2seqd_jax'

# Every package (or file at the top level) and what of ours it may import. A
# package is imported whole or not at all; a file may import any other of its
# own package, but for INSIDE below.
ALLOWED = {
  '__init__': (),
  '__main__': ('cli',),
  'types': (),
  'registry': (),
  'checking': ('registry',),
  'encoding': (),
  'diffusion': ('types',),
  'architectures': (),
  'metrics': ('types', 'registry'),
  'visualize': ('types', 'encoding'),
  'data': ('types', 'registry', 'encoding'),
  'pretrained': ('architectures',),
  'models': (
    *('types', 'registry', 'checking', 'architectures', 'diffusion'),
    'encoding',
  ),
  'tasks': ('types', 'registry', 'metrics', 'encoding'),
  'train': ('types', 'encoding'),
  'experiment': (
    *('types', 'registry', 'checking', 'diffusion', 'metrics', 'data'),
    *('pretrained', 'models', 'tasks', 'train', 'visualize'),
  ),
  'inference': (
    *('types', 'encoding', 'data', 'tasks', 'train', 'experiment'),
    'visualize',
  ),
  'cli': (
    *('types', 'registry', 'checking', 'encoding', 'architectures'),
    *('diffusion', 'data', 'models', 'pretrained', 'train', 'experiment'),
    *('inference', 'visualize'),
  ),
  'run': ('cli', 'experiment'),
}
# What is imported by name: {package: the others that import it}.
CONFIGS = ('experiment.schema',)
# Inside a package: what a part may import of its own package, besides itself.
INSIDE = {
  'data.formats': (),
  'data.transforms': ('data.formats',),
  'data.readers': ('data.formats', 'data.transforms'),
  'train.checkpoints': ('train.state', 'train.sharding'),
  'train.processes': ('train.checkpoints',),
}
# Slow, large or optional: imported inside the functions that need them.
NEVER_AT_THE_TOP = (
  'tensorflow',
  'torch',
  'orbax',
  'grain',
  'tensorflow_datasets',
  'transformers',
  'matplotlib',
  'tensorboardX',
  'clu',
)
# Packages that belong to some files alone, wherever in them they are imported.
CONFINED = {
  'matplotlib': ('visualize',),
  'absl.flags': ('run',),
  'absl.app': ('run',),
  'ml_collections.config_flags': ('run',),
  'ml_collections': ('experiment', 'inference', 'cli', 'run'),
  'grain': ('data',),
  'orbax': ('train',),
  'optax': ('train', 'models'),
}
# What a package must not import although others may.
REFUSED = {
  'diffusion': ('flax', 'optax'),
  'data': ('jax', 'flax', 'optax'),
  'metrics': ('flax',),
  'types': ('jax', 'flax'),
}
WITH_REGISTRIES = ('data', 'models', 'tasks', 'metrics')


class Import(NamedTuple):
  """`name` is the dotted module or member; `top` that no function holds it."""

  file: str
  line: int
  name: str
  top: bool

  def __str__(self):
    return f'{self.file}:{self.line} imports {self.name}'


def imports_of(path: pathlib.Path) -> list[Import]:
  found = []

  def visit(node, top):
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
      top = False
    names = []
    if isinstance(node, ast.Import):
      names = [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom):
      module = '.' * node.level + (node.module or '')
      names = [f'{module}.{alias.name}' for alias in node.names]
    where = str(path.relative_to(REPO))
    found.extend(Import(where, node.lineno, name, top) for name in names)
    for child in ast.iter_child_nodes(node):
      visit(child, top)

  visit(ast.parse(path.read_text(encoding='utf-8')), True)
  return found


def sources(folder: str = PACKAGE) -> list[pathlib.Path]:
  return sorted((REPO / folder).rglob('*.py'))


def package_of(path: pathlib.Path) -> str:
  """'data' for data/formats/files.py, 'run' for run.py."""
  return path.relative_to(REPO / PACKAGE).parts[0].removesuffix('.py')


def within(name: str, module: str) -> bool:
  return name == module or name.startswith(f'{module}.')


def test_the_reader_of_imports_sees_all_forms(tmp_path, monkeypatch):
  monkeypatch.setattr(sys.modules[__name__], 'REPO', tmp_path)
  path = tmp_path / 'a.py'
  path.write_text(
    'import a.b\nfrom c import d as e\nclass F:\n  import g\n'
    'def f():\n  from h.i import j\n'
  )
  assert [(i.name, i.top) for i in imports_of(path)] == [
    ('a.b', True),
    ('c.d', True),
    ('g', True),
    ('h.i.j', False),
  ]


def module_of(path: pathlib.Path) -> str:
  """'pix2seqd_jax.data' for pix2seqd_jax/data/__init__.py."""
  name = '.'.join(path.relative_to(REPO).with_suffix('').parts)
  return name.removesuffix('.__init__')


def ours(folder: str = PACKAGE) -> list[tuple[pathlib.Path, Import, str]]:
  """(file, import, what is imported within the package) of all files."""
  return [
    (path, one, one.name.removeprefix(f'{PACKAGE}.'))
    for path in sources(folder)
    for one in imports_of(path)
    if one.name.startswith(f'{PACKAGE}.')
  ]


def test_every_package_is_in_the_table():
  assert {package_of(path) for path in sources()} == set(ALLOWED)


def test_packages_import_only_what_they_may():
  wrong = []
  for path, one, inner in ours():
    package, target = package_of(path), inner.split('.')[0]
    if target != package and target not in ALLOWED[package]:
      wrong.append(f'{one}; {package} may import {ALLOWED[package]}')
  assert not wrong, '\n'.join(wrong)


def test_every_row_is_used():
  used = {(package_of(path), inner.split('.')[0]) for path, _, inner in ours()}
  idle = [
    f'{package} -> {target}'
    for package, targets in ALLOWED.items()
    for target in targets
    if (package, target) not in used
  ]
  assert not idle, f'no file needs these arrows; take them out: {idle}'


def test_parts_of_a_package_keep_their_order():
  wrong = []
  for path, one, inner in ours():
    part = '.'.join(path.relative_to(REPO / PACKAGE).parts[:2])
    if part not in INSIDE or inner.split('.')[0] != part.split('.')[0]:
      continue
    if not any(within(inner, other) for other in (part, *INSIDE[part])):
      wrong.append(f'{one}; {part} may import {INSIDE[part]}')
  assert not wrong, '\n'.join(wrong)


def test_configs_import_the_schema_and_each_others_blocks_alone():
  wrong = [
    str(one)
    for _, one, inner in ours('configs')
    if not any(within(inner, other) for other in CONFIGS)
  ]
  assert not wrong, '\n'.join(wrong)


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
  """Groups of modules that import each other, by Tarjan's algorithm."""
  order, low, stack, found = {}, {}, [], []

  def visit(node):
    order[node] = low[node] = len(order)
    stack.append(node)
    for other in graph.get(node, ()):
      if other not in order:
        visit(other)
      if other in stack:
        low[node] = min(low[node], low[other])
    if low[node] == order[node]:
      group = stack[stack.index(node) :]
      del stack[stack.index(node) :]
      if len(group) > 1:
        found.append(sorted(group))

  for node in list(graph):
    if node not in order:
      visit(node)
  return found


def test_circles_are_seen():
  assert circles({'a': {'b'}, 'b': {'c'}, 'c': {'a', 'd'}, 'd': set()}) == [
    ['a', 'b', 'c']
  ]
  assert circles({'a': {'b', 'c'}, 'b': {'c'}, 'c': set()}) == []


def test_no_module_imports_itself_by_way_of_others():
  """Imports inside functions count."""
  paths = [p for f in (PACKAGE, 'configs', 'benchmarks') for p in sources(f)]
  modules = {module_of(path): path for path in paths}
  graph = {name: set() for name in modules}
  for name, path in modules.items():
    for one in imports_of(path):
      target = one.name if one.name in modules else one.name.rpartition('.')[0]
      if target in modules and target != name:
        graph[name].add(target)
  assert not circles(graph)


def test_imports_are_absolute():
  wrong = [i for p in sources() for i in imports_of(p) if i.name[0] == '.']
  assert not wrong, '\n'.join(map(str, wrong))


def test_slow_and_optional_packages_are_imported_where_they_are_used():
  wrong = [
    found
    for path in sources()
    for found in imports_of(path)
    if found.top and found.name.split('.')[0] in NEVER_AT_THE_TOP
  ]
  assert not wrong, '\n'.join(map(str, wrong))


def test_confined_packages_stay_in_their_files():
  wrong = []
  for path in sources():
    for found in imports_of(path):
      for package, packages in CONFINED.items():
        if within(found.name, package) and package_of(path) not in packages:
          wrong.append(f'{found}; only {packages} may')
      for package in REFUSED.get(package_of(path), ()):
        if within(found.name, package):
          wrong.append(f'{found}; {package_of(path)} must not')
  assert not wrong, '\n'.join(wrong)


def test_commands_outside_the_package_use_argparse():
  wrong = [
    found
    for path in sources('benchmarks')
    for found in imports_of(path)
    if within(found.name, 'absl') or 'config_flags' in found.name
  ]
  assert not wrong, '\n'.join(map(str, wrong))


def _registers(path: pathlib.Path) -> bool:
  tree = ast.parse(path.read_text(encoding='utf-8'))
  return any(
    isinstance(decorator, ast.Call)
    and isinstance(decorator.func, ast.Attribute)
    and decorator.func.attr == 'register'
    for node in ast.walk(tree)
    if isinstance(node, ast.ClassDef)
    for decorator in node.decorator_list
  )


@pytest.mark.parametrize('package', WITH_REGISTRIES)
def test_a_package_imports_every_module_that_registers(package):
  folder = REPO / PACKAGE / package
  imported = {i.name for i in imports_of(folder / '__init__.py')}
  registering = [module_of(p) for p in folder.rglob('*.py') if _registers(p)]
  assert registering
  assert set(registering) <= imported


def test_files_and_functions_stay_short():
  """400 and 60 lines are the guide; beyond these bounds something is wrong."""
  wrong = []
  for path in sources() + sources('benchmarks') + sources('configs'):
    text = path.read_text(encoding='utf-8')
    if text.count('\n') > 600:
      wrong.append(f'{path} has {text.count(chr(10))} lines, at most 600')
    for node in ast.walk(ast.parse(text)):
      if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        continue
      length = node.end_lineno - node.lineno + 1
      if length > 90 and node.name != 'get_config':
        wrong.append(f'{path}: {node.name} has {length} lines, at most 90')
  assert not wrong, '\n'.join(wrong)


def _python(code: str) -> str:
  done = subprocess.run(
    [sys.executable, '-c', code], capture_output=True, text=True, cwd=REPO
  )
  assert done.returncode == 0, done.stderr
  return done.stdout


def test_the_core_loads_nothing_that_it_does_not_need():
  modules = sorted(
    '.'.join(path.relative_to(REPO).with_suffix('').parts)
    for path in sources()
    if path.stem != '__init__'
  )
  loaded = _python(
    f'import sys\nimport {", ".join(modules)}\n'
    f'print([m for m in {NEVER_AT_THE_TOP} if m in sys.modules])'
  )
  assert loaded.strip() == '[]'


def test_importing_the_package_is_quick():
  code = (
    'import time, jax, flax\nstart = time.perf_counter()\n'
    f'import {PACKAGE}\nprint(time.perf_counter() - start)'
  )
  assert min(float(_python(code)) for _ in range(3)) < 0.3
