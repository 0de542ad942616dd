"""One flipped bit anywhere in a checkpoint is found; what finding it costs.

  python -m benchmarks.flips --num 1000 --megabytes 300

Saves two steps of a config's state (parameters, averages, optimizer, and some
frozen weights, so that there are such files), and then, one at a time,
  * flips --num bits (seeded; half of them in a file drawn by its size, half in
    any file, so that the small ones of metadata have their share),
  * cuts every file in half, empties it, removes it, and adds one beside it.
Each must be found, and the file named; one that is not found must be harmless:
the restored values equal to the last bit. Of each kind some are taken through
a whole start, which must go on from the step before with its exact values.

Then the time: a state of --megabytes of random numbers is saved in turns with
and without manifests. Bars: training waits at most 10 ms longer, and making
the manifest takes at most 40 % of the asynchronous save.

Exits with 1 if any bar is missed.
"""

import logging
import pathlib
import random
import shutil
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import numpy as np

from benchmarks import common
from pix2seqd_jax.experiment import build
from pix2seqd_jax.train import sharding, state
from pix2seqd_jax.train.checkpoints import (
  archive,
  checkpoint,
  manifest,
  retention,
  weights,
)

NAME = 'flips'
_BLOCKING, _SHARE = 0.010, 0.40  # seconds; of the asynchronous save
_WHOLE_STARTS = 10  # of each kind
KINDS = ('flipped', 'cut in half', 'emptied', 'removed', 'one more')


class Case(NamedTuple):
  """One damage: its kind, the file, and the byte and bit of a flip."""

  kind: str
  path: pathlib.Path
  byte: int = 0
  bit: int = 0


class Saved(NamedTuple):
  """A run with steps 1 and 2, to be damaged and mended."""

  folder: pathlib.Path
  states: dict[int, state.TrainState]

  @property
  def newest(self) -> pathlib.Path:
    return self.folder / archive.FOLDER / '2'

  def files(self) -> list[pathlib.Path]:
    """All that step 2 needs, manifests included."""
    roots = (self.newest, self.folder / archive.FROZEN)
    return sorted(p for root in roots for p in root.rglob('*') if p.is_file())


def state_of(config) -> state.TrainState:
  """The first state of a config, with some frozen weights."""
  experiment = build.Experiment(config)
  made = state.create_state(
    experiment.model,
    experiment.optimizer,
    jax.random.key(0),
    *experiment.state_args,
  )
  frozen = {'scale': jax.random.normal(jax.random.key(1), (64, 64))}
  return made._replace(params={**made.params, 'frozen': frozen})


def save_run(made: state.TrainState, folder: pathlib.Path) -> Saved:
  """A run with this state as step 1, and as step 2 all of it one more."""
  later = jax.tree.map(lambda x: x + 1, made)
  later.params['frozen'] = made.params['frozen']
  with checkpoint.Checkpointer(folder / archive.FOLDER) as saved:
    saved.save(1, made)
    saved.save(2, later)
  return Saved(folder, {1: made, 2: later})


def cases(saved: Saved, num: int, rng: random.Random) -> Iterator[Case]:
  """The flips, and the other damage to every file."""
  files = saved.files()
  sizes = [path.stat().st_size for path in files]
  full = [(p, s) for p, s in zip(files, sizes) if s]
  for i in range(num):
    [(path, size)] = rng.choices(full, [s if i % 2 else 1 for _, s in full])
    yield Case('flipped', path, rng.randrange(size), rng.randrange(8))
  for path, size in zip(files, sizes):
    if size:
      yield Case('cut in half', path)
      yield Case('emptied', path)
    yield Case('removed', path)
    if path.name != manifest.FILE:
      yield Case('one more', path)


