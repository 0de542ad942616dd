"""Short training runs that are killed, each in a process of its own.

  python -m benchmarks.short_runs --num 100 --folder /tmp/kills

The library's own loop and checkpoints, with dropout, averages, statistics and
frozen weights, on a network so small that a run takes a second. This process
imports everything once and forks for each start; it never computes. A child
tells through a pipe of each start (from which step, with which bytes, which
names it found in its folder), each step and each save; those of the unbroken
run are the truth for all. Prints one JSON line; see `kills`.
"""

import argparse
import contextlib
import hashlib
import json
import os
import pathlib
import random
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax  # noqa: F401  forked with everything that a child needs
import orbax.checkpoint  # noqa: F401

from pix2seqd_jax import types
from pix2seqd_jax.train import loop, optimizer, sharding, state, step
from pix2seqd_jax.train.checkpoints import archive, checkpoint

STEPS, SAVE_EVERY, KEEP, KEEP_EVERY = 12, 2, 2, 6
# Where to kill: at any moment; while a save is under way; when a step is
# committed and has no manifest; when an old one is being removed.
KINDS = ('any', 'save', 'no manifest', 'removing')
_PATIENCE = 120.0  # seconds
_SIZE = 256


class Model:
  """One layer with dropout, a running mean and a frozen scale."""

  def init(self, rng, batch):
    del batch
    return {
      'net': {'kernel': jax.random.normal(rng, (_SIZE, _SIZE)) / _SIZE},
      'stats': {'mean': jnp.zeros(_SIZE)},
      'frozen': {'scale': jax.random.uniform(rng, (_SIZE,))},
    }

  def loss_fn(self, params, batch, rng):
    keep = jax.random.bernoulli(rng, 0.9, batch['image'].shape)
    hidden = jnp.where(keep, batch['image'], 0) @ params['net']['kernel']
    loss = jnp.mean((hidden * params['frozen']['scale'] - batch['image']) ** 2)
    mean = 0.9 * params['stats']['mean'] + 0.1 * hidden.mean(0)
    return loss, types.Aux({}, {'mean': mean})


def batches_from(start: int):
  """The stream of batches from a position."""
  while True:
    rng = np.random.default_rng([3, start])
    yield {'image': rng.normal(size=(8, _SIZE)).astype(np.float32)}
    start += 1


def digest(tree: Any) -> str:
  """Of all names and bytes of a tree."""
  total = hashlib.sha256()
  for name, leaf in sorted(sharding.flat_paths(tree).items()):
    leaf = np.asarray(leaf)
    total.update(f'{name} {leaf.dtype} {leaf.shape}'.encode())
    total.update(leaf.tobytes())
  return total.hexdigest()[:16]


class _Told(checkpoint.Checkpointer):
  """Tells of each save when it begins."""

  tell: Callable = staticmethod(lambda *_: None)

  def save(self, step, *args, **kwargs):
    self.tell('save', step)
    return super().save(step, *args, **kwargs)


def train(folder: pathlib.Path, tell: Callable) -> None:
  """One start of a run, to its end."""
  model, tx = Model(), optimizer.make_optimizer('adamw', 0.01)
  mesh = sharding.make_mesh()
  batch = next(batches_from(0))
  settings = {'keep': KEEP, 'keep_every': KEEP_EVERY}
  abstract = state.abstract_state(model, tx, batch, mesh)
  with _Told(folder / archive.FOLDER, **settings) as saved:
    saved.tell = tell
    if saved.latest_step() is None:
      held = state.create_state(model, tx, jax.random.key(0), batch, mesh)
    else:
      held = saved.restore(abstract)
    names = [str(p.relative_to(folder)) for p in folder.glob('*')]
    names += [str(p.relative_to(folder)) for p in folder.glob('*/*')]
    tell('start', int(held.step), digest(held), sorted(names))
    train_step = step.make_train_step(model, tx, mesh=mesh)

    def told_step(current, batch, key):
      current, scalars = train_step(current, batch, key)
      tell('step', int(current.step), digest(current))
      return current, scalars

    loop.train(
      state=held,
      train_step=told_step,
      batches_from=batches_from,
      num_steps=STEPS,
      rng=jax.random.key(1),
      mesh=mesh,
      checkpointer=saved,
      save_every=SAVE_EVERY,
      log_every=STEPS,
      progress=False,
    )
    last = saved.restore(abstract)
    tell('end', int(last.step), digest(last))


class Start:
  """One start of a run as a child; `events` are what it told so far."""

  def __init__(self, folder: pathlib.Path):
    self.events: list[list[Any]] = []
    self._log = folder.with_suffix('.log')
    self._pipe, write = os.pipe()
    self._text = b''
    self.began = time.monotonic()
    self.pid = os.fork()
    if not self.pid:
      os.close(self._pipe)
      self._child(folder, write)
    os.close(write)

  def _child(self, folder, write):
    code = 1
    try:
      log = os.open(self._log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
      os.dup2(log, 1)
      os.dup2(log, 2)
      folder.mkdir(parents=True, exist_ok=True)
      train(folder, lambda *e: os.write(write, json.dumps(e).encode() + b'\n'))
      code = 0
    except BaseException:
      traceback.print_exc()
    finally:
      sys.stderr.flush()
      os._exit(code)

  def read(self, seconds: float) -> bool:
    """Takes in what is told within this time; False once the child ended."""
    if select.select([self._pipe], [], [], max(seconds, 0))[0]:
      data = os.read(self._pipe, 1 << 16)
      if not data:
        return False
      *lines, self._text = (self._text + data).split(b'\n')
      self.events += [json.loads(line) for line in lines]
    return True

  def until(self, done: Callable[[], bool], poll: float = 0.001) -> bool:
    """Until done(); False if the child ended before."""
    while not done():
      if time.monotonic() > self.began + _PATIENCE:
        raise RuntimeError(f'a run did not end; see {self._log}')
      if not self.read(poll):
        return done()
    return True

  def kill(self) -> bool:
    """SIGKILL; False if it had ended by itself."""
    with contextlib.suppress(ProcessLookupError):
      os.kill(self.pid, signal.SIGKILL)
    return self.finish() == -signal.SIGKILL

  def finish(self) -> int:
    """Waits for the end; its exit code, negative for a signal."""
    self.until(lambda: False, 0.05)
    os.close(self._pipe)
    return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])

  def told(self, kind: str) -> list[list[Any]]:
    """The events of a kind."""
    return [event[1:] for event in self.events if event[0] == kind]


