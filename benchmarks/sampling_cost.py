"""What sampling costs: the encoder once, the denoiser once a step.

  python -m benchmarks.sampling_cost --steps 1 5 10 20 50

Three claims of issue and paper (arXiv 2210.06366, section 3.3) are measured:
  * calls of encoder and denoiser, counted by callbacks out of the compiled
    program while it runs;
  * time(T) = encoder + T x denoiser, both measured alone, the median of
    --repeats rounds in each of which everything runs once, in turn;
  * one compilation for each (shape, steps), whatever images, keys and
    weights follow.
Exits with 1 if a count is wrong or a time is further off than --bar.
"""

import collections
import dataclasses
import statistics
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import io_callback

from benchmarks import common
from pix2seqd_jax import types
from pix2seqd_jax.experiment import build
from pix2seqd_jax.experiment import workdir as workdirs
from pix2seqd_jax.train import evaluate, sharding

NAME = 'sampling_cost'
COMPILED = '/jax/core/compile/backend_compile_duration'


def counting(model, counts: collections.Counter):
  """The same model; `counts` grows by one as each part runs."""

  def count(part):
    def add():
      counts[part] += 1

    io_callback(add, None)

  class Counting(type(model)):
    def encode(self, *args, **kwargs):
      count('encoder')
      return super().encode(*args, **kwargs)

    def denoise(self, *args, **kwargs):
      count('denoiser')
      return super().denoise(*args, **kwargs)

  fields = dataclasses.fields(model)
  return Counting(**{f.name: getattr(model, f.name) for f in fields if f.init})


class Compilations:
  """Counts XLA compilations (or loads from its cache) while it is open."""

  def __init__(self):
    self.count, self._open = 0, False

    def listen(event, duration, **kwargs):
      self.count += self._open and event == COMPILED

    jax.monitoring.register_event_duration_secs_listener(listen)

  def __enter__(self):
    self._open = True
    return self

  def __exit__(self, *_):
    self._open = False


def inputs_of(experiment: build.Experiment, batch_size: int):
  """Images [batch_size] of the eval split on the device."""
  batch = next(experiment.eval_batches(batch_size))
  inputs = sharding.device_part(types.inputs_only(batch))
  return jax.tree.map(lambda x: jnp.asarray(x[:batch_size]), inputs)


def seconds(fn, *args) -> float:
  start = time.perf_counter()
  jax.block_until_ready(fn(*args))
  return time.perf_counter() - start


def count_calls(experiment, params, batch, keys, steps: int) -> dict[str, int]:
  """How often each part runs while one batch is sampled."""
  counts = collections.Counter()
  sample = evaluate.make_sampler(
    counting(experiment.model, counts),
    timesteps=experiment.timesteps(steps),
    sampler=experiment.sampler,
  )
  jax.block_until_ready(sample(params, batch, keys))
  jax.effects_barrier()
  return dict(counts)


def parts_of(experiment, params, batch, keys):
  """{'encoder': thunk, 'denoiser': thunk}, each compiled alone."""
  model = experiment.model

  @jax.jit
  def encode(params, batch):
    return model.encode(params, batch, None).condition

  @jax.jit
  def denoise(params, x_t, t, condition):
    return model.denoise(params, x_t, t, condition, previous=previous).value

  condition = encode(params, batch)
  x_1 = jax.jit(
    lambda params, batch, keys: model.source(
      params, batch, model.encode(params, batch, None), keys
    )
  )(params, batch, keys)
  previous = None
  if model.self_condition_rate > 0:
    previous = jax.tree.map(jnp.zeros_like, x_1)
  t = jnp.full(keys.shape, 0.5)
  return {
    'encoder': lambda: encode(params, batch),
    'denoiser': lambda: denoise(params, x_1, t, condition),
  }


def measure(experiment, params, batch, keys, all_steps, repeats):
  """(median seconds by part and by steps, compilations by steps)."""
  runs = dict(parts_of(experiment, params, batch, keys))
  compilations, listener = {}, Compilations()
  changed = {**batch, 'image': batch['image'][..., ::-1]}
  others = jax.random.split(jax.random.key(1), len(keys))
  # Another image, other keys, other weights: the same program.
  inputs = (
    (params, batch, keys),
    (jax.tree.map(jnp.array, params), changed, others),
  )
  for steps in all_steps:
    sample = evaluate.make_sampler(
      experiment.model,
      timesteps=experiment.timesteps(steps),
      sampler=experiment.sampler,
    )
    before = listener.count
    with listener:
      for args in inputs:
        jax.block_until_ready(sample(*args))
    compilations[steps] = listener.count - before
    runs[steps] = lambda sample=sample: sample(params, batch, keys)
  times = {name: [] for name in runs}
  for name in ('encoder', 'denoiser'):
    seconds(runs[name])
  for repeat in range(repeats):
    order = list(runs) if repeat % 2 == 0 else list(runs)[::-1]
    for name in order:
      times[name].append(seconds(runs[name]))
  return {k: statistics.median(v) for k, v in times.items()}, compilations


