"""Several processes on one machine: the same run, and what breaks it.

  python -m benchmarks.processes

On loopback, one CPU device a process, the global batch the same:
  equal    1, 2 and 4 processes train; losses of all steps against those of one
           process. Then all evaluate the one process's weights: the same
           metrics, and each example (no multiple of the batch) counted once.
  killed   SIGKILL to a process, and to the coordinator: seconds until jax ended
           the rest, with a status other than 0 and a line that names it.
  sigterm  SIGTERM to one process: all save the same step and end with 0; the
           resumed run ends with the unbroken one's bytes.
  ledger   runs that SIGTERM and SIGKILL break go on with 1 -> 2 -> 4 -> 1
           processes: what they were fed equals the unbroken run's ledger.
Exits with 1 where a bar is missed.
"""

import json
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from typing import NamedTuple

import jax

from benchmarks import common, kills, runs
from pix2seqd_jax.experiment import build
from pix2seqd_jax.experiment import runs as whole_runs
from pix2seqd_jax.experiment import workdir as workdirs
from pix2seqd_jax.train import evaluate, ledger, processes
from pix2seqd_jax.train.checkpoints import archive

NAME = 'processes'
PARTS = ('equal', 'killed', 'sigterm', 'ledger')
_POLL, _PATIENCE = 0.05, 900.0  # seconds


class Bars(NamedTuple):
  """What must hold."""

  loss: float = 2e-6  # relative, against one process
  seconds: float = 120.0  # from a SIGKILL to the end of the rest


# In each of several processes.


def work(config_file: pathlib.Path, folder: pathlib.Path) -> None:
  """Trains in `folder`; evaluates FOLDER/../1; writes what it counted."""
  config = common.load_config(str(config_file))
  whole_runs.train(config, folder)
  experiment = build.Experiment(config)
  one = folder.parent / '1'
  params = workdirs.load_params(
    experiment, one, config.train.steps, mesh=experiment.mesh
  )
  seen = []
  metrics = evaluate.evaluate(
    experiment.model,
    experiment.task,
    params,
    experiment.eval_batches(),
    sample_fn=experiment.sample_fn(mesh=experiment.mesh),
    seed=experiment.sample_seed,
    mesh=experiment.mesh,
    on_example=lambda _, meta: seen.append(int(meta['index'])),
  )
  metrics.pop('images_per_second')
  found = {'seen': seen, 'metrics': metrics, 'devices': jax.device_count()}
  path = folder.with_name(f'{folder.name}.{jax.process_index()}.json')
  path.write_text(json.dumps(found))


# In the command's own process.


class Group:
  """The processes of one run; killed where this command fails."""

  def __init__(self, count: int, folder: pathlib.Path, command):
    self.folder = folder
    with socket.create_server(('127.0.0.1', 0)) as free:
      port = free.getsockname()[1]
    env = {k: v for k, v in os.environ.items() if k != 'XLA_FLAGS'}
    env['JAX_PLATFORMS'] = 'cpu'
    # jax's cache serves process 0 alone on CPUs: the others compile each time.
    env['XLA_FLAGS'] = '--xla_backend_optimization_level=0'
    env.setdefault('JAX_COMPILATION_CACHE_DIR', str(common.REPO / '.cache/jax'))
    env.setdefault('JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS', '0.3')
    self.errors = [
      folder.with_name(f'{folder.name}-{count}.{i}.err') for i in range(count)
    ]
    self.processes = []
    for i, path in enumerate(self.errors):
      place = {
        'PIX2SEQD_COORDINATOR': f'127.0.0.1:{port}',
        'PIX2SEQD_NUM_PROCESSES': str(count),
        'PIX2SEQD_PROCESS_ID': str(i),
      }
      with path.open('w') as err, path.with_suffix('.out').open('w') as out:
        self.processes.append(
          subprocess.Popen(
            [sys.executable, '-m', *command],
            cwd=common.REPO,
            env=env | place,
            stdout=out,
            stderr=err,
          )
        )

  def __enter__(self):
    return self

  def __exit__(self, *_):
    for process in self.processes:
      if process.poll() is None:
        process.kill()
        process.wait()

  def reach(self, step: int) -> None:
    """Until a step is logged."""
    until = time.monotonic() + _PATIENCE
    while kills.last_step(self.folder) < step:
      if time.monotonic() > until or self.processes[0].poll() is not None:
        raise RuntimeError(f'step {step} never came:\n{self.said()}')
      time.sleep(_POLL)

  def send(self, index: int, number: int) -> None:
    self.processes[index].send_signal(number)

  def wait(self, patience: float = _PATIENCE) -> list[int | None]:
    """The status of each; None for one that is still there."""
    until = time.monotonic() + patience
    while time.monotonic() < until:
      if all(p.poll() is not None for p in self.processes):
        break
      time.sleep(_POLL)
    return [p.poll() for p in self.processes]

  def finish(self) -> None:
    """Waits for the end of the run; raises RuntimeError if it failed."""
    if any(self.wait()):
      raise RuntimeError(f'training failed:\n{self.said()}')

  def said(self) -> str:
    return '\n'.join(path.read_text()[-3000:] for path in self.errors)


