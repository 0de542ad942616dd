"""One process of a toy run; started by test_processes.py.

Arguments: process id, number of processes, port, working directory, steps,
seconds to wait for each batch.
Prints one JSON line: the last step, losses, a digest of the last state, and
what was evaluated, unless it was stopped before its end.
"""

import hashlib
import json
import os
import pathlib
import sys
import time

_HERE = pathlib.Path(__file__).parent
_TESTS = _HERE.parents[1]
sys.path[:0] = map(
  str, (_HERE, _HERE.parent, _TESTS / 'tasks', _TESTS, _TESTS.parent)
)
_ID, _COUNT, _PORT, _WORKDIR, _STEPS, _PAUSE = sys.argv[1:7]
os.environ['JAX_PLATFORMS'] = 'cpu'
os.environ['XLA_FLAGS'] = (
  f'--xla_force_host_platform_device_count={4 // int(_COUNT)} '
  '--xla_backend_optimization_level=0'
)

import jax  # noqa: E402
import numpy as np  # noqa: E402
import test_synthesis  # noqa: E402
import toy  # noqa: E402
from test_evaluate import Task, eval_batches  # noqa: E402
from test_loop import Rows  # noqa: E402

from pix2seqd_jax.pretrained import perceptual  # noqa: E402
from pix2seqd_jax.train import (  # noqa: E402
  evaluate,
  ledger,
  loop,
  optimizer,
  processes,
  sharding,
  state,
  step,
)
from pix2seqd_jax.train.checkpoints import checkpoint  # noqa: E402


def mine(batches):
  """This process's rows of global batches."""
  count, index = jax.process_count(), jax.process_index()
  for batch in batches:
    time.sleep(float(_PAUSE))
    size = len(batch['index']) // count
    yield {k: v[index * size :][:size] for k, v in batch.items()}


def numbered(batches):
  """An index for each example of all batches."""
  for i, batch in enumerate(batches):
    index = i * len(batch['index']) + np.arange(len(batch['index']))
    yield {**batch, 'index': index, 'meta': [{'index': n} for n in index]}


def digest(tree) -> str:
  """Of all values, wherever they are."""
  whole = jax.jit(
    lambda t: t, out_shardings=sharding.replicated(sharding.make_mesh())
  )(tree)
  data = b''.join(np.asarray(x).tobytes() for x in jax.tree.leaves(whole))
  return hashlib.sha256(data).hexdigest()


def train(mesh, model, book):
  """The last state, and what was logged."""
  rules, rows = (('kernel$', 'fsdp'),), Rows()
  tx = optimizer.make_optimizer('adamw', 0.01, weight_decay=0.05)
  example = next(mine(toy.batches_from(0)))
  with checkpoint.Checkpointer(pathlib.Path(_WORKDIR) / 'checkpoints') as saved:
    if saved.latest_step() is None:
      held = state.create_state(
        model, tx, jax.random.key(0), example, mesh, rules
      )
    else:
      held = saved.restore(
        state.abstract_state(model, tx, example, mesh, rules)
      )
    held = loop.train(
      state=held,
      train_step=step.make_train_step(model, tx, mesh=mesh, rules=rules),
      batches_from=lambda start: mine(toy.batches_from(start)),
      num_steps=int(_STEPS),
      rng=jax.random.key(1),
      mesh=mesh,
      checkpointer=saved,
      writer=rows,
      save_every=3,
      log_every=1,
      ledger=book(int(held.step)),
    )
  return held, rows


def synthesise(mesh):
  """What images that are made from masks are found to be."""
  task = test_synthesis.SynthesisTask(
    test_synthesis.CATEGORIES, perceptual.Features()
  )
  painter = test_synthesis.Painter(0.05)
  sampler = evaluate.make_sampler(
    painter, timesteps=None, sampler=None, mesh=mesh
  )
  batches = mine(test_synthesis.batches(size=16))
  return evaluate.evaluate(
    painter, task, {}, batches, sample_fn=sampler, mesh=mesh
  )


def main():
  mesh = sharding.make_mesh((('data', 2), ('fsdp', 2), ('tensor', 1)))
  model = toy.Toy(dropout=0.2)
  held, rows = train(mesh, model, lambda at: ledger.Ledger(_WORKDIR, at))
  answer = {
    'step': int(held.step),
    'losses': {i: row['loss'] for i, row in rows.scalars.items()},
    'digest': digest(held),
  }
  if answer['step'] == int(_STEPS):
    seen = []
    answer['eval'] = evaluate.evaluate(
      model,
      Task(),
      state.eval_params(held),
      mine(numbered(eval_batches())),
      sample_fn=evaluate.make_sampler(
        model, timesteps=None, sampler=None, mesh=mesh
      ),
      mesh=mesh,
      on_example=lambda _, meta: seen.append(int(meta['index'])),
    )
    answer['seen'] = seen
    answer['synthesis'] = synthesise(mesh)
  print(json.dumps(answer), file=sys.__stdout__, flush=True)


if __name__ == '__main__':
  with processes.session(
    _WORKDIR,
    mode='manual' if int(_COUNT) > 1 else 'off',
    coordinator=f'127.0.0.1:{_PORT}',
    num_processes=int(_COUNT),
    process_id=int(_ID),
    timeout_s=120,
  ):
    main()
