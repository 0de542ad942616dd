"""Processes meet before jax starts, and end when one of them is gone.

A star of TCP connections around process 0. jax alone aborts with pages of
C++ where the coordinator cannot be reached, and leaves the others waiting in a
collective, for minutes, where a process dies; here the kernel closes a dead
process's connection at once, and one that is silent (its machine is lost) is
given up after `PATIENCE`. Messages are one JSON object a line, nothing else is
read from the network.
"""

import contextlib
import json
import os
import selectors
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from pix2seqd_jax.train.processes.places import Place

PATIENCE = 40.0  # seconds of silence after which a process counts as dead
_PING = 3.0
_LINE = 65536  # bytes; what is longer is no message of ours
_HELLO = 'pix2seqd_jax'


class Link:
  """A connection that carries lines of JSON; sending is thread-safe."""

  def __init__(self, connection: socket.socket):
    self.socket = connection
    self.heard = time.monotonic()
    self.left = False
    self._buffer = b''
    self._lock = threading.Lock()

  def send(self, **message: Any) -> None:
    """Sends, or does nothing where the other end is gone: reading tells."""
    with self._lock, contextlib.suppress(OSError):
      self.socket.sendall(json.dumps(message).encode() + b'\n')

  def receive(self) -> list[dict[str, Any]]:
    """The messages of one read.

    Raises:
      OSError: the connection is closed, or speaks another language.
    """
    data = self.socket.recv(4096)
    if not data:
      raise ConnectionError('its connection closed')
    self.heard = time.monotonic()
    *lines, self._buffer = (self._buffer + data).split(b'\n')
    try:
      messages = [json.loads(line) for line in lines]
    except ValueError as error:
      raise ConnectionError('what it sends is no message of ours') from error
    if len(self._buffer) > _LINE or not all(
      isinstance(message, dict) for message in messages
    ):
      raise ConnectionError('what it sends is no message of ours')
    return messages

  def close(self) -> None:
    with contextlib.suppress(OSError):
      self.socket.close()


def _split(address: str) -> tuple[str, int]:
  host, _, port = address.rpartition(':')
  return host.strip('[]'), int(port)


def is_loopback(host: str) -> bool:
  return host in ('localhost', '::1') or host.startswith('127.')


def _listen(place: Place) -> socket.socket:
  """On the coordinator's port; on 127.0.0.1 alone where that is its host."""
  host, port = _split(place.coordinator)
  try:
    if is_loopback(host) and host != '::1':
      return socket.create_server(('127.0.0.1', port), backlog=1024)
    if socket.has_dualstack_ipv6():
      return socket.create_server(
        ('::1' if host == '::1' else '', port),
        family=socket.AF_INET6,
        backlog=1024,
        dualstack_ipv6=host != '::1',
      )
    return socket.create_server(('', port), backlog=1024)
  except OSError as error:
    raise ConnectionError(
      f'process 0 cannot listen at {place.coordinator} ({error}); end what '
      'uses that port, or choose another in distributed.coordinator.'
    ) from error


def _free_port(host: str) -> int:
  """For jax's own coordination service, which is told by number."""
  loopback = '127.0.0.1' if is_loopback(host) and host != '::1' else ''
  with socket.create_server((loopback, 0)) as free:
    return free.getsockname()[1]


def _refusal(place: Place, hello: Mapping[str, Any], known) -> str | None:
  """Why a process that says this cannot take part; '' for a stranger."""
  index, count = hello.get('process'), hello.get('of')
  if hello.get('hello') != _HELLO or type(index) is not int:
    return ''
  if count != place.num_processes:
    return (
      f'process 0 was started as one of {place.num_processes} processes, '
      f'process {index} as one of {count}; give all of them the same number'
    )
  if not 0 < index < place.num_processes or index in known:
    return f'there are two processes {index}; number them from 0 to {count - 1}'
  return None


def _gather(place: Place, timeout: float) -> dict[int, Link]:
  """Process 0: waits for all the others."""
  links: dict[int, Link] = {}
  strangers: list[Link] = []
  end = time.monotonic() + timeout
  with _listen(place) as listener, selectors.DefaultSelector() as selector:
    selector.register(listener, selectors.EVENT_READ)
    while len(links) < place.num_processes - 1:
      left = end - time.monotonic()
      if left <= 0:
        absent = sorted({*range(1, place.num_processes)} - {*links})
        raise ConnectionError(
          f'process 0 waited {timeout:g} s at {place.coordinator}, but of '
          f'{place.num_processes} processes {", ".join(map(str, absent))} did '
          'not come; see their output, and start all of them, or set '
          'distributed.num_processes to as many as there are.'
        )
      for key, _ in selector.select(min(left, 1.0)):
        if key.fileobj is listener:
          link = Link(listener.accept()[0])
          link.socket.settimeout(5)
          strangers.append(link)
          selector.register(link.socket, selectors.EVENT_READ, link)
          continue
        _greet(place, key.data, links, selector)
  for link in {*strangers} - {*links.values()}:
    link.close()
  return links


def _greet(place, link, links, selector) -> None:
  """Reads from a connection that has not started yet."""
  known = {other: index for index, other in links.items()}
  try:
    for hello in link.receive():
      if link in known:
        continue
      why = _refusal(place, hello, links)
      if why is None:
        links[hello['process']] = link
        continue
      if why:
        print(f'refused a process: {why}.', file=sys.stderr, flush=True)
        link.send(refused=why)
      raise ConnectionError
  except OSError:  # gone before the start: it may come again
    selector.unregister(link.socket)
    links.pop(known.get(link), None)
    link.close()


