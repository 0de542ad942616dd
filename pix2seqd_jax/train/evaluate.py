"""The one eval loop: sample, decode, read out, refine, count.

The batch that reaches the sampler is stripped of its labels, so a leak is a
KeyError and not a good score.
"""

import collections
import json
import time
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from pix2seqd_jax import types
from pix2seqd_jax.train import log, prefetch, processes, sharding

SampleFn = Callable[[types.Params, types.Batch, types.Array], types.Raw]


def make_sampler(
  model: types.Model,
  *,
  timesteps: types.Timesteps,
  sampler: Any,
  num_samples: int = 1,
  mesh: Mesh | None = None,
  **options: Any,
) -> SampleFn:
  """(params, batch, keys) -> Raw: model.sample, then model.decode, in one jit.

  Compiled once for each shape of the batch. Parameters keep their shardings;
  with a mesh, the raw answers are split like the batch. `options` are further
  arguments of model.sample (guidance, returns, callback).

  Raises:
    ValueError: a callback of a computation on several devices.
  """
  if options.get('callback') and mesh is not None and mesh.size > 1:
    raise ValueError(
      f'callback: steps are reported in order from one device, but the mesh '
      f'has {mesh.size}; sample without a mesh, or without a callback.'
    )

  def sample_and_decode(params, batch, keys):
    x_0 = model.sample(
      params,
      batch,
      keys,
      timesteps=timesteps,
      sampler=sampler,
      num_samples=num_samples,
      **options,
    )
    return model.decode(params, x_0, batch)

  where = None if mesh is None else sharding.batch_sharding(mesh)
  return jax.jit(sample_and_decode, out_shardings=where)


@jax.jit
def _fold_words(seed, words, sample):
  def fold(pair):
    key = jax.random.fold_in(jax.random.key(seed), pair[0])
    return jax.random.fold_in(jax.random.fold_in(key, pair[1]), sample)

  return jax.vmap(fold)(words)


def example_keys(seed: int, index: Any, sample: int = 0) -> types.Array:
  """Typed keys [b], each a function of (seed, index, sample) alone.

  So the mask of an example does not depend on its batch, its place in it,
  padding, or the number of devices. Indices may use all of their 64 bits.

  Args:
    seed: of the evaluation, 0..2^32 - 1.
    index: host integers [b], the ids of the examples.
    sample: which of several samples of one example.
  """
  index = np.asarray(index).astype(np.int64).astype(np.uint64)
  words = np.stack([index & 0xFFFFFFFF, index >> np.uint64(32)], -1)
  return _fold_words(
    np.uint32(seed), words.astype(np.uint32), np.uint32(sample)
  )


def to_host(tree: types.PyTree) -> types.PyTree:
  """This process's rows of each array, as NumPy, in the order of the batch."""

  def fetch(x):
    if not isinstance(x, jax.Array) or x.is_fully_addressable:
      return np.asarray(x)
    rows = {}
    for shard in x.addressable_shards:
      rows.setdefault(shard.index[0].start or 0, shard)
    return np.concatenate([np.asarray(rows[k].data) for k in sorted(rows)])

  for x in jax.tree.leaves(tree):
    if isinstance(x, jax.Array) and x.is_fully_addressable:
      x.copy_to_host_async()
  return jax.tree.map(fetch, tree)


def _gather_bytes(data: bytes) -> list[bytes]:
  """The bytes of every process, by process."""
  from jax.experimental import multihost_utils

  sizes = multihost_utils.process_allgather(np.int32(len(data)))
  padded = np.zeros(int(np.max(sizes)), np.uint8)
  padded[: len(data)] = np.frombuffer(data, np.uint8)
  rows = multihost_utils.process_allgather(padded)
  return [bytes(row[:n]) for row, n in zip(rows, sizes.tolist())]


def _results(total: Any, gather: Callable[[bytes], list[bytes]] | None):
  """compute() of the state merged over all processes.

  States cross as bytes: process_allgather silently cuts float64 and int64 to
  32 bits. A process that saw no example takes the answer of another.
  """
  if gather is None:
    return {} if total is None else total.compute()
  parts = gather(b'' if total is None else total.to_bytes())
  answer = b''
  if total is not None:
    states = [type(total).from_bytes(part) for part in parts if part]
    merged = states[0]
    for state in states[1:]:
      merged = merged.merge(state)
    answer = json.dumps(merged.compute()).encode()
  return json.loads(next((a for a in gather(answer) if a), b'{}'))


def _check_some(results: dict[str, float]) -> None:
  if not results:
    raise ValueError(
      'there was no example to evaluate; check the folder and the split of '
      'the evaluation data.'
    )


def _sums(*counts: int) -> list[int]:
  """Each number over all processes."""
  if jax.process_count() == 1:
    return list(counts)
  rows = [json.loads(r) for r in _gather_bytes(json.dumps(counts).encode())]
  return [sum(column) for column in zip(*rows, strict=True)]


