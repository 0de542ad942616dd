"""One device or eight: the same losses, samples and Panoptic Quality.

  python -m benchmarks.devices --steps 60

The same run is trained in two processes: on one CPU device, and on eight
forced host devices in a mesh (data 2, fsdp 2, tensor 2) with kernels split by
configs.common.fsdp_rules. The losses of all steps are compared. Then both
sample and evaluate the same weights, those of the one device, from the same
noise. Exits with 1 if a difference is above its bar.

What the eight make of the weights that they trained themselves stands beside
it without a bar: AdamW divides each gradient by its own size, so where a
gradient is rounding noise (a key's bias, which softmax ignores) its sign, and
with it the weight, is left to chance, on any two orders of summation.
"""

import json
import os
import pathlib
import shutil
import subprocess
import sys
from typing import Any, NamedTuple

import jax
import numpy as np

from benchmarks import common, runs
from configs import common as recipes
from pix2seqd_jax.experiment import build
from pix2seqd_jax.experiment import runs as whole_runs
from pix2seqd_jax.experiment import workdir as workdirs
from pix2seqd_jax.train import evaluate, sharding

NAME = 'devices'
MESHES: dict[int, Any] = {
  1: {
    'mesh': (('data', 1), ('fsdp', 1), ('tensor', 1)),
    'shard_rules': (),
  },
  8: {
    'mesh': (('data', 2), ('fsdp', 2), ('tensor', 2)),
    'shard_rules': recipes.fsdp_rules(),
  },
}


class Bars(NamedTuple):
  """What two numbers of devices may differ by."""

  loss: float = 2e-6  # relative
  sample: float = 1e-4  # absolute, of analog bits
  pq: float = 1e-3  # absolute


def on_mesh(config, num_devices: int):
  return common.override(config, MESHES[num_devices])


# In a process with this many devices.


def make_sampler(experiment: build.Experiment):
  """(params, inputs, keys) -> Raw, and x_0 before any threshold under 'x_0'."""
  model = experiment.model
  timesteps, sampler = experiment.timesteps(), experiment.sampler

  def sample(params, batch, keys):
    x_0 = model.sample(
      params, batch, keys, timesteps=timesteps, sampler=sampler
    )
    return {**model.decode(params, x_0, batch), 'x_0': x_0}

  where = sharding.batch_sharding(experiment.mesh)
  return jax.jit(sample, out_shardings=where)


def measure(experiment, sampler, folder: pathlib.Path, step: int):
  """(x_0 of all batches, PQ, fraction of the parameters on one device)."""
  mesh, drawn = experiment.mesh, []
  params = workdirs.load_params(experiment, folder, step, mesh=mesh)

  def sample_fn(params, batch, keys):
    raw = sampler(params, batch, keys)
    drawn.append(np.asarray(raw.pop('x_0')))
    return raw

  metrics = evaluate.evaluate(
    experiment.model,
    experiment.task,
    params,
    experiment.eval_batches(),
    sample_fn=sample_fn,
    seed=experiment.sample_seed,
    mesh=mesh,
  )
  leaves = jax.tree.leaves(params)
  held = sum(leaf.addressable_shards[0].data.size for leaf in leaves)
  fraction = held / sum(leaf.size for leaf in leaves)
  return np.concatenate(drawn), metrics['pq'], fraction


def work(num_devices: int, config_file: pathlib.Path) -> None:
  """Trains in FOLDER/N, measures it and FOLDER/1; writes FOLDER/N.{npz,json}"""
  if jax.device_count() != num_devices:
    raise RuntimeError(f'{jax.device_count()} devices, expected {num_devices}.')
  config = on_mesh(common.load_config(str(config_file)), num_devices)
  folder = config_file.parent
  whole_runs.train(config, folder / str(num_devices))
  experiment = build.Experiment(config)
  sampler, found = make_sampler(experiment), {}
  for name, other in (('own', num_devices), ('same', 1)):
    x_0, pq, fraction = measure(
      experiment, sampler, folder / str(other), config.train.steps
    )
    found[name] = {'pq': pq, 'share': fraction}
    np.save(folder / f'{num_devices}-{name}.npy', x_0)
  (folder / f'{num_devices}.json').write_text(json.dumps(found))


