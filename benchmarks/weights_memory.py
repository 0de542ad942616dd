"""How much memory weights take while they are loaded and converted.

  python -m benchmarks.weights_memory --source sd15 --part unet

A full-size file of random float32 numbers is written under --folder (the
UNet's has 3.4 GB) and removed at the end. Then each step runs in a process of
its own, and the kernel tells the most that was in memory, pages of mapped
files included: of imports alone, of `sources.load`, of the commands that
convert to a directory of ours and back.

Exits with 1 where loading took 1.3 times the file, all included, or a
conversion held two copies: twice the file beside what imports take.
"""

import filecmp
import pathlib
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from benchmarks import common
from pix2seqd_jax.pretrained import save, sources

NAME = 'weights_memory'
MOST_TO_LOAD, MOST_TO_CONVERT = 1.3, 2.0
FILE, OURS, BACK = 'theirs', 'ours', 'back'
IMPORTS = 'imports'


class _Random:
  """An array that is drawn when it is read: never more than one in memory."""

  def __init__(self, leaf: jax.ShapeDtypeStruct):
    self.shape, self.dtype = leaf.shape, np.dtype('float32')

  def __array__(self, dtype: Any = None, copy: bool | None = None):
    return np.random.default_rng(0).random(self.shape, self.dtype)

  def __getitem__(self, index: int) -> '_Random':
    return _Random(jax.ShapeDtypeStruct(self.shape[1:], self.dtype))


def write(source: str, part: str, folder: pathlib.Path) -> pathlib.Path:
  """A file of the part, at the sizes of the standard network."""
  one = sources.part_of(source, part)
  module = one.module({}, None)
  variables = jax.tree.map(_Random, one.shapes(module))
  return save.save(one, module, variables, folder)


def scripts(source: str, part: str, folder: pathlib.Path) -> dict[str, str]:
  """{step: a program of Python}."""
  file, ours, back = (str(folder / name) for name in (FILE, OURS, BACK))
  command = (
    'from pix2seqd_jax.cli import weights_import as command; command.main'
  )
  there = ['--from', source, '--checkpoint', file, '--out', ours]
  home = ['--to', source, '--checkpoint', ours, '--out', back]
  which = source, file, part
  return {
    IMPORTS: (
      'from pix2seqd_jax.cli import weights_import; import orbax.checkpoint'
    ),
    'load': (
      'from pix2seqd_jax.pretrained import sources; '
      f'_, variables = sources.load(*{which!r})'
    ),
    'convert': f'{command}({[*there, "--part", part]!r})',
    'convert back': f'{command}({[*home, "--part", part]!r})',
  }


def peak(script: str) -> int:
  """The most bytes that a process running it had in memory."""
  # Not getrusage, whose number a process has from the one that started it.
  script += "; print(open('/proc/self/status').read(), flush=True)"
  done = subprocess.run(
    [sys.executable, '-c', script],
    cwd=common.REPO,
    stdout=subprocess.PIPE,
    text=True,
    check=True,
  )
  return int(re.search(r'VmHWM:\s*(\d+) kB', done.stdout)[1]) * 1024


def judge(peaks: dict[str, int], size: int) -> list[list[Any]]:
  """[step, MB, times the file, times it without imports, passed] of each."""
  base = peaks[IMPORTS]
  rows = []
  for step, most in peaks.items():
    beside = (most - base) / size
    is_fine = beside < MOST_TO_CONVERT
    if step == 'load':
      is_fine = most / size < MOST_TO_LOAD
    rows.append([step, round(most / 1e6), most / size, beside, is_fine])
  return rows


def main(argv: Sequence[str] | None = None) -> int:
  argv = common.arguments(argv)
  parser = common.parser(NAME, __doc__)
  parser.add_argument(
    '--source', default='sd15', choices=tuple(sources.SOURCES)
  )
  parser.add_argument('--part', default='unet')
  parser.add_argument(
    '--folder', type=pathlib.Path, help='where there is package'
  )
  args = parser.parse_args(argv)
  with tempfile.TemporaryDirectory(dir=args.folder) as name:
    folder = pathlib.Path(name)
    file = write(args.source, args.part, folder / FILE)
    size = file.stat().st_size
    peaks = {}
    for step, script in scripts(args.source, args.part, folder).items():
      peaks[step] = peak(script)
      print(f'{step}: {peaks[step] / 1e6:.0f} MB', file=sys.stderr)
    is_same = filecmp.cmp(file, folder / BACK / file.name, shallow=False)
  rows = judge(peaks, size)
  columns = ['step', 'peak, MB', 'of the file', 'without imports', 'passed']
  common.report(
    args,
    argv,
    name=NAME,
    title='Memory of loading and converting',
    about=f'{args.part} of {args.source}, a file of {size / 1e6:.0f} MB',
    parts=[
      common.table(columns, rows),
      'There and back the file is '
      f'{"the same, byte for byte" if is_same else "ANOTHER"}.',
    ],
    numbers={'peaks': peaks, 'size': size, 'is_same': is_same},
  )
  return int(not (is_same and all(row[-1] for row in rows)))


if __name__ == '__main__':
  sys.exit(main())
