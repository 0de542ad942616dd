"""Several metric states that travel as one."""

from collections.abc import Mapping
from typing import NamedTuple

from pix2seqd_jax import types
from pix2seqd_jax.registry import METRICS


class Collection(NamedTuple):
  """States by the name under which their class is registered."""

  states: Mapping[str, types.MetricState]

  @property
  def lower_is_better(self) -> tuple[str, ...]:
    """Names of scores of which the least is the best, of all states."""
    named = (getattr(s, 'lower_is_better', ()) for s in self.states.values())
    return tuple(name for names in named for name in names)

  def merge(self, other: 'Collection') -> 'Collection':
    """Merges name by name; raises ValueError when the names differ."""
    if set(self.states) != set(other.states):
      raise ValueError(
        f'collections of {sorted(self.states)} and {sorted(other.states)} do '
        'not merge; let one task make both.'
      )
    return Collection(
      {k: state.merge(other.states[k]) for k, state in self.states.items()}
    )

  def compute(self, per_class: bool = True) -> dict[str, float]:
    """All scores of all states; raises ValueError when two share a name."""
    result = {}
    for name, state in self.states.items():
      scores = state.compute(per_class)
      twice = set(result) & set(scores)
      if twice:
        raise ValueError(
          f'metric {name!r} gives {sorted(twice)} which another one of the '
          'collection gives as well; keep one of them.'
        )
      result.update(scores)
    return result

  def to_bytes(self) -> bytes:
    """Count, then for each state the lengths and bytes of name and state."""
    parts = [len(self.states).to_bytes(8, 'little')]
    for name, state in self.states.items():
      for blob in (name.encode(), state.to_bytes()):
        parts += [len(blob).to_bytes(8, 'little'), blob]
    return b''.join(parts)

  @classmethod
  def from_bytes(cls, data: bytes) -> 'Collection':
    """The inverse of `to_bytes`; classes are looked up in the registry."""
    position = 0

    def take(size: int) -> bytes:
      nonlocal position
      position += size
      return data[position - size : position]

    def take_size() -> int:
      return int.from_bytes(take(8), 'little')

    states = {}
    for _ in range(take_size()):
      name = take(take_size()).decode()
      states[name] = METRICS[name].from_bytes(take(take_size()))
    return cls(states)
