"""Names in configs -> classes. Four registries: dataset, model, task, metric.

A class registers itself by a decorator; the `__init__` of its package imports
every sibling, so importing the package is enough.
"""

import difflib
from collections.abc import Callable
from typing import Any


def did_you_mean(name: str, known) -> str:
  """' Did you mean X?' for the nearest known name, or nothing."""
  near = difflib.get_close_matches(str(name), [str(k) for k in known], n=1)
  return f' Did you mean {near[0]!r}?' if near else ''


class Registry:
  """A dict of classes of one kind, with errors that say what is known."""

  def __init__(self, kind: str):
    self.kind = kind
    self._entries: dict[str, Any] = {}

  def register(self, name: str) -> Callable:
    """A class decorator. Raises ValueError when the name is taken."""

    def decorate(entry):
      if name in self._entries and self._entries[name] is not entry:
        raise ValueError(
          f'{self.kind} {name!r} is registered twice: '
          f'{self._entries[name]!r} and {entry!r}; rename one.'
        )
      self._entries[name] = entry
      return entry

    return decorate

  def __getitem__(self, name: str) -> Any:
    if name not in self._entries:
      raise ValueError(
        f'{self.kind}.name={name!r} is unknown.'
        f'{did_you_mean(name, self._entries)} Known: {", ".join(self)}.'
      )
    return self._entries[name]

  def __iter__(self):
    return iter(sorted(self._entries))

  def __contains__(self, name: str) -> bool:
    return name in self._entries


DATASETS = Registry('dataset')
MODELS = Registry('model')
TASKS = Registry('task')
METRICS = Registry('metric')