def _on_device(inputs: types.Batch, keys: types.Array, mesh: Mesh | None):
  """Inputs and keys [b] of this process, split over the mesh if any."""
  if mesh is None:
    return jax.tree.map(jnp.asarray, sharding.device_part(inputs)), keys
  where = sharding.batch_sharding(mesh)
  inputs = sharding.put_batch(inputs, mesh)
  words = np.asarray(jax.random.key_data(keys))
  words = jax.make_array_from_process_local_data(where, words)
  return inputs, jax.random.wrap_key_data(words)


class _Count:
  """Read-out and metrics of the examples that are real."""

  def __init__(self, model, task, on_example, bar):
    self._model, self._task = model, task
    self._paste = getattr(task, 'paste', None)
    self._on_example, self._bar = on_example, bar
    self.total = None
    self.images = self.skipped = 0

  def add(self, raw: types.Raw, batch: types.Batch) -> None:
    raw = to_host(raw)
    metas = batch['meta']
    real = np.asarray(batch.get('is_real', np.ones(len(metas), bool)))
    for i in np.flatnonzero(real):
      one = jax.tree.map(lambda x, i=i: x[i], raw)
      found = self._model.postprocess(one, metas[i])
      found = self._task.refine(found)
      if self._paste is not None:
        found = self._paste(found, one, metas[i])
      state = self._task.metrics(found, metas[i])
      self.total = state if self.total is None else self.total.merge(state)
      if self._on_example is not None:
        self._on_example(found, metas[i])
      self._bar.update()
    self.images += int(real.sum())
    self.skipped += sum(bool(meta.get('skipped')) for meta in metas)


def _count_all(ready, predict, count: _Count) -> tuple[float, int]:
  """Runs all batches, reading out each while the next is under way.

  Returns the seconds and images after the first batch, which compiles; of the
  first as well if it is the only one.
  """
  waiting = collections.deque()
  start, before = time.perf_counter(), 0
  for batch, inputs, keys in ready:
    if processes.preempted():
      raise processes.Preempted
    waiting.append((predict(inputs, keys), batch))
    if len(waiting) > 1:
      count.add(*waiting.popleft())
      if not before:
        start, before = time.perf_counter(), count.images
  while waiting:
    count.add(*waiting.popleft())
  return time.perf_counter() - start, count.images - before


def evaluate(
  model: types.Model,
  task: types.Task,
  params: types.Params,
  batches: Iterable[types.Batch],
  *,
  sample_fn: SampleFn,
  seed: int = 0,
  mesh: Mesh | None = None,
  on_example: Callable[[types.Segmentation, types.Meta], None] | None = None,
  progress: bool = True,
) -> dict[str, float]:
  """Metrics of a model over host batches (this process's part of each).

  For each batch: inputs_only -> device -> task.predict; for each real example
  (`is_real`): model.postprocess -> task.refine -> task.paste(segmentation, raw,
  meta), where a task has that -> task.metrics. The host reads out one batch
  while the device samples the next.

  Args:
    model: gives postprocess; `sample_fn` comes from make_sampler(model, ...).
    task: what is asked.
    params: usually state.eval_params(...).
    batches: with `index`, `meta`, and `is_real` where the last is padded.
    sample_fn: (params, batch, keys) -> Raw.
    seed: of the noise; see example_keys.
    mesh: where the batch is split; None for the default device.
    on_example: called with (refined segmentation, meta).
    progress: a bar on a terminal, lines elsewhere; of this process's part.

  Returns:
    the task's metrics and `images_per_second`, both over all processes; the
    speed leaves out the first batch, which compiles, if there are more.
    `skipped` where examples were passed over (data.on_bad_example).

  Raises:
    ValueError: when there is no example at all.
    processes.Preempted: after SIGTERM to one of several processes, in all.
  """

  def put(batch):
    inputs = types.inputs_only(batch, task.given)
    return batch, *_on_device(inputs, example_keys(seed, batch['index']), mesh)

  def predict(inputs, keys):
    return task.predict(
      lambda batch, keys: sample_fn(params, batch, keys), inputs, keys
    )

  bar = log.Progress(None, unit='image', enabled=progress)
  with prefetch.Prefetch(iter(batches), put) as ready, bar:
    count = _Count(model, task, on_example, bar)
    seconds, images = _count_all(ready, predict, count)
  several = jax.process_count() > 1
  results = _results(count.total, _gather_bytes if several else None)
  _check_some(results)
  images, skipped = _sums(images, count.skipped)
  if skipped:  # data.on_bad_example='skip' met examples it could not use
    results = {**results, 'skipped': skipped}
  return {**results, 'images_per_second': images / max(seconds, 1e-9)}