def train(count, config_file, folder) -> Group:
  """A run of the command line in so many processes."""
  return Group(
    count,
    folder,
    ['pix2seqd_jax.run', f'--config={config_file}', f'--workdir={folder}'],
  )


def losses_of(folder: pathlib.Path) -> dict[int, float]:
  numbers = runs.numbers_of(folder)
  return {k: row['loss'] for k, row in numbers.items() if 'loss' in row}


def largest_difference(ours: dict, theirs: dict) -> float:
  """Of two runs' losses, relative; infinite where steps are missing."""
  if ours.keys() != theirs.keys() or not ours:
    return float('inf')
  return max(abs(ours[k] - theirs[k]) / abs(theirs[k]) for k in ours)


def equal(args, config_file, folder):
  """One row for each number of processes, and what missed the bar."""
  rows, wrong = [], []
  for count in args.counts:
    own = folder / str(count)
    command = ['benchmarks.processes', '--worker', str(config_file), str(own)]
    with Group(count, own, command) as group:
      group.finish()
    found = [
      json.loads(own.with_name(f'{own.name}.{i}.json').read_text())
      for i in range(count)
    ]
    seen = sorted(index for one in found for index in one['seen'])
    if count == args.counts[0]:
      reference = found[0]['metrics'], losses_of(own)
    same = all(one['metrics'] == reference[0] for one in found)
    difference = largest_difference(losses_of(own), reference[1])
    once = len(seen) == len({*seen}) == args.examples
    rows.append([count, found[0]['devices'], difference, len(seen), once, same])
    if difference > Bars().loss or not once or not same:
      wrong.append(f'{count} processes: {rows[-1]}')
  columns = ('processes', 'devices', 'loss, largest relative difference')
  columns += ('examples counted', 'each once', 'metrics equal')
  return common.table(columns, rows), wrong


