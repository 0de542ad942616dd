"""One of two processes that save and restore; see test_checkpoint_processes.

Arguments: process id, port, working directory. Prints one JSON line.
"""

import json
import os
import pathlib
import shutil
import sys
import time
import types
import warnings

sys.path[:0] = [str(pathlib.Path(__file__).parents[i]) for i in (0, 1, 3)]
_ID, _PORT, _WORKDIR = sys.argv[1:4]
os.environ['JAX_PLATFORMS'] = 'cpu'
os.environ['XLA_FLAGS'] = '--xla_force_host_platform_device_count=2'

import jax  # noqa: E402

jax.distributed.initialize(
  f'127.0.0.1:{_PORT}',
  num_processes=2,
  process_id=int(_ID),
  initialization_timeout=120,
)

import numpy as np  # noqa: E402
import toy  # noqa: E402

from pix2seqd_jax.experiment import runs  # noqa: E402
from pix2seqd_jax.train import (  # noqa: E402
  optimizer,
  processes,
  sharding,
  state,
)
from pix2seqd_jax.train.checkpoints import (  # noqa: E402
  archive,
  checkpoint,
  manifest,
  retention,
)


def slowly(prune):
  """As on a slow disk: the others must not list what is to be removed."""

  def pruned(*args):
    time.sleep(0.5)
    prune(*args)

  return pruned


def passed_over(folder, mesh):
  """What a watch has of a step that is gone for one, and of one that is not."""
  found = []

  def read_params(*_):
    if _ID == '1' and not found:
      raise OSError('gone')
    return {'x': np.ones(4)}

  runs.workdirs.read_params = read_params
  experiment = types.SimpleNamespace(
    loop=types.SimpleNamespace(steps=9), mesh=mesh, shard_rules=()
  )
  for step in (8, 7):
    with warnings.catch_warnings(record=True) as told:
      warnings.simplefilter('always')
      read = runs._load(experiment, folder, step, True)
    found.append((read is not None, len(told)))
  return found


def main():
  retention.prune = slowly(retention.prune)
  mesh = sharding.make_mesh((('data', 2), ('fsdp', 2), ('tensor', 1)))
  rules, tx = (('kernel$', 'fsdp'),), optimizer.make_optimizer('adamw', 0.1)
  model, batch = toy.Toy(frozen=True), toy.make_batch(0)
  folder = pathlib.Path(_WORKDIR) / 'checkpoints'
  held = state.create_state(model, tx, jax.random.key(0), batch, mesh, rules)
  answer = {}
  with checkpoint.Checkpointer(folder, keep=2) as saved:
    for step in (1, 2, 3):
      saved.save(step, held)
      held = jax.tree.map(lambda x: x + 1, held)
    saved.wait()
    answer['complete'] = [manifest.exists(folder / str(s)) for s in (2, 3)]
    answer['steps'] = saved.steps()
  if _ID == '0':  # what a kill and a bad disk leave
    shutil.copytree(folder / '3', folder / '4')
    (folder / '4' / 'manifest.json').unlink()
    (folder / '5.orbax-checkpoint-tmp').mkdir()
    path = next(p for p in (folder / '3' / 'ema').rglob('d/*') if p.is_file())
    path.write_bytes(path.read_bytes()[:-1])
  checkpoint._barrier('damaged')
  with (
    warnings.catch_warnings(record=True) as told,
    checkpoint.Checkpointer(folder, keep=2) as saved,
  ):
    warnings.simplefilter('always')
    found = saved.restore(state.abstract_state(model, tx, batch, mesh, rules))
    answer['restored'] = int(found.params['net']['one']['bias'][0])
    answer['lines'] = len(told)
    answer['known'] = saved.steps()
    saved.save(3, found)
    saved.wait()
    answer['again'] = saved.steps()
    checkpoint._barrier('pruned by the first')
    answer['names'] = sorted(p.name for p in folder.iterdir())
    answer['damage'] = archive.damage(folder / '3')
    whole = jax.jit(lambda x: x, out_shardings=sharding.replicated(mesh))
    kernel = whole(found.ema['net']['one']['kernel'])
    answer['kernel'] = np.asarray(kernel).tolist()
  assert processes.all_true(True)
  assert not processes.all_true(_ID == '0')
  answer['evaluated'] = passed_over(folder, mesh)
  print(json.dumps(answer), flush=True)


if __name__ == '__main__':
  main()
