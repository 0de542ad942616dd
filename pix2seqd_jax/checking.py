"""Values against type hints, and objects made of values from a config.

Just so much of typing as the hints of this package use; what is not known
here is let pass. Beside a type, a hint may have marks:

  dropout: Annotated[float, Range(0, 1)]            a rule for the value
  loss: Annotated[str, Choice(('l1', 'l2'))]        another one
  unet: Annotated[UNet, Follows('in_channels')]     a part, made by `construct`
  schedule: Annotated[Any, OneOf({'cosine': ...})]  a part that is chosen
"""

import dataclasses
import inspect
import math
import types as python_types
import typing
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from pix2seqd_jax.registry import did_you_mean

_EMPTY = inspect.Parameter.empty
_SPREAD = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
_PLAIN = (str, int, float, tuple, list)
# What flax adds to the arguments of each Module.
_FLAX = ('parent', 'name')


# Marks.


@dataclasses.dataclass(frozen=True)
class Range:
  """A rule for a number, or for each of several: least <= it <= most."""

  least: float
  most: float = math.inf
  above: bool = False  # `least` is not allowed
  below: bool = False  # `most` is not allowed
  what: str = 'an integer'
  note: str = ''

  def holds(self, value: Any) -> bool:
    values = value if isinstance(value, tuple | list) else (value,)
    return all(
      self.least <= v <= self.most
      and not (self.above and v == self.least)
      and not (self.below and v == self.most)
      for v in values
    )

  @property
  def text(self) -> str:
    if self.below:
      return f'in [{self.least:g}, {self.most:g})'
    least = f'above {self.least:g}' if self.above else f'>= {self.least:g}'
    if self.most == math.inf:
      return least
    if self.above:
      return f'{least}, at most {self.most:g}'
    return f'from {self.least} to {self.most}'

  def check(self, where: str, value: Any) -> None:
    """Raises ValueError unless it holds."""
    if not self.holds(value):
      verb = 'lie ' if self.below else 'be '
      verb += f'{self.what} ' * self.text.startswith('from')
      note = f' {self.note}' if self.note else ''
      raise ValueError(f'{where}={value!r} must {verb}{self.text}.{note}')


POSITIVE = Range(0, above=True)
NOT_NEGATIVE = Range(0)
FRACTION = Range(0, 1, what='a number')


@dataclasses.dataclass(frozen=True)
class Choice:
  """A rule for a word: one of those of a table or of a tuple."""

  known: Collection[str]

  def check(self, where: str, value: Any) -> None:
    """Raises ValueError for another word."""
    if value not in self.known:
      raise ValueError(
        f'{where}={value!r} is unknown.{did_you_mean(value, self.known)} '
        f'Known: {", ".join(self.known)}.'
      )


@dataclasses.dataclass(frozen=True)
class OneOf:
  """A part of which a config tells (name, arguments), by a table of classes."""

  table: Mapping[str, Any]


class Follows:
  """Arguments of a part that follow from its owner: no config gives them.

  Those that the owner has itself are handed down to the part.
  """

  def __init__(self, *names: str):
    self.names = names


def _split(hint):
  """Annotated[T, *marks] -> (T, marks)."""
  marks = getattr(hint, '__metadata__', ())
  return (hint.__origin__ if marks else hint), marks


def _part_of(hint):
  """The class of a part; None where the hint is of a plain value."""
  hint, _ = _split(hint)
  for one in typing.get_args(hint) if _is_union(hint) else (hint,):
    is_named = isinstance(one, type) and hasattr(one, '_fields')
    if is_named or (isinstance(one, type) and dataclasses.is_dataclass(one)):
      return one
  return None


def _is_union(hint):
  return typing.get_origin(hint) in (typing.Union, python_types.UnionType)


# Checks.


def fits(value: Any, hint: Any) -> bool:
  """Whether a value is what the hint says. NaN fits nothing but Any."""
  hint, _ = _split(hint)
  if isinstance(value, float) and math.isnan(value):
    return hint in (Any, _EMPTY)
  origin, args = typing.get_origin(hint), typing.get_args(hint)
  if _is_union(hint):
    return any(fits(value, arg) for arg in args)
  if hint is None or hint is type(None):
    return value is None
  if origin is tuple or hint is tuple:
    return isinstance(value, tuple | list) and _fits_all(value, args)
  if Mapping in (origin, hint) or dict in (origin, hint):
    return isinstance(value, Mapping)
  if hint in (int, float):
    is_number = not isinstance(value, bool) and isinstance(value, int)
    return is_number or (hint is float and isinstance(value, float))
  if origin is typing.Literal:
    return any(value == arg and type(value) is type(arg) for arg in args)
  if hint in (bool, str):
    return isinstance(value, hint)
  part = _part_of(hint)
  return not part or isinstance(value, part) or not isinstance(value, _PLAIN)


def _fits_all(value, args) -> bool:
  if not args:
    return True
  if len(args) == 2 and args[1] is Ellipsis:
    return all(fits(v, args[0]) for v in value)
  return len(value) == len(args) and all(map(fits, value, args))


def _hint(parameter) -> Any:
  """The annotation, or what a default tells: data/ has no annotations."""
  if parameter.annotation is not _EMPTY:
    return parameter.annotation
  kind = type(parameter.default)
  # An integer may stand for a pair of them.
  return kind if kind in (float, bool, str) else Any