def killed(args, config_file, folder):
  """SIGKILL to the last process, then to the coordinator, by turns."""
  rows, wrong = [], []
  for turn in range(args.kills):
    count = args.counts[-1 - turn // 2 % (len(args.counts) - 1)]
    victim = (count - 1) * (turn % 2 == 0)
    own = folder / f'killed{turn}'
    with train(count, config_file, own) as group:
      group.reach(3 + turn)
      group.send(victim, signal.SIGKILL)
      start = time.monotonic()
      codes = group.wait(2 * Bars().seconds)
      seconds = time.monotonic() - start
    rest = [code for i, code in enumerate(codes) if i != victim]
    # In jax's words.
    line = re.compile(
      rf'unhealthy \(stopped sending heartbeats\):\n{victim}\n'
      rf'|Task {victim} heartbeat'
      if victim
      else 'the leader task was preempted/died'
    )
    told = sum(
      bool(line.search(path.read_text()))
      for i, path in enumerate(group.errors)
      if i != victim
    )
    rows.append([count, victim, seconds, str(rest), f'{told} of {len(rest)}'])
    if None in rest or 0 in rest or told < len(rest):
      wrong.append(f'killed: {rows[-1]}')
    if seconds > Bars().seconds:
      wrong.append(f'killed: {rows[-1]}')
  columns = ('processes', 'killed', 'seconds until the rest ended')
  return common.table((*columns, 'status', 'said which'), rows), wrong


def sigterm(args, config_file, folder):
  """SIGTERM to the last process; the resumed run against the unbroken one."""
  rows, wrong = [], []
  for count in args.counts:
    own = folder / f'sigterm{count}'
    with train(count, config_file, own) as group:
      group.reach(3)
      group.send(count - 1, signal.SIGTERM)
      codes = group.wait()
    steps = archive.steps_in(own)
    stopped = steps[-1] if steps else 0
    off_interval = 0 < stopped < args.steps
    with train(count, config_file, own) as group:
      group.finish()
    different = kills.compare(folder / str(count), own, args.steps)[2:]
    same = not any(different)
    rows.append([count, count - 1, str(codes), stopped, same])
    if any(codes) or not off_interval or not same:
      wrong.append(f'sigterm: {rows[-1]} {different}')
  columns = ('processes', 'SIGTERM to', 'status', 'saved step')
  return common.table((*columns, 'resumed: bytes equal'), rows), wrong


def chain(args, config_file, folder):
  """1 -> 2 -> 4 -> 1 processes, broken by both signals by turns."""
  own, rows, wrong = folder / 'chain', [], []
  legs = (*args.counts, 1)
  for leg, count in enumerate(legs):
    start = (archive.steps_in(own) or [0])[-1]
    number = (signal.SIGTERM, signal.SIGKILL)[leg % 2]
    with train(count, config_file, own) as group:
      if leg == len(legs) - 1:
        group.finish()
      else:
        group.reach(args.steps * (leg + 1) // len(legs))
        group.send(count - 1, number)
        group.wait()
    end = kills.last_step(own)
    how = 'finished' if leg == len(legs) - 1 else number.name
    rows.append([count, start, end, how])
    if end <= start:
      wrong.append(f'{count} processes did nothing: {rows[-1]}')
  ours, theirs = ledger.read(own), ledger.read(folder / '1')
  differences = ledger.differences(ours, theirs)
  difference = largest_difference(losses_of(own), losses_of(folder / '1'))
  verdict = (
    f'Of {len(theirs)} steps {len(differences)} were fed other examples than '
    f'in one unbroken process; losses differ by {difference:.2g} at most.'
  )
  if differences or len(theirs) != args.steps or difference > Bars().loss:
    wrong += [verdict, *differences]
  table = common.table(('processes', 'from step', 'to step', 'ended by'), rows)
  return f'{table}\n\n{verdict}', wrong


def make_config(args):
  """The config, everything logged, and examples that do not divide."""
  config = common.override(
    common.load_config(args.config),
    {
      'train.steps': args.steps,
      'train.log_every': 1,
      'train.save_every': 4,
      'train.eval_every': args.steps,
      'train.num_panels': 0,
      'train.best_metric': '',
      'train.ledger': True,
      'eval.num_examples': args.examples,
      **common.parse_overrides(args.set),
    },
  )
  build.Experiment(config)
  return config


def main(argv=None) -> int:
  argv = common.arguments(argv)
  if argv[:1] == ['--worker']:
    config_file, folder = map(pathlib.Path, argv[1:])
    config = common.load_config(str(config_file))
    with processes.session(folder, **config.distributed):
      work(config_file, folder)
    return 0
  parser = common.parser(NAME, __doc__, 'configs/pix2seq_d_shapes.py:smoke')
  parser.add_argument('--counts', type=int, nargs='+', default=[1, 2, 4])
  parser.add_argument('--steps', type=int, default=40)
  parser.add_argument('--examples', type=int, default=13)
  parser.add_argument('--kills', type=int, default=4)
  parser.add_argument('--parts', nargs='+', choices=PARTS, default=PARTS)
  args = parser.parse_args(argv)
  config = make_config(args)
  folder = args.out / 'work'
  shutil.rmtree(folder, ignore_errors=True)
  config_file = runs.write_config(config, folder / 'config.py')
  texts, wrong = [], []
  functions = dict(zip(PARTS, (equal, killed, sigterm, chain)))
  for part in ('equal', *(p for p in PARTS[1:] if p in args.parts)):
    print(part, file=sys.stderr)
    text, missed = functions[part](args, config_file, folder)
    texts.append(text)
    wrong += missed
  common.report(
    args,
    argv,
    name=NAME,
    title='Several processes',
    about=f'{common.sizes(config)}, global batch {config.data.batch_size}, '
    f'{args.steps} steps, {args.examples} examples to evaluate',
    parts=[*texts, f'Missed: {"; ".join(wrong) or "nothing"}.'],
    numbers={'missed': wrong},
  )
  return int(bool(wrong))


if __name__ == '__main__':
  sys.exit(main())