def _join(place: Place, timeout: float) -> tuple[Link, int]:
  """Another process: finds process 0; its link, and the port for jax."""
  end = time.monotonic() + timeout
  problem: Any = 'no answer'
  while (left := end - time.monotonic()) > 0:
    try:
      link = Link(
        socket.create_connection(_split(place.coordinator), min(left, 10))
      )
    except OSError as error:
      problem = error
      time.sleep(min(0.2, left))
      continue
    link.send(hello=_HELLO, process=place.process_id, of=place.num_processes)
    try:
      while True:
        link.socket.settimeout(max(end - time.monotonic(), 0.1))
        for message in link.receive():
          if 'refused' in message:
            raise ValueError(f'distributed: {message["refused"]}.')
          if 'port' in message:
            return link, int(message['port'])
    except OSError as error:
      problem = error
    link.close()
    time.sleep(min(0.2, max(end - time.monotonic(), 0)))
  raise ConnectionError(
    f'process {place.process_id} of {place.num_processes} did not get to the '
    f'coordinator at {place.coordinator} within {timeout:g} s ({problem}); '
    'start process 0 there and all the others, let the port through, or mend '
    'distributed.coordinator (PIX2SEQD_COORDINATOR).'
  )


class Watch:
  """The links of a process that has met the others, watched by a thread.

  Attributes:
    address: host:port for jax.distributed.initialize, the same everywhere.
    lost: called in the thread with what became of another process; the default
      prints it and ends this process with status 1.
  """

  def __init__(self, place: Place, timeout: float):
    """Waits for all; see `_gather` and `_join` for what is raised.

    Raises:
      ConnectionError: not all came in time, naming host:port.
      ValueError: the processes were started with other numbers.
    """
    self.place = place
    self.lost: Callable[[str], None] = end
    host = _split(place.coordinator)[0]
    if place.process_id == 0:
      self._links = _gather(place, timeout)
      port = _free_port(host)
      for link in self._links.values():
        link.send(port=port)
    else:
      link, port = _join(place, timeout)
      self._links = {0: link}
    host = '127.0.0.1' if host == 'localhost' else host
    self.address = f'[{host}]:{port}' if ':' in host else f'{host}:{port}'
    self._done = False
    for link in self._links.values():
      link.socket.settimeout(5)
    self._thread = threading.Thread(target=self._run, name='watch', daemon=True)
    self._thread.start()

  def _name(self, index: int) -> str:
    return f'process {index} of {self.place.num_processes}'

  def _run(self) -> None:
    pinged = 0.0
    with selectors.DefaultSelector() as selector:
      for index, link in self._links.items():
        selector.register(link.socket, selectors.EVENT_READ, index)
      while not self._done:
        for key, _ in selector.select(0.5):
          self._read(key.data, selector)
        now = time.monotonic()
        if now - pinged > _PING:
          pinged = now
          for link in self._links.values():
            link.send()
        for index, link in self._links.items():
          if not link.left and now - link.heard > PATIENCE:
            self._gone(index, f'it was silent for {PATIENCE:g} s')

  def _read(self, index: int, selector) -> None:
    link = self._links[index]
    try:
      messages = link.receive()
    except OSError as error:
      selector.unregister(link.socket)
      if not link.left:
        link.left = True
        self._gone(index, str(error))
      return
    for message in messages:
      if 'left' in message:
        link.left = True
      if 'lost' in message:
        self._end(str(message['lost']))
      if 'failed' in message:
        self._end(f'{self._name(index)} stopped: {message["failed"]}')

  def _gone(self, index: int, why: str) -> None:
    self._end(
      f'{self._name(index)} no longer answers ({why}): it was killed, ran out '
      'of memory, or its machine is lost.'
    )

  def _end(self, text: str) -> None:
    """Tells the others (process 0 alone has any), then this process."""
    if self._done:
      return
    self._done = True
    if self.place.process_id == 0:
      self._tell(lost=text)
    self.lost(text)

  def _tell(self, **message: Any) -> None:
    """Sends to all, and waits until they closed: none must miss it."""
    open_links = list(self._links.values())
    for link in open_links:
      link.send(**message)
      with contextlib.suppress(OSError):
        link.socket.shutdown(socket.SHUT_WR)
        link.socket.settimeout(2)
    until = time.monotonic() + 3
    for link in open_links:
      with contextlib.suppress(OSError):
        while time.monotonic() < until and link.receive():
          pass

  def fail(self, text: str) -> None:
    """This process is about to end with an error: ends the others."""
    if self._done:
      time.sleep(5)  # the thread is ending this process already
    self._done = True
    if self.place.process_id == 0:
      self._tell(lost=f'{self._name(0)} stopped: {text}')
    else:
      self._tell(failed=text)

  def leave(self) -> None:
    """This process ends as it should; what it closes is no death."""
    for link in self._links.values():
      link.send(left=True)


def end(text: str) -> None:
  """Prints and ends this process at once: its threads may hang for ever."""
  with contextlib.suppress(Exception):
    sys.stdout.flush()
  with contextlib.suppress(Exception):
    print(text, file=sys.stderr, flush=True)
  os._exit(1)