def name_of(hint: Any) -> str:
  """The hint as a person would write it."""
  hint, _ = _split(hint)
  return hint.__name__ if isinstance(hint, type) else str(hint)


def check_value(where: str, value: Any, hint: Any) -> None:
  """Raises ValueError where a value does not fit."""
  if not fits(value, hint):
    if typing.get_origin(hint) is typing.Literal:
      known = typing.get_args(hint)
      raise ValueError(
        f'{where}={value!r} must be one of {", ".join(map(str, known))}.'
        f'{did_you_mean(value, known)}'
      )
    raise ValueError(f'{where}={value!r} must be of type {name_of(hint)}.')


def check_fields(where: str, made: Any) -> None:
  """Raises ValueError where a dataclass breaks the hints of its fields.

  Args:
    where: the config's section, for the message.
    made: one whose fields may have rules: marks with `check`.
  """
  for field in dataclasses.fields(made):
    name, value = f'{where}.{field.name}', getattr(made, field.name)
    part = _part_of(field.type)
    if part and isinstance(value, Mapping):
      raise ValueError(
        f'{name}={value!r} must be built: {part.__name__}(...). Or call '
        'checking.construct, which builds all parts.'
      )
    chosen = [m for m in _split(field.type)[1] if isinstance(m, OneOf)]
    if chosen and type(value) in (tuple, list):
      raise ValueError(
        f'{name}={value!r} must be built, of one of '
        f'{", ".join(chosen[0].table)}. Or call checking.construct.'
      )
    check_value(name, value, field.type)
    for mark in _split(field.type)[1]:
      if isinstance(mark, Range | Choice):
        mark.check(name, value)


def set_parts(made: Any, **parts: Mapping[str, Any]) -> None:
  """Sets what follows from a frozen dataclass in its parts; for __post_init__.

  A part that is None is made of these values alone, unless its hint lets None
  stand for none at all.
  """
  hints = {field.name: field.type for field in dataclasses.fields(made)}
  for name, values in parts.items():
    part, hint = getattr(made, name), hints[name]
    if part is not None:
      part = dataclasses.replace(part, **values)
    elif type(None) not in typing.get_args(_split(hint)[0]):
      part = _part_of(hint)(**values)
    object.__setattr__(made, name, part)


def check_arguments(
  where: str, entry: Any, kwargs: Any, skip: Iterable[str] = ()
) -> None:
  """Raises ValueError where `entry` cannot be called with `kwargs`.

  Args:
    where: the config's section, for the message.
    entry: a class or function.
    kwargs: by name; everything that has no default must be there.
    skip: parameters that others set: not to be given, not missed.
  """
  check_value(where, kwargs, Mapping)
  takes = inspect.signature(entry).parameters
  hidden = (*skip, *(_FLAX if 'parent' in takes else ()))
  parameters = {
    name: parameter
    for name, parameter in takes.items()
    if name not in hidden and parameter.kind not in _SPREAD
  }
  for key, value in kwargs.items():
    if key in skip and key in takes:
      raise ValueError(f'{where}.{key} follows from other keys; remove it.')
    if key not in parameters:
      raise ValueError(
        f'{where}.{key} is unknown to {entry.__name__}.'
        f'{did_you_mean(key, parameters)} Known: {", ".join(parameters)}.'
      )
    check_value(f'{where}.{key}', value, _hint(parameters[key]))
  missing = [
    name
    for name, parameter in parameters.items()
    if parameter.default is _EMPTY and name not in kwargs
  ]
  if missing:
    raise ValueError(
      f'{where} lacks {", ".join(missing)}, which {entry.__name__} needs.'
    )


def construct(
  where: str,
  entry: Any,
  kwargs: Any,
  *,
  follows: Collection[str] = (),
  owner: Mapping[str, Any] = {},
) -> Any:
  """entry(**kwargs), in which mappings become the parts that hints name.

  `unet={'num_layers': 1}` becomes UNet(num_layers=1) where the parameter is
  hinted so, and `schedule=('cosine', {})` what `OneOf` has of that name. Where
  None may stand for a part, an empty mapping becomes None. Objects stay.

  Args:
    where: the config's section, for messages.
    entry: a class or function.
    kwargs: by name.
    follows: arguments that its owner sets.
    owner: values of the owner.

  Raises:
    ValueError: as check_arguments, of parts too.
  """
  check_arguments(where, entry, kwargs, skip=follows)
  parameters = inspect.signature(entry).parameters
  found = {k: owner[k] for k in follows if k in owner and k in parameters}
  known = {k: p.default for k, p in parameters.items()} | found
  for key, parameter in parameters.items():
    if key in kwargs:
      at = f'{where}.{key}'
      found[key] = _build(at, kwargs[key], parameter.annotation, known)
      known[key] = found[key]
  rest = {k: v for k, v in kwargs.items() if k not in parameters}
  return entry(**found, **rest)


def _build(where, value, hint, owner):
  hint, marks = _split(hint)
  for mark in marks:
    if isinstance(mark, OneOf) and type(value) in (tuple, list):
      check_value(where, value, tuple[str, Mapping])
      name, kwargs = value
      Choice(mark.table).check(where, name)
      return construct(where, mark.table[name], kwargs)
  part = _part_of(hint)
  if part is None or not isinstance(value, Mapping):
    return value
  if not value and type(None) in typing.get_args(hint):
    return None
  names = [n for mark in marks if isinstance(mark, Follows) for n in mark.names]
  return construct(where, part, value, follows=names, owner=owner)
