"""Processes that meet, leave and die; here each is a thread with a socket."""

import contextlib
import queue
import socket
import threading
import time

import pytest

from pix2seqd_jax.train.processes import places, watch


def free_address():
  with socket.create_server(('127.0.0.1', 0)) as free:
    return f'127.0.0.1:{free.getsockname()[1]}'


def wait_for(happened):
  until = time.monotonic() + 30
  while not happened():
    assert time.monotonic() < until
    time.sleep(0.01)


def end(watches):
  for met in watches:
    met._done = True
  for met in watches:
    met._thread.join()
    for link in met._links.values():
      link.close()


class Group:
  """So many watches, and what each says of the others."""

  def __init__(self, count, address=None):
    self.address = address or free_address()
    self.watches, self.said = {}, queue.Queue()
    threads = [
      threading.Thread(target=self.start, args=(i, count)) for i in range(count)
    ]
    for thread in reversed(threads):  # the others wait for process 0
      thread.start()
    for thread in threads:
      thread.join()
    assert len(self.watches) == count

  def start(self, index, count):
    place = places.Place(self.address, count, index)
    self.watches[index] = met = watch.Watch(place, 20)

    def lost(text):  # where a process would end
      self.said.put((index, text))
      self.close(index)

    met.lost = lost

  def die(self, index):
    """As a kill does: the kernel closes its connections, nothing is said.

    Its thread lives on, unlike a process's, and would tell the others of each
    connection that closes here before theirs does.
    """
    self.watches[index]._end = lambda text: None
    self.close(index)

  def close(self, index):
    for link in self.watches[index]._links.values():
      with contextlib.suppress(OSError):
        link.socket.shutdown(socket.SHUT_RDWR)

  def hear(self, count):
    return dict(self.said.get(timeout=10) for _ in range(count))

  def __enter__(self):
    return self

  def __exit__(self, *_):
    end(self.watches.values())


def test_all_get_one_address_for_jax():
  with Group(3) as group:
    [address] = {met.address for met in group.watches.values()}
  assert address.startswith('127.0.0.1:') and address != group.address


@pytest.mark.parametrize('victim', [2, 0])
def test_a_death_reaches_all_others(victim):
  with Group(4) as group:
    group.die(victim)
    said = group.hear(3)
  assert set(said) == {0, 1, 2, 3} - {victim}
  for text in said.values():
    assert f'process {victim} of 4 no longer answers' in text


def test_silence_is_a_death(monkeypatch):
  monkeypatch.setattr(watch, '_PING', 0.2)
  with Group(3) as group:
    links = [x for met in group.watches.values() for x in met._links.values()]
    before = [link.heard for link in links]
    wait_for(lambda: all(x.heard > b for x, b in zip(links, before)))
    assert group.said.empty()  # pings are heard
    silent = group.watches[1]
    silent._done = True  # neither sends nor closes
    silent._thread.join()

    def heard_long_ago():  # again, after a ping that was under way
      group.watches[0]._links[1].heard = -1e9
      return not group.said.empty()

    wait_for(heard_long_ago)
    said = group.hear(2)
  assert all('process 1 of 3' in text for text in said.values())
  assert 'silent for 40 s' in said[0] == said[2]


@pytest.mark.parametrize('failing', [0, 1])
def test_an_error_reaches_all_others(failing):
  with Group(3) as group:
    group.watches[failing].fail('OSError: no such image')
    said = group.hear(2)
  expected = f'process {failing} of 3 stopped: OSError: no such image'
  assert set(said.values()) == {expected} and failing not in said


def test_a_process_that_leaves_has_not_died():
  with Group(3) as group:
    for met in group.watches.values():
      met.leave()
    time.sleep(0.5)
    for index in group.watches:
      group.die(index)
    time.sleep(0.7)
    assert group.said.empty()


def test_an_unreachable_coordinator_is_named():
  address = free_address()
  with pytest.raises(ConnectionError) as error:
    watch.Watch(places.Place(address, 4, 1), 0.5)
  text = str(error.value)
  assert f'process 1 of 4 did not get to the coordinator at {address}' in text
  assert 'within 0.5 s' in text and 'refused' in text


def test_absent_processes_and_a_taken_port_are_named():
  address = free_address()
  with pytest.raises(ConnectionError, match=r'of 3 processes 1, 2 did not'):
    watch.Watch(places.Place(address, 3, 0), 0.5)
  with (
    socket.create_server(('127.0.0.1', 0)) as taken,
    pytest.raises(ConnectionError, match='cannot listen at 127'),
  ):
    port = taken.getsockname()[1]
    watch.Watch(places.Place(f'127.0.0.1:{port}', 3, 0), 0.5)


def test_strangers_and_wrong_numbers_are_refused(capsys):
  address = free_address()
  made, errors = [], []

  def coordinator():
    made.append(watch.Watch(places.Place(address, 2, 0), 20))

  def other(count):
    try:
      made.append(watch.Watch(places.Place(address, count, 1), 20))
    except ValueError as error:
      errors.append(str(error))

  thread = threading.Thread(target=coordinator)
  thread.start()
  host, port = address.split(':')
  for nonsense in (b'GET / HTTP/1.0\r\n\r\n', b'[1]\n', b'x' * 10, b'{}\n'):
    for _ in range(100):
      with contextlib.suppress(ConnectionRefusedError):
        stranger = socket.create_connection((host, int(port)))
        break
      time.sleep(0.05)
    stranger.sendall(nonsense)
    stranger.close()
  other(3)
  assert 'one of 2 processes, process 1 as one of 3' in errors[0]
  other(2)
  thread.join()
  assert len(made) == 2
  assert 'refused a process' in capsys.readouterr().err
  end(made)
