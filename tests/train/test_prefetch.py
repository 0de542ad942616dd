"""The thread that reads ahead."""

import queue
import time
import types

import pytest

from pix2seqd_jax.train import prefetch


def test_order_and_end():
  with prefetch.Prefetch(iter(range(5)), lambda x: x * x) as items:
    assert list(items) == [0, 1, 4, 9, 16]
    with pytest.raises(StopIteration):
      next(items)


def test_it_reads_only_a_little_ahead():
  taken = []

  def source():
    for i in range(100):
      taken.append(i)
      yield i

  with prefetch.Prefetch(source(), lambda x: x, ahead=1) as items:
    next(items)
    time.sleep(0.3)
    assert len(taken) <= 4


def test_errors_reach_the_consumer():
  def source():
    yield 1
    raise OSError('disk')

  with prefetch.Prefetch(source(), lambda x: x) as items:
    assert next(items) == 1
    with pytest.raises(OSError, match='disk'):
      next(items)


def test_waiting_is_measured(monkeypatch):
  clock = types.SimpleNamespace(now=0.0)

  class Slow(queue.Queue):
    def get(self):
      clock.now += 0.5
      return super().get()

  clock.perf_counter = lambda: clock.now
  monkeypatch.setattr(prefetch, 'time', clock)
  slow = types.SimpleNamespace(Queue=Slow, Full=queue.Full)
  monkeypatch.setattr(prefetch, 'queue', slow)
  with prefetch.Prefetch(iter(int, 1), lambda x: x) as items:
    for _ in range(4):
      next(items)
      clock.now += 10  # what the consumer does with it
    assert items.waited == 4 * 0.5


def test_closing_ends_the_thread():
  items = prefetch.Prefetch(iter(int, 1), lambda x: x)
  next(items)
  items.close()
  assert not items._thread.is_alive()
