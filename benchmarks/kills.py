"""SIGKILL at random moments: no wrong value, no lost run, nothing left over.

  python -m benchmarks.kills --num 100 --steps 60 --kills 5

Two parts. First --num kills of short runs of the library's loop on a network
of one layer (see `short_runs`), half of them while a checkpoint is being
committed, given its manifest or removed: every start must go on from the
newest complete step with the unbroken run's bytes, leave no half written
folder, and end with the unbroken run's bytes.

Then the command line's training, with augmentation and dropout on: once
unbroken, and once in another folder, where it is killed at --kills random
moments (seeded; before the first step, in a step, while a checkpoint is being
written, as it comes) and started again each time. Every array of the last
checkpoint (parameters, statistics, averages, optimizer state) must have the
unbroken run's bytes, every step its loss, and the last evaluation its numbers.

Exits with 1 if anything differs.
"""

import json
import os
import pathlib
import random
import shutil
import signal
import statistics
import subprocess
import sys
import time

import numpy as np

from benchmarks import common, runs
from pix2seqd_jax.experiment import build
from pix2seqd_jax.experiment import workdir as workdirs
from pix2seqd_jax.train import sharding
from pix2seqd_jax.train.checkpoints import archive, resume

NAME = 'kills'
AUGMENTED = (
  ('scale_jitter', {'scale': (1.0, 3.0)}),
  ('fixed_size_crop', {}),
  ('random_flip', {}),
  ('color_jitter', {'strength': 1.0}),
  ('pad', {}),
)
_POLL, _PATIENCE = 0.002, 900.0  # seconds


def last_step(folder: pathlib.Path) -> int:
  """The last step that was logged: 0 before the first, -1 before the run."""
  if not (folder / resume.FILE).is_file():
    return -1
  steps = [row['step'] for row in runs.metrics_of(folder) if 'loss' in row]
  return steps[-1] if steps else 0


class Run:
  """A training process of the command line, in a folder of its own.

  The whole config goes by file, so that any --set reaches the process.
  """

  def __init__(self, config_file: pathlib.Path, folder: pathlib.Path):
    self.folder = folder
    self._log = folder.with_suffix('.log')
    command = [sys.executable, '-m', 'pix2seqd_jax.run', '--mode', 'train']
    command += [f'--config={config_file}', f'--workdir={folder}']
    with self._log.open('a') as log:
      self._process = subprocess.Popen(
        command, cwd=common.REPO, stdout=log, stderr=log
      )

  def __enter__(self):
    return self

  def __exit__(self, *_):
    if self._process.poll() is None:  # we failed: leave nothing running
      self._process.kill()
      self._process.wait()

  def finish(self) -> None:
    """Waits for the end of the run; raises RuntimeError if it failed."""
    if self._process.wait(_PATIENCE):
      raise RuntimeError(f'training failed:\n{self._log.read_text()[-3000:]}')

  def kill_at(self, step: int, delay: float) -> bool:
    """SIGKILL `delay` seconds after `step` is logged; False: had ended."""
    deadline = time.monotonic() + _PATIENCE
    while last_step(self.folder) < step and self._process.poll() is None:
      if time.monotonic() > deadline:
        break
      time.sleep(_POLL)
    time.sleep(delay)
    self._process.send_signal(signal.SIGKILL)
    if self._process.wait() == -signal.SIGKILL:
      return True
    self.finish()
    return False


def state_of(folder: pathlib.Path, step: int) -> dict[str, np.ndarray]:
  """Every array of a checkpoint by its path."""
  experiment = workdirs.load(folder)
  with workdirs.checkpointer(experiment, folder) as saved:
    state, _ = workdirs.start(experiment, saved)
  if int(state.step) != step:
    raise RuntimeError(f'{folder} ends with step {int(state.step)}, not {step}')
  return {k: np.asarray(v) for k, v in sharding.flat_paths(state).items()}


def different(ours: dict, theirs: dict) -> list[str]:
  """Names of arrays whose bytes differ, or that one side lacks."""
  return sorted(
    name
    for name in {*ours, *theirs}
    if name not in ours
    or name not in theirs
    or ours[name].dtype != theirs[name].dtype
    or ours[name].shape != theirs[name].shape
    or ours[name].tobytes() != theirs[name].tobytes()
  )


def make_config(args):
  """The config with augmentation on, and everything logged."""
  config = common.override(
    common.load_config(args.config),
    {
      'data.train_transforms': AUGMENTED,
      'train.steps': args.steps,
      'train.log_every': 1,
      'train.save_every': args.save_every,
      'train.eval_every': args.steps,
      'train.num_panels': 0,
      'train.best_metric': '',
      **common.parse_overrides(args.set),
    },
  )
  build.Experiment(config).check()
  return config


