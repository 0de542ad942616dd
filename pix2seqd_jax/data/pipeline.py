"""Batches: shuffled, augmented, resumable; and evaluation's, padded.

Position is step: the example at row r of step k is a function of (seed, k, r)
alone. The stream is ordered and augmented before it is cut by process, so that
any number of processes, and any resumption, sees the same batches.
"""

import sys

import numpy as np

from pix2seqd_jax.data import tf_pipeline
from pix2seqd_jax.data.formats import decode
from pix2seqd_jax.data.formats.bad_examples import PATIENCE, is_fault
from pix2seqd_jax.data.transforms.transforms import build_transforms

LOADERS = ('grain', 'tf_data')
# What a training batch holds, where the transforms made it.
_ARRAYS = (
  *('image', 'valid', 'semantic', 'instance', 'bits', 'index', 'color'),
  *('image_latent', 'colors'),
)


def train_batches(
  source,
  transforms,
  *,
  batch_size,
  seed,
  start_step=0,
  process_index=0,
  process_count=1,
  num_threads=2,
  prefetch=4,
  encode=None,
  on_bad=None,
  loader='grain',
):
  """An endless iterator of this process's rows of each global batch.

  Process p gets rows p b .. (p + 1) b - 1 of each batch, b = batch_size /
  process_count: laid side by side, in order, they are the batch of one
  process alone. Every epoch is a fresh permutation of the source.

  Args:
    source: a `types.Source`.
    transforms: a tuple of (name, kwargs) pairs, or a `Compose`.
    batch_size: of all processes together.
    seed: of order and augmentation.
    start_step: the first batch's position, to resume.
    process_index, process_count: of this process, of all.
    num_threads, prefetch: workers, and how many batches they run ahead; 0
      threads makes each batch when it is asked for.
    encode: optional (semantic, instance) -> float32 [h, w, k], which adds
      `bits` (data.encode='host').
    on_bad: None raises what a reader or a transform raises. Otherwise a
      function (index, file, error): it is told, and the row is filled by the
      next good example of an order that depends on (seed, position) alone;
      `skipped` int32 [b] says how many were passed over for each row.
    loader: whose threads: 'grain', or 'tf_data' (the extra `tf`).

  Raises:
    ValueError: when batch_size is not divisible, or the source is empty; and,
      while iterating, what a reader or a transform raises, naming the file;
      with `on_bad`, that not one of 100 examples could be used.
  """
  _check(source, batch_size, process_index, process_count)
  import grain

  decode.keep_memory()
  stream = (
    grain.MapDataset.source(range(len(source)))
    .seed(seed)
    .shuffle()
    .repeat(None)
    .random_map(
      _Read(source, _Finish(build_transforms(transforms), encode), on_bad)
    )
  )
  rows = _Rows(stream, batch_size, process_index, process_count)
  batches = grain.MapDataset.source(rows).batch(batch_size // process_count)
  return _iterate(batches, loader, int(start_step), num_threads, prefetch)


def _iterate(batches, loader, start, num_threads, prefetch):
  """batches[start:], made ahead; with threads, each makes whole batches."""
  if loader not in LOADERS:
    raise ValueError(
      f'data.loader={loader!r} is unknown; known: {", ".join(LOADERS)}.'
    )
  if start < 0 or num_threads < 0 or prefetch < 1:
    raise ValueError(
      f'data: start_step={start} and num_threads={num_threads} must be '
      f'>= 0, prefetch={prefetch} >= 1.'
    )
  prefetch = max(prefetch, num_threads) if num_threads else 0
  if loader == 'tf_data':
    return tf_pipeline.Batches(
      batches, start, num_threads=num_threads, prefetch=prefetch
    )
  import grain

  iterator = iter(
    batches.to_iter_dataset(
      grain.ReadOptions(num_threads=num_threads, prefetch_buffer_size=prefetch)
    )
  )
  iterator.set_state({'next_index': start})
  return iterator


def eval_batches(
  source,
  transforms,
  *,
  batch_size,
  process_index=0,
  process_count=1,
  num_examples=None,
  encode=None,
  seed=0,
  on_bad=None,
):
  """This process's rows of batches that go once through the source, in order.

  The last batch is filled up with repetitions marked `is_real=False`, and
  every process gets the same number of batches. Beside the arrays a batch
  has `meta`, a list of dicts: index, file, size and unpadded (h, w), image
  (uint8 at original size), truth {'ids', 'segments'} at original size.

  Args:
    source, transforms, batch_size, process_index, process_count, encode: as
      in `train_batches`.
    num_examples: the first so many only; None for all.
    seed: of transforms that draw (an example's draws depend on its index).
    on_bad: as in `train_batches`, but a bad example's row is is_real=False,
      and its meta has skipped=True.
  """
  _check(source, batch_size, process_index, process_count)
  if num_examples is not None and num_examples < 1:
    raise ValueError(f'data: num_examples={num_examples} must be at least 1.')
  count = min(len(source), num_examples or len(source))
  finish = _Finish(build_transforms(transforms), encode, with_meta=True)

  def read(i):
    return finish(source[i], np.random.default_rng((seed, i)))

  rows = _Walk(source, read, count, on_bad)
  return _walk(rows, batch_size, process_index, process_count, count)


class _Walk:
  """Row -> its example; past the end, and for a bad one, a filling one."""

  def __init__(self, source, read, count, on_bad):
    self.source, self.read = source, read
    self.count, self.on_bad = count, on_bad
    self.last = None  # any example serves to fill; one at hand costs nothing

  def __getitem__(self, row):
    if row < self.count:
      try:
        self.last = self.read(row)
        return self.last
      except Exception as error:
        if self.on_bad is None or not is_fault(error):
          raise
        self.on_bad(row, _file(self.source, row, error), error)
    filling = self._filling(row)
    meta = {**filling['meta'], 'skipped': row < self.count}
    return filling | {'is_real': np.bool_(False), 'meta': meta}

  def _filling(self, row):
    tried = []
    while self.last is None:
      other = (min(row, self.count - 1) + len(tried)) % self.count
      try:
        self.last = self.read(other)
      except Exception as error:
        tried.append(error)
        if self.on_bad is None or not is_fault(error):
          raise
        if len(tried) >= min(PATIENCE, self.count):
          raise _hopeless(len(tried), error) from error
    return self.last


def _walk(rows, batch_size, index, processes, count):
  fraction = batch_size // processes
  for start in range(0, count, batch_size):
    first = start + index * fraction
    examples = [rows[row] for row in range(first, first + fraction)]
    batch = {
      k: np.stack([e[k] for e in examples]) for k in examples[0] if k != 'meta'
    }
    yield batch | {'meta': [e['meta'] for e in examples]}


class _Read:
  """index -> the example of a training row, or one in its stead."""

  def __init__(self, source, finish, on_bad):
    self.source, self.finish, self.on_bad = source, finish, on_bad

  def __call__(self, index, rng):
    if self.on_bad is None:
      return self.finish(self.source[index], rng)
    made, error = self._try(index, rng)
    skipped = 0
    # Drawn only where it is needed: the rows of good examples stay as they are.
    if made is None:
      for other in rng.permutation(len(self.source))[:PATIENCE]:
        skipped += 1
        made, error = self._try(int(other), rng)
        if made is not None:
          break
      else:
        raise _hopeless(skipped, error) from error
    return made | {'skipped': np.int32(skipped)}

  def _try(self, index, rng):
    try:
      return self.finish(self.source[index], rng), None
    except Exception as error:
      if not is_fault(error):
        raise
      self.on_bad(index, _file(self.source, index, error), error)
      return None, error


def _file(source, index, error):
  """The file of a bad example, as far as its source can tell."""
  if getattr(error, 'file', ''):
    return error.file
  return source.file_name(index) if hasattr(source, 'file_name') else ''


def _hopeless(count, error):
  return ValueError(
    f'data: {count} examples, one after the other, could not be used; '
    f"data.on_bad_example='skip' is for a few bad files. The last: {error}"
  )


class _Finish:
  """Transforms an example and keeps what batches hold."""

  def __init__(self, transforms, encode=None, with_meta=False):
    self.transforms, self.encode = transforms, encode
    self.with_meta = with_meta

  def __call__(self, example, rng):
    made = self.transforms(example, rng)
    if 'valid' not in made:
      made = made | {'valid': np.ones(made['image'].shape[:2], bool)}
    if self.encode is not None:
      bits = self.encode(made['semantic'], made['instance'])
      made = made | {'bits': np.asarray(bits, np.float32)}
    row = {k: np.ascontiguousarray(made[k]) for k in _ARRAYS if k in made}
    row |= {'index': np.int64(example['index']), 'is_real': np.bool_(True)}
    if self.with_meta:
      row['meta'] = _meta(example, made)
    return row


def _meta(example, made):
  h, w = example['image'].shape[:2]
  kept = ('index', 'file', 'caption', 'image_id', 'image')
  return {k: example[k] for k in kept if k in example} | {
    'size': (h, w),
    'unpadded': made.get('unpadded', made['image'].shape[:2]),
    'truth': {'ids': example['ids'], 'segments': example['segments']},
  }


class _Rows:
  """The elements of a stream that are one process's rows of each batch."""

  def __init__(self, stream, batch_size, process_index, process_count):
    self.stream, self.batch_size = stream, batch_size
    self.fraction = batch_size // process_count
    self.first = process_index * self.fraction

  def __len__(self):
    return sys.maxsize // self.batch_size

  def __getitem__(self, index):
    step, row = divmod(int(index), self.fraction)
    return self.stream[step * self.batch_size + self.first + row]


def _check(source, batch_size, process_index, process_count):
  if len(source) < 1:
    raise ValueError('data: the source has no examples.')
  if batch_size < 1 or batch_size % process_count:
    raise ValueError(
      f'data.batch_size={batch_size} must be a positive multiple of the '
      f'number of processes, {process_count}.'
    )
  if not 0 <= process_index < process_count:
    raise ValueError(
      f'process_index={process_index} must lie in 0..{process_count - 1}.'
    )