# In the command's own process.


def start(num_devices: int, config_file: pathlib.Path) -> None:
  """Runs `work` where there are so many devices."""
  flag = f'--xla_force_host_platform_device_count={num_devices}'
  environment = {**os.environ, 'XLA_FLAGS': flag}
  environment['JAX_PLATFORMS'] = 'cpu'
  command = [sys.executable, '-m', 'benchmarks.devices']
  command += ['--worker', str(num_devices), str(config_file)]
  done = subprocess.run(
    command,
    cwd=common.REPO,
    env=environment,
    capture_output=True,
    text=True,
  )
  if done.returncode:
    raise RuntimeError(f'{command} failed:\n{done.stderr[-3000:]}')


def compare(folder: pathlib.Path, bars: Bars):
  """Rows (what, one device, eight devices, difference, bar, passed)."""
  losses = []
  for n in (1, 8):
    rows = runs.numbers_of(folder / str(n))
    losses.append(np.array([rows[k]['loss'] for k in sorted(rows)]))
  relative = np.abs(losses[1] / losses[0] - 1)
  at = int(relative.argmax())
  found = {n: json.loads((folder / f'{n}.json').read_text()) for n in (1, 8)}
  rows = [
    [
      f'loss, worst of {len(relative)} steps (step {at + 1}), relative',
      *(f'{values[at]:.7f}' for values in losses),
      float(relative.max()),
      bars.loss,
    ]
  ]
  for name, title in (('same', 'the same weights'), ('own', 'own weights')):
    x_0 = [np.load(folder / f'{n}-{name}.npy') for n in (1, 8)]
    bar = name == 'same'
    rows.append(
      [
        f'samples of {title}, worst of {x_0[0].size:,}, absolute',
        *(f'rms {np.sqrt(np.mean(np.square(x))):.4f}' for x in x_0),
        float(np.abs(x_0[0] - x_0[1]).max()),
        bars.sample if bar else None,
      ]
    )
    pq = [found[n][name]['pq'] for n in (1, 8)]
    rows.append(
      [
        f'PQ of {title}',
        *(f'{value:.4f}' for value in pq),
        abs(pq[0] - pq[1]),
        bars.pq if bar else None,
      ]
    )
  for row in rows:
    row.append(None if row[-1] is None else row[-2] <= row[-1])
  return rows, found[8]['same']['share']


def main(argv=None) -> int:
  argv = common.arguments(argv)
  if argv[:1] == ['--worker']:
    work(int(argv[1]), pathlib.Path(argv[2]))
    return 0
  parser = common.parser(NAME, __doc__, 'configs/pix2seq_d_shapes.py:smoke')
  parser.add_argument('--steps', type=int, default=60)
  args = parser.parse_args(argv)
  config = common.override(
    common.load_config(args.config),
    {
      'train.steps': args.steps,
      'train.log_every': 1,
      'train.eval_every': 0,
      'train.best_metric': '',
      **common.parse_overrides(args.set),
    },
  )
  folder = args.out.absolute() / 'work'
  shutil.rmtree(folder, ignore_errors=True)
  config_file = runs.write_config(config, folder / 'config.py')
  for num_devices in MESHES:
    start(num_devices, config_file)
  rows, fraction = compare(folder, Bars())
  fine = all(row[-1] is not False for row in rows)
  columns = ('', '1 device', '8 devices', 'difference', 'bar', 'passed')
  axes = ', '.join(f'{name} {size}' for name, size in MESHES[8]['mesh'])
  common.report(
    args,
    argv,
    name=NAME,
    title='One device and eight',
    about=f'{common.sizes(config)}, batch {config.data.batch_size}, '
    f'{args.steps} steps, forced host devices as ({axes})',
    parts=[
      common.table(columns, rows),
      f'Each of the eight holds {100 * fraction:.0f} % of the parameters: '
      f'{"passed" if fine else "FAILED"}.',
    ],
    numbers={'passed': fine, 'rows': rows, 'share_per_device': fraction},
  )
  return int(not fine)


if __name__ == '__main__':
  sys.exit(main())