def killed_run(args, config_file, folder, step_seconds):
  """Starts, kills and starts again; one row for each kill."""
  rng = random.Random(args.seed)
  moments = sorted(rng.uniform(0, args.steps) for _ in range(args.kills))
  rows = []
  for moment in moments:
    with Run(config_file, folder) as run:
      killed = run.kill_at(int(moment), (moment % 1) * step_seconds)
    reached = max(last_step(folder), 0)
    found = (archive.steps_in(folder) or [0])[-1]
    rows.append([f'{moment:.2f}', killed, reached, found, reached - found])
    print(f'killed at step {reached}, goes on from {found}', file=sys.stderr)
  with Run(config_file, folder) as run:
    run.finish()
  return rows


def compare(whole: pathlib.Path, broken: pathlib.Path, steps: int):
  """(number of arrays, of bytes, the arrays that differ, the steps)."""
  ours, theirs = state_of(broken, steps), state_of(whole, steps)
  arrays = different(ours, theirs)
  logs = runs.numbers_of(broken), runs.numbers_of(whole)
  wrong = [k for k in {*logs[0], *logs[1]} if logs[0].get(k) != logs[1].get(k)]
  size = sum(array.nbytes for array in theirs.values())
  return len(theirs), size, arrays, sorted(wrong)


def short_runs(args) -> tuple[bool, list[str], dict]:
  """The first part, in a process of its own: (passed, what to show, numbers).

  Raises:
    RuntimeError: it ended without an answer.
  """
  folder = args.out / 'short'
  shutil.rmtree(folder, ignore_errors=True)
  env = {**os.environ, 'JAX_PLATFORMS': 'cpu', 'XLA_FLAGS': ''}
  env.setdefault('JAX_COMPILATION_CACHE_DIR', str(common.REPO / '.cache/jax'))
  env['JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS'] = '0'
  done = subprocess.run(
    [
      *(sys.executable, '-m', 'benchmarks.short_runs'),
      *('--num', str(args.num), '--seed', str(args.seed)),
      *('--folder', str(folder.absolute())),
    ],
    cwd=common.REPO,
    env=env,
    stdout=subprocess.PIPE,
    text=True,
  )
  if done.returncode:
    raise RuntimeError(f'benchmarks.short_runs failed; see above and {folder}')
  found = json.loads(done.stdout.splitlines()[-1])
  passed = not found['wrong'] and sum(found['kills'].values()) == args.num
  rows = [[kind, number] for kind, number in found['kills'].items()]
  left = ', '.join(
    f'{number} {what}' for what, number in found['found'].items()
  )
  verdict = (
    f'{args.num} kills of {found["runs"]} runs of {found["seconds"]:.1f} s, '
    f'{found["starts"]} starts; kills that left a folder to clear away: '
    f'{left}. Wrong: {len(found["wrong"])}'
    + ''.join(f'; {text}' for text in found['wrong'][:5])
    + '.'
  )
  table = common.table(('killed', 'times'), rows)
  return passed, [table, verdict], found


def main(argv=None) -> int:
  argv = common.arguments(argv)
  parser = common.parser(NAME, __doc__, 'configs/pix2seq_d_shapes.py:smoke')
  parser.add_argument('--num', type=int, default=100, help='of short runs')
  parser.add_argument('--steps', type=int, default=60)
  parser.add_argument('--save_every', type=int, default=10)
  parser.add_argument('--kills', type=int, default=5)
  parser.add_argument('--seed', type=int, default=0, help='of the moments')
  args = parser.parse_args(argv)
  survived, parts, numbers = short_runs(args) if args.num else (True, [], {})
  config = make_config(args)
  folder = args.out / 'work'
  shutil.rmtree(folder, ignore_errors=True)
  config_file = runs.write_config(config, folder / 'config.py')
  with Run(config_file, folder / 'whole') as run:
    run.finish()
  times = [r['time'] for r in runs.metrics_of(folder / 'whole') if 'loss' in r]
  step_seconds = statistics.median(np.diff(times)) if len(times) > 1 else 0.1
  rows = killed_run(args, config_file, folder / 'killed', step_seconds)
  num_arrays, size, arrays, wrong = compare(
    folder / 'whole', folder / 'killed', args.steps
  )
  num_killed = sum(row[1] for row in rows)
  redone = sum(row[-1] for row in rows)
  equal = not arrays and not wrong and num_killed == args.kills
  verdict = (
    f'{num_killed} kills, {redone} steps done twice; of {num_arrays} arrays '
    f'({size:,} bytes) {len(arrays)} differ, of {args.steps} steps '
    f'{len(wrong)} have another loss or evaluation: '
    f'{"equal" if equal else "NOT EQUAL"}.'
  )
  columns = ('moment, steps', 'killed', 'last step', 'goes on from', 'redone')
  common.report(
    args,
    argv,
    name=NAME,
    title='Killed and resumed',
    about=f'{common.sizes(config)}, batch {config.data.batch_size}, '
    f'{args.steps} steps, saved every {args.save_every}, augmentation and '
    'dropout on',
    parts=[*parts, common.table(columns, rows), verdict],
    numbers={
      'short_runs': numbers,
      'equal': equal,
      'redone': redone,
      'kills': rows,
      'arrays': num_arrays,
      'bytes': size,
      'different_arrays': arrays,
      'different_steps': wrong,
    },
  )
  return int(not (equal and survived))


if __name__ == '__main__':
  sys.exit(main())