def damage(case: Case) -> Callable[[], None]:
  """Does it; returns what mends it."""
  path = case.path
  if case.kind == 'one more':
    more = path.with_name(f'{path.name}2')
    shutil.copy(path, more)
    return more.unlink
  before = path.read_bytes()
  if case.kind == 'removed':
    path.unlink()
  elif case.kind == 'emptied':
    path.write_bytes(b'')
  elif case.kind == 'cut in half':
    path.write_bytes(before[: len(before) // 2])
  else:
    data = bytearray(before)
    data[case.byte] ^= 1 << case.bit
    path.write_bytes(bytes(data))
  return lambda: path.write_bytes(before) and None


def is_found(saved: Saved, case: Case) -> bool:
  """Whether the damaged file is named as such, or the step is not there."""
  if not archive.is_complete(saved.newest):
    return True
  name = case.path.name + ('2' if case.kind == 'one more' else '')
  return any(name in line for line in archive.damage(saved.newest))


def same(ours, theirs) -> bool:
  """Equal to the last bit, with equal names."""
  ours, theirs = sharding.flat_paths(ours), sharding.flat_paths(theirs)
  return set(ours) == set(theirs) and all(
    np.asarray(ours[k]).tobytes() == np.asarray(theirs[k]).tobytes()
    for k in ours
  )


def start(saved: Saved, case: Case, folder: pathlib.Path) -> str:
  """What a start makes of it, in a copy: 'good' or what is wrong."""
  shutil.rmtree(folder, ignore_errors=True)
  shutil.copytree(saved.folder, folder)
  in_frozen = archive.FROZEN in case.path.relative_to(saved.folder).parts
  abstract = state.abstract_like(saved.states[1])
  try:
    with warnings.catch_warnings(record=True) as told:
      warnings.simplefilter('always')
      with checkpoint.Checkpointer(folder / archive.FOLDER) as opened:
        found = opened.restore(abstract)
      loaded = weights.load_params(folder, ema=False)
  except ValueError as error:
    # All steps need the frozen weights: there is nothing to fall back to.
    named = in_frozen and 'damaged' in str(error)
    return 'good' if named else f'no start: {error}'
  if in_frozen:
    return 'SILENT: damaged frozen weights were used'
  if int(found.step) == 2:
    return 'SILENT: the damaged step was used'
  if not same(found, saved.states[1]):
    return 'SILENT: other values'
  if not same(loaded, saved.states[1].params):
    return 'SILENT: other weights'
  lines = [str(w.message) for w in told if 'checkpoint' in str(w.message)]
  return 'good' if len(lines) == 1 else f'{len(lines)} lines were told'


def harmless(saved: Saved, folder: pathlib.Path) -> bool:
  """Whether damage that was not found changes no value."""
  shutil.rmtree(folder, ignore_errors=True)
  shutil.copytree(saved.folder, folder)
  with checkpoint.Checkpointer(folder / archive.FOLDER) as opened:
    found = opened.restore(state.abstract_like(saved.states[2]), step=2)
  return same(found, saved.states[2])


def damage_all(
  saved: Saved, num: int, seed: int, starts: int = _WHOLE_STARTS
) -> dict[str, dict[str, int]]:
  """By kind: how many, found, harmless, silent, and whole starts that failed.

  `starts` is at most how many of each kind go through a whole start. Lines
  about what is wrong go to standard error.
  """
  rng = random.Random(seed)
  counts = {
    kind: dict.fromkeys(
      ('cases', 'found', 'harmless', 'silent', 'starts', 'failed'), 0
    )
    for kind in KINDS
  }
  todo = list(cases(saved, num, rng))
  number = {kind: sum(case.kind == kind for case in todo) for kind in KINDS}
  copy = saved.folder.with_name('copy')
  for case in todo:
    row = counts[case.kind]
    mend = damage(case)
    try:
      if is_found(saved, case):
        row['found'] += 1
      elif harmless(saved, copy):
        row['harmless'] += 1
      else:
        row['silent'] += 1
        print('SILENT', case, file=sys.stderr)
      if row['cases'] % -(-number[case.kind] // starts) == 0:
        row['starts'] += 1
        told = start(saved, case, copy)
        row['failed'] += told != 'good'
        if told != 'good':
          print(told, case, file=sys.stderr)
    finally:
      mend()
    row['cases'] += 1
  if archive.damage(saved.newest):
    raise RuntimeError('the damage was not mended: the counts mean nothing')
  return counts


class _WithoutManifest(checkpoint.Checkpointer):
  """What saving was before there were manifests; nothing is removed."""

  def _finish(self, step):
    self._manager.wait_until_finished()


def time_saves(folder: pathlib.Path, megabytes: int, repeats: int):
  """Seconds by name, medians: blocked with and without, saving, manifest."""
  rng = np.random.default_rng(0)
  size = max(1, megabytes * 2**20 // 4 // 16)
  net = {f'layer{i}': rng.standard_normal(size, np.float32) for i in range(16)}
  made = state.TrainState(
    step=jax.numpy.int32(0),
    params={'net': jax.device_put(net), 'stats': {}, 'frozen': {}},
    ema=None,
    opt_state={},
  )
  seconds: dict[str, list[float]] = {
    k: [] for k in ('with', 'without', 'save', 'manifest')
  }
  original = retention.write_manifests

  def timed(*args):
    began = time.perf_counter()
    original(*args)
    seconds['manifest'].append(time.perf_counter() - began)

  shutil.rmtree(folder, ignore_errors=True)
  retention.write_manifests = timed
  try:
    with (
      checkpoint.Checkpointer(folder / 'with', keep=1) as full,
      _WithoutManifest(folder / 'without', keep=1) as bare,
    ):
      for step in range(1, repeats + 2):
        # In turns, and in either order, so that drift hits both alike.
        pair = [('with', full), ('without', bare)][:: 1 if step % 2 else -1]
        for name, saver in pair:
          began = time.perf_counter()
          saver.save(step, made)
          seconds[name].append(time.perf_counter() - began)
          saver._manager.wait_until_finished()
          if name == 'with':
            seconds['save'].append(time.perf_counter() - began)
          saver.wait()
        shutil.rmtree(folder / 'without' / str(step))
  finally:
    retention.write_manifests = original
  shutil.rmtree(folder)
  # The first of each opens files and makes threads.
  return {k: statistics.median(v[1:]) for k, v in seconds.items()}


def main(argv=None) -> int:
  argv = common.arguments(argv)
  parser = common.parser(NAME, __doc__, 'configs/pix2seq_d_shapes.py:smoke')
  parser.add_argument('--num', type=int, default=1000, help='of flips')
  parser.add_argument('--megabytes', type=int, default=300, help='of state')
  parser.add_argument('--repeats', type=int, default=7, help='of timed saves')
  parser.add_argument('--seed', type=int, default=0)
  args = parser.parse_args(argv)
  logging.getLogger('absl').setLevel('ERROR')  # Orbax on each wait of ours
  folder = args.out.absolute() / 'work'
  shutil.rmtree(folder, ignore_errors=True)
  config = common.load_config(args.config, args.set)
  saved = save_run(state_of(config), folder / 'run')
  files = saved.files()
  size = sum(path.stat().st_size for path in files)
  counts = damage_all(saved, args.num, args.seed)
  seconds = time_saves(folder / 'timed', args.megabytes, args.repeats)
  shutil.rmtree(folder)
  blocked = seconds['with'] - seconds['without']
  fraction = seconds['manifest'] / seconds['save']
  bad = sum(row['silent'] + row['failed'] for row in counts.values())
  passed = not bad and blocked <= _BLOCKING and fraction <= _SHARE
  rows = [[kind, *row.values()] for kind, row in counts.items()]
  columns = ('damage', *next(iter(counts.values())))
  times = common.table(
    ('of a save', 'ms'),
    [
      ['training waits, without manifests', 1e3 * seconds['without']],
      ['training waits, with manifests', 1e3 * seconds['with']],
      ['until Orbax has committed it', 1e3 * seconds['save']],
      ['making the manifest, after that', 1e3 * seconds['manifest']],
    ],
  )
  verdict = (
    f'{len(files)} files, {size:,} bytes. Silent or failed: {bad}. Of '
    f'{args.megabytes} MiB: training waits {1e3 * blocked:+.1f} ms longer (at '
    f'most {1e3 * _BLOCKING:.0f}); the manifest takes {100 * fraction:.0f} % '
    'of '
    f'the save (at most {100 * _SHARE:.0f}): {"good" if passed else "MISSED"}.'
  )
  common.report(
    args,
    argv,
    name=NAME,
    title='Flipped bits and other damage',
    about=f'{common.sizes(config)}; medians of {args.repeats} saves',
    parts=[common.table(columns, rows), times, verdict],
    numbers={'passed': passed, 'damage': counts, 'seconds': seconds},
  )
  return int(not passed)


if __name__ == '__main__':
  sys.exit(main())
