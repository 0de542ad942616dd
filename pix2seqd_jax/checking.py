"""Whether values from a config fit the type hints of what they are meant for.

Just so much of typing as the hints of this package use; what is not known
here is let pass.
"""

import inspect
import math
import types as python_types
import typing
from collections.abc import Iterable, Mapping
from typing import Any

from pix2seqd_jax.registry import did_you_mean

_EMPTY = inspect.Parameter.empty
_SPREAD = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)


def fits(value: Any, hint: Any) -> bool:
  """Whether a value is what the hint says. NaN fits nothing but Any."""
  if isinstance(value, float) and math.isnan(value):
    return hint in (Any, _EMPTY)
  origin, args = typing.get_origin(hint), typing.get_args(hint)
  if origin in (typing.Union, python_types.UnionType):
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
  return True


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
  parameters = {
    name: parameter
    for name, parameter in inspect.signature(entry).parameters.items()
    if name not in skip and parameter.kind not in _SPREAD
  }
  for key, value in kwargs.items():
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
