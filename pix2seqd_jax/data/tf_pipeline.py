"""data.loader='tf_data': batches by tf.data's threads (the extra `tf`).

tf.data only says which batch is made when and by which thread: what is in
batch k stays the function of (seed, k) that `pipeline` defines, so that both
loaders yield the same bytes, resume at any step and split by process alike.
"""

import sys

from pix2seqd_jax.data.formats.faults import refuse


class Batches:
  """An endless iterator of batches[start], batches[start + 1], ...

  Args:
    batches: indexable; dicts of arrays with the same keys and dtypes.
    start: the first position.
    num_threads: how many are made at once; 0 makes each when it is asked for.
    prefetch: how many wait at most.

  Raises:
    ValueError: TensorFlow is not installed; and, while iterating, what
      `batches` raises.
  """

  def __init__(self, batches, start=0, *, num_threads=2, prefetch=4):
    try:
      import tensorflow as tf
    except ImportError as error:
      try:
        refuse(
          'bad_argument',
          'data.loader',
          "data.loader='tf_data' needs TensorFlow: pip install "
          "'pix2seqd_jax[tf]', or set data.loader='grain'.",
        )
      except ValueError as told:
        raise told from error
    # The accelerators are JAX's.
    for kind in ('GPU', 'TPU'):
      tf.config.set_visible_devices([], kind)
    self._batches, self._position = batches, int(start)
    self._num_threads, self._prefetch = num_threads, prefetch
    self._errors, self._iterator = {}, None

  def __iter__(self):
    return self

  def __next__(self):
    import tensorflow as tf

    if self._iterator is None:
      # The first is made here: its keys and dtypes are those of all.
      first = self._batches[self._position]
      self._iterator = self._start(tf, first)
      self._position += 1
      return first
    try:
      values = next(self._iterator)
    except tf.errors.OpError as error:
      raise self._errors.get(self._position, error) from None
    self._position += 1
    return dict(zip(self._keys, values, strict=True))

  def _start(self, tf, first):
    self._keys = tuple(first)
    kinds = [tf.as_dtype(first[key].dtype) for key in self._keys]
    shapes = [first[key].shape for key in self._keys]

    def make(position):
      position = int(position)
      try:
        batch = self._batches[position]
        return [batch[key] for key in self._keys]
      except Exception as error:  # tf.data would keep only its text
        self._errors[position] = error
        raise

    def fetch(position):
      values = tf.numpy_function(make, [position], kinds)
      return [
        tf.ensure_shape(value, shape) for value, shape in zip(values, shapes)
      ]

    positions = tf.data.Dataset.range(self._position + 1, sys.maxsize)
    threads = {}
    if self._num_threads:
      threads = {'num_parallel_calls': self._num_threads, 'deterministic': True}
    stream = positions.map(lambda position: tuple(fetch(position)), **threads)
    if self._num_threads:
      stream = stream.prefetch(self._prefetch)
    return stream.as_numpy_iterator()
