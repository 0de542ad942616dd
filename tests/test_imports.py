"""Who may import whom, read from the sources; what importing costs.

The table is the architecture: data flows from the packages above to those below,
and a method is a page because nothing reaches across.
"""

import ast
import pathlib
import subprocess
import sys
from typing import NamedTuple

import pytest

REPO = pathlib.Path(__file__).resolve().parents[1]
PACKAGE = 'pix2seqd_jax'

# Every package (or file at the top level) and what of ours it may import.
ALLOWED = {
  '__init__': (),
  'types': (),
  'registry': (),
  'hints': ('registry',),
  'config': ('registry', 'hints'),
  'numbers': (),
  'encoding': ('types',),
  'diffusion': ('types',),
  'architectures': ('types',),
  'metrics': ('types', 'registry'),
  'pretrained': ('types', 'registry', 'architectures'),
  # The command of that package: it builds a config's model to check a checkpoint
  # against, and writes a work directory, so it stands above build and train.
  'pretrained.export': ('pretrained', 'train'),
  'pretrained.whole': ('pretrained', 'train'),
  'pretrained.null_prompt': ('pretrained', 'architectures', 'train'),
  'pretrained.__main__': (
    'pretrained',
    'arguments',
    'build',
    'workdir',
    'train',
    'data.categories',
  ),
  'data': ('types', 'registry', 'encoding'),
  'models': (
    'types',
    'registry',
    'hints',
    'architectures',
    'diffusion',
    'encoding',
    'pretrained',
  ),
  'tasks': ('types', 'registry', 'metrics', 'encoding'),
  'train': ('types',),
  'palettes': ('types',),
  'agreement': ('types', 'encoding'),
  'tiles': ('types', 'encoding'),
  'partial_masks': ('types', 'encoding'),
  'results': (
    'types',
    'agreement',
    'palettes',
    'visualize',
    'data.label_maps',
    'data.writers',
    'encoding',
  ),
  'visualize': ('types', 'encoding', 'palettes'),
  'visualize_sampling': ('types', 'visualize'),
  'build_data': (
    'types',
    'registry',
    'hints',
    'config',
    'data',
    'train.sharding',
  ),
  'checks': ('types', 'build', 'build_data', 'hints', 'train.sharding'),
  'features': ('architectures', 'pretrained'),
  'build': (
    'types',
    'features',
    'numbers',
    'registry',
    'config',
    'build_data',
    'data',
    'diffusion',
    'encoding',
    'metrics',
    'models',
    'tasks',
    'train',
  ),
  'workdir': (
    'types',
    'config',
    'build',
    'build_data',
    'train',
    'data.categories',
  ),
  'completing': (
    'types',
    'build',
    'partial_masks',
    'results',
    'tasks.inpainting',
  ),
  'synthesizing': ('types', 'build', 'visualize', 'data.label_maps'),
  'pipeline': (
    'types',
    'build',
    'workdir',
    'agreement',
    'completing',
    'partial_masks',
    'results',
    'synthesizing',
    'tiles',
    'data.decode',
    'data.files',
    'train.log',
  ),
  'commands': (
    'types',
    'build',
    'workdir',
    'pipeline',
    'synthesizing',
    'visualize',
    'data.label_maps',
    'train',
  ),
  'strips': (
    'types',
    'agreement',
    'pipeline',
    'visualize',
    'visualize_sampling',
    'data.files',
  ),
  'videos': (),
  'synthesize': (
    *('flows', 'pipeline', 'synthesizing', 'visualize', 'data.files', 'train'),
  ),
  'flows': (
    'types',
    'build',
    'videos',
    'pipeline',
    'results',
    'synthesizing',
    'visualize',
    'diffusion.straightness',
    'data.files',
    'data.label_maps',
  ),
  'export': ('workdir', 'palettes', 'visualize', 'data.writers'),
  'arguments': ('types', 'registry', 'config', 'build', 'data'),
  'convert': ('arguments', 'data'),
  'latents': (
    'types',
    'arguments',
    'build',
    'data',
    'models.image_autoencoder',
    'train',
  ),
  'validate': (
    'registry',
    'config',
    'hints',
    'arguments',
    'build_data',
    'data',
  ),
  'verify': ('train',),
  'run': ('commands', 'config'),
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
  'ml_collections': ('config', 'build', 'checks', 'workdir', 'commands', 'run'),
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
REGISTRY_ROOMS = ('data', 'models', 'tasks', 'metrics')


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


def room_of(path: pathlib.Path) -> str:
  """'data' for data/formats/files.py, 'build' for build.py; a package's command, its
  __main__.py, has a line of its own, and so may other files."""
  parts = path.relative_to(REPO / PACKAGE).parts
  name = '.'.join(parts).removesuffix('.py')
  if parts[-1] == '__main__.py' or name in ALLOWED:
    return name
  return parts[0].removesuffix('.py')


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


def test_every_room_is_in_the_table():
  assert {room_of(path) for path in sources()} <= set(ALLOWED)


def test_rooms_import_only_what_they_may():
  wrong = []
  for path in sources():
    package = room_of(path)
    for found in imports_of(path):
      if not within(found.name, PACKAGE):
        continue
      inner = found.name.removeprefix(PACKAGE).lstrip('.')
      ours = inner.split('.')[0] == package
      if not (ours or any(within(inner, other) for other in ALLOWED[package])):
        wrong.append(f'{found}; {package} may import {ALLOWED[package]}')
  assert not wrong, '\n'.join(wrong)


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
        if within(found.name, package) and room_of(path) not in packages:
          wrong.append(f'{found}; only {packages} may')
      for package in REFUSED.get(room_of(path), ()):
        if within(found.name, package):
          wrong.append(f'{found}; {room_of(path)} must not')
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


@pytest.mark.parametrize('package', REGISTRY_ROOMS)
def test_a_room_imports_every_module_that_registers(package):
  folder = REPO / PACKAGE / package
  imported = {i.name for i in imports_of(folder / '__init__.py')}
  registering = [p.stem for p in folder.glob('*.py') if _registers(p)]
  assert registering
  for name in registering:
    assert f'{PACKAGE}.{package}.{name}' in imported, (
      f'{package}/__init__ lacks it'
    )


def test_files_and_functions_stay_short():
  wrong = []
  for path in sources() + sources('benchmarks') + sources('configs'):
    text = path.read_text(encoding='utf-8')
    if text.count('\n') > 400:
      wrong.append(f'{path} has {text.count(chr(10))} lines, at most 400')
    for node in ast.walk(ast.parse(text)):
      if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        continue
      length = node.end_lineno - node.lineno + 1
      if length > 60 and node.name != 'get_config':
        wrong.append(f'{path}: {node.name} has {length} lines, at most 60')
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