def _without_manifest(folder: pathlib.Path) -> bool:
  path = folder / archive.FOLDER
  return any(not archive.is_complete(path / str(s)) for s in _folders(path))


def _folders(path):
  return archive.folders_in(path) if path.is_dir() else []


def _removing(folder: pathlib.Path) -> bool:
  return any((folder / archive.FOLDER).glob('*.deleting'))


def kill_one(
  folder: pathlib.Path, kind: str, rng: random.Random, seconds: float
) -> tuple[Start, bool]:
  """Starts a run, and kills it at a moment of this kind."""
  start = Start(folder)
  if kind == 'any':
    moment = start.began + rng.uniform(0, seconds)
    start.until(lambda: time.monotonic() > moment)
  elif kind == 'save':
    # One of those to come; how long after its beginning.
    which, delay = rng.randrange(3), rng.uniform(0, 0.25)
    start.until(lambda: len(start.told('save')) > which)
    moment = time.monotonic() + delay
    start.until(lambda: time.monotonic() > moment)
  else:
    seen = _without_manifest if kind == 'no manifest' else _removing
    which = rng.randrange(3)
    start.until(lambda: len(start.told('save')) > which)
    start.until(lambda: seen(folder), poll=0)
  return start, start.kill()


def check_start(
  start: Start, truth: dict[int, str], complete: int
) -> list[str]:
  """What is wrong with what a start told, as sentences.

  Args:
    start: of it.
    truth: step -> digest of the unbroken run's state.
    complete: the newest complete step before it, 0 if there was none.
  """
  wrong = []
  for found, bytes_, names in start.told('start'):
    if found != complete:
      wrong.append(f'went on from {found}, not {complete}')
    if bytes_ != truth[found]:
      wrong.append(f'other bytes were restored at step {found}')
    known = ('checkpoints', 'frozen')
    strange = [
      name
      for name in names
      if name.split('/')[0] not in known
      or (name.startswith('checkpoints/') and not name[12:].isdigit())
    ]
    if strange:
      wrong.append(f'left over: {strange}')
  wrong += [
    f'other bytes after step {at}'
    for at, bytes_ in start.told('step') + start.told('end')
    if bytes_ != truth[at]
  ]
  return wrong


def newest(folder: pathlib.Path) -> int:
  """The newest complete step, or 0."""
  return (archive.steps_in(folder) or [0])[-1]


def kills(folder: pathlib.Path, num: int, seed: int) -> dict[str, Any]:
  """Kills `num` times; each run one to three times, then to its end.

  Returns:
    'kills' by kind, 'runs', 'starts', 'found' (kills after which there was
    something to clear away, by what), and 'wrong', a list of sentences.
  """
  rng = random.Random(seed)
  unbroken, again = Start(folder / 'first'), None
  if unbroken.finish():
    raise RuntimeError(f'see {folder}/first.log')
  again = Start(folder / 'unbroken')  # with what the first has compiled
  again.finish()
  seconds = time.monotonic() - again.began
  truth = dict(again.told('step'))
  truth[0] = again.told('start')[0][1]
  wrong = check_start(again, truth, 0) + check_start(unbroken, truth, 0)
  counts = dict.fromkeys(KINDS, 0)
  found = {'uncommitted': 0, 'no manifest': 0, 'half removed': 0}
  runs = starts = 0
  while sum(counts.values()) < num:
    runs += 1
    run = folder / f'run{runs}'
    for _ in range(rng.randint(1, 3)):
      if sum(counts.values()) == num:
        break
      kind, complete = rng.choice(KINDS), newest(run)
      start, killed = kill_one(run, kind, rng, seconds)
      starts += 1
      wrong += [f'{run}: {x}' for x in check_start(start, truth, complete)]
      if newest(run) < complete:
        wrong.append(f'{run}: step {complete} was lost')
      if not killed:
        break
      counts[kind] += 1
      found['uncommitted'] += any(run.glob('**/*.orbax-checkpoint-tmp*'))
      found['no manifest'] += _without_manifest(run)
      found['half removed'] += _removing(run)
    complete, last = newest(run), Start(run)
    code = last.finish()
    starts += 1
    wrong += [f'{run}: {x}' for x in check_start(last, truth, complete)]
    if code or not last.told('end') or last.told('end')[0][0] != STEPS:
      wrong.append(f'{run}: a start after a kill failed; see {run}.log')
    if runs % 10 == 0:
      print(sum(counts.values()), 'kills', file=sys.stderr, flush=True)
  return {
    'kills': counts,
    'runs': runs,
    'starts': starts,
    'seconds': seconds,
    'found': found,
    'wrong': wrong,
  }


def main() -> None:
  """Prints what `kills` returns."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--num', type=int, required=True)
  parser.add_argument('--folder', type=pathlib.Path, required=True)
  parser.add_argument('--seed', type=int, default=0)
  args = parser.parse_args()
  args.folder.mkdir(parents=True)
  print(json.dumps(kills(args.folder.absolute(), args.num, args.seed)))


if __name__ == '__main__':
  main()