def load(args):
  """(experiment, params): of a run, or fresh."""
  if args.workdir:
    experiment = workdirs.load(args.workdir)
    step = workdirs.find_step(args.workdir)
    return experiment, workdirs.load_params(experiment, args.workdir, step)
  experiment = build.Experiment(common.load_config(args.config, args.set))
  init = jax.jit(experiment.model.init)
  batch = jax.tree.map(
    lambda s: np.zeros(s.shape, s.dtype), experiment.abstract_batch()
  )
  return experiment, init(jax.random.key(0), batch)


def results(args, times, counts, compilations):
  """One dict a number of steps."""
  found = []
  for steps in args.steps:
    predicted = times['encoder'] + steps * times['denoiser']
    found.append(
      {
        'steps': steps,
        'denoiser_calls': counts[steps].get('denoiser', 0),
        'encoder_calls': counts[steps].get('encoder', 0),
        'compilations': compilations[steps],
        'seconds': times[steps],
        'predicted': predicted,
        'deviation': times[steps] / predicted - 1,
      }
    )
  return found


def as_table(found) -> str:
  """The rows of `results` as Markdown."""
  columns = ('steps T', 'denoiser calls', 'encoder calls', 'compilations')
  columns += ('time(T), ms', 'encoder + T x denoiser, ms', 'deviation')
  rows = [
    [
      *list(row.values())[:4],
      f'{1e3 * row["seconds"]:.1f}',
      f'{1e3 * row["predicted"]:.1f}',
      f'{100 * row["deviation"]:+.1f} %',
    ]
    for row in found
  ]
  return common.table(columns, rows)


def main(argv=None) -> int:
  argv = common.arguments(argv)
  parser = common.parser(NAME, __doc__, 'configs/pix2seq_d_shapes.py')
  parser.add_argument('--workdir', help='weights of a run; fresh without')
  parser.add_argument(
    '--steps', type=int, nargs='+', default=(1, 5, 10, 20, 50)
  )
  parser.add_argument('--batch_size', type=int, default=1)
  parser.add_argument('--repeats', type=int, default=7)
  parser.add_argument('--bar', type=float, default=0.15)
  args = parser.parse_args(argv)
  experiment, params = load(args)
  batch = inputs_of(experiment, args.batch_size)
  keys = jax.random.split(jax.random.key(0), args.batch_size)
  counts = {
    steps: count_calls(experiment, params, batch, keys, steps)
    for steps in args.steps
  }
  times, compilations = measure(
    experiment, params, batch, keys, args.steps, args.repeats
  )
  found = results(args, times, counts, compilations)
  worst = max(abs(row['deviation']) for row in found)
  exact = all(
    (r['denoiser_calls'], r['encoder_calls'], r['compilations'])
    == (r['steps'], 1, 1)
    for r in found
  )
  fine = exact and worst <= args.bar
  verdict = (
    f'Alone, the encoder takes {1e3 * times["encoder"]:.2f} ms and the '
    f'denoiser {1e3 * times["denoiser"]:.2f} ms. Counts are '
    f'{"exact" if exact else "WRONG"}; the worst deviation is '
    f'{100 * worst:.1f} %, the bar {100 * args.bar:.0f} %: '
    f'{"passed" if fine else "FAILED"}.'
  )
  common.report(
    args,
    argv,
    name=NAME,
    title='Cost of sampling',
    about=f'{common.sizes(experiment.config)}, {common.parameters(params)}, '
    f'{args.batch_size} image(s) at once, median of {args.repeats}',
    parts=[as_table(found), verdict],
    numbers={
      'encoder': times['encoder'],
      'denoiser': times['denoiser'],
      'worst_deviation': worst,
      'rows': found,
    },
  )
  return int(not fine)


if __name__ == '__main__':
  sys.exit(main())
