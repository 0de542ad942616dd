"""One batch ahead: a thread reads and sends while the device works."""

import queue
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

_END = object()


class Prefetch:
  """An iterator over `put(item)`, filled by a thread, `ahead` items deep.

  `waited` adds up the seconds for which the consumer had to wait: time in
  which the device had nothing to do because of the data. An exception in the
  thread is raised by `next`. Close it (or use `with`) to end the thread.
  """

  def __init__(
    self, items: Iterator, put: Callable[[Any], Any], ahead: int = 1
  ):
    self.waited = 0.0
    self._items = items
    self._put = put
    self._queue: queue.Queue = queue.Queue(maxsize=max(ahead, 1))
    self._stop = threading.Event()
    self._thread = threading.Thread(
      target=self._fill, name='prefetch', daemon=True
    )
    self._thread.start()

  def _offer(self, entry) -> bool:
    while not self._stop.is_set():
      try:
        self._queue.put(entry, timeout=0.1)
        return True
      except queue.Full:
        continue
    return False

  def _fill(self) -> None:
    try:
      for item in self._items:
        if not self._offer((self._put(item), None)):
          return
      self._offer((_END, None))
    except BaseException as error:  # handed to the consumer, whatever it is
      self._offer((_END, error))

  def __iter__(self):
    return self

  def __next__(self):
    if self._stop.is_set():
      raise StopIteration
    start = time.perf_counter()
    item, error = self._queue.get()
    self.waited += time.perf_counter() - start
    if item is _END:
      self._stop.set()
      if error is not None:
        raise error
      raise StopIteration
    return item

  def close(self) -> None:
    """Ends the thread; what it had read ahead is dropped."""
    self._stop.set()
    self._thread.join(timeout=10)

  def __enter__(self):
    return self

  def __exit__(self, *_):
    self.close()
