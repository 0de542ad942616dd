"""Configs held to their sections: defaults, checks, text, calls by keyword.

Unknown keys are refused: a key that nothing reads is a typing error.
"""

import ast
import dataclasses
import functools
import importlib
import typing
from collections.abc import Mapping
from typing import Any, NamedTuple

import ml_collections

from pix2seqd_jax import checking
from pix2seqd_jax.experiment import sections
from pix2seqd_jax.registry import did_you_mean
from pix2seqd_jax.train.checkpoints import old_names

MISSING = dataclasses.MISSING


class Key(NamedTuple):
  """What a section says of one of its keys."""

  hint: Any
  doc: str
  ranges: tuple[sections.Range, ...]
  choices: tuple[str, ...] | sections.Choices
  is_free: bool
  default: Any  # MISSING: a config must give it


@functools.cache
def keys(section: type) -> dict[str, Key]:
  """The keys of a section of `sections`, in order."""
  hints = typing.get_type_hints(section, include_extras=True)
  return {
    field.name: _key(hints[field.name], field)
    for field in dataclasses.fields(section)
  }


def _key(hint, field):
  told = getattr(hint, '__metadata__', ())  # nested ones are flat here
  hint = hint.__origin__ if told else hint
  if dataclasses.is_dataclass(hint):
    return Key(Mapping, _first_line(hint), (), (), False, MISSING)
  choices = [t for t in told if isinstance(t, sections.Choices)]
  if typing.get_origin(hint) is typing.Literal:
    choices = [typing.get_args(hint)]
  default = field.default
  if field.default_factory is not MISSING:
    default = field.default_factory()
  return Key(
    hint,
    next(t for t in told if isinstance(t, str)),
    tuple(t for t in told if isinstance(t, sections.Range)),
    choices[0] if choices else (),
    any(isinstance(t, sections.Free) for t in told),
    default,
  )


# By its name, each section of a config.
SECTIONS: dict[str, type] = {
  name: hint
  for name, hint in typing.get_type_hints(sections.Config).items()
  if dataclasses.is_dataclass(hint)
}
# Which other keys these have their class says, whose arguments they are.
_OPEN = (sections.Model, sections.Task)
DEFAULTS: dict[str, dict[str, Any]] = {
  name: found
  for name, section in SECTIONS.items()
  if (
    found := {
      k: key.default
      for k, key in keys(section).items()
      if key.default is not MISSING
    }
  )
}
# What may change when a run goes on.
FREE = tuple(
  f'{name}.{k}'
  for name, section in SECTIONS.items()
  for k, key in keys(section).items()
  if key.is_free
)


def complete(config):
  """Adds the defaults that a config, or its plain dict, lacks; in place.

  So that each can be overridden on the command line.

  Raises:
    ValueError: a key or value has been renamed since.
  """
  old_names.check(config)
  for section, defaults in DEFAULTS.items():
    if section not in config:
      config[section] = {}
    if not hasattr(config[section], 'keys'):
      continue  # `check` tells of it
    for key, value in defaults.items():
      if key not in config[section]:
        config[section][key] = value
  return config


def from_plain(config: Mapping[str, Any]) -> ml_collections.ConfigDict:
  """What JSON made of a config -> a ConfigDict; lists become tuples again."""
  config = old_names.migrate(config)
  return complete(ml_collections.ConfigDict(_tuples(config)))


def _tuples(value):
  if isinstance(value, Mapping):
    return {k: _tuples(v) for k, v in value.items()}
  return tuple(_tuples(v) for v in value) if isinstance(value, list) else value


def plain(value):
  """ConfigDicts and FrozenConfigDicts -> dicts, tuples -> tuples."""
  if isinstance(value, ml_collections.ConfigDict):
    value = value.to_dict()
  if isinstance(value, Mapping):
    return {k: plain(v) for k, v in value.items()}
  if isinstance(value, list | tuple):
    return tuple(plain(v) for v in value)
  return value


def check(config: Mapping[str, Any]) -> None:
  """Raises ValueError for keys and values that the sections do not allow.

  Args:
    config: plain and complete.
  """
  parts = {'config': (sections.Config, config)}
  parts |= {k: (section, config.get(k)) for k, section in SECTIONS.items()}
  for name, (section, given) in parts.items():
    _check_keys(name, section, given)
  for name, (section, given) in parts.items():
    for key, told in keys(section).items():
      for rule in told.ranges:
        rule.check(_where(name, key), given[key])


def _where(section, key):
  return key if section == 'config' else f'{section}.{key}'


def _check_keys(name, section, given):
  """Unknown, missing or mistyped keys."""
  checking.check_value(f'config.{name}', given, Mapping)
  known = keys(section)
  for key in given:
    if key not in known and section not in _OPEN:
      raise ValueError(
        f'config.{_where(name, key)} is unknown.{did_you_mean(key, known)} '
        f'Known in {name}: {", ".join(known)}.'
      )
  missing = [key for key in known if key not in given]
  if missing:
    raise ValueError(f'config: {name} lacks {", ".join(missing)}.')
  for key, told in known.items():
    checking.check_value(f'config.{_where(name, key)}', given[key], told.hint)


def unknown_key(key: str) -> str:
  """What to say of a name on the command line that no config has."""
  for old, new in old_names.KEYS.items():
    if key == old.split('.')[-1]:
      return f'config.{old} is now config.{new}: rename it.'
  known = [k for s in (sections.Config, *SECTIONS.values()) for k in keys(s)]
  return (
    f'no key of this config is named {key!r}.{did_you_mean(key, known)} '
    'Flags are --config.SECTION.KEY=VALUE; the config shows them all.'
  )


def reference() -> str:
  """All sections and keys as Markdown, for docs/configuration.md."""
  for package in ('data', 'models', 'tasks'):  # names are registered
    importlib.import_module(f'pix2seqd_jax.{package}')
  lines = []
  for name, section in {'config': sections.Config, **SECTIONS}.items():
    lines += ['', f'## `{name}`', '', _first_line(section), '']
    lines += ['| key | type | default | meaning |', '|---|---|---|---|']
    lines += [_row(name, k, key) for k, key in keys(section).items()]
  lines += ['', '\\* may change when a run goes on.', '', '## Renamed keys', '']
  lines += ['| old | new |', '|---|---|']
  lines += [f'| `{old}` | `{new}` |' for old, new in old_names.KEYS.items()]
  for key, renamed in old_names.VALUES.items():
    lines += [f"| `{key}='{a}'` | `'{b}'` |" for a, b in renamed.items()]
  lines += ['']
  return '\n'.join(lines[1:])


def _row(section, key, told):
  kind = ' or '.join(f'`{c}`' for c in told.choices)
  kind = kind or f'`{checking.name_of(told.hint)}`'.replace('|', '\\|')
  rules = ', '.join(rule.text for rule in told.ranges)
  default = '' if told.default is MISSING else f'`{told.default!r}`'
  star = r' \*' if told.is_free else ''
  notes = [told.doc, *(rule.note for rule in told.ranges if rule.note)]
  name = f'`{_where(section, key)}`'
  if key in SECTIONS and section == 'config':
    name, kind = f'[{name}](#{key})', 'section'
  cells = (name + star, f'{kind} {rules}'.strip(), default, ' '.join(notes))
  return f'| {" | ".join(cells)} |'


def _first_line(section):
  return section.__doc__.splitlines()[0]


def parse_call(where: str, text: str) -> tuple[str, dict[str, Any]]:
  """'heun' -> ('heun', {}); 'ddim(eta=0.5)' -> ('ddim', {'eta': 0.5}).

  So that arguments can be given on the command line.

  Raises:
    ValueError: it is neither a name nor a call of one with plain values.
  """
  try:
    call = ast.parse(text.strip(), mode='eval').body
    if isinstance(call, ast.Name):
      return call.id, {}
    if call.args or any(k.arg is None for k in call.keywords):
      raise ValueError('only NAME=VALUE may stand in the brackets')
    values = {k.arg: ast.literal_eval(k.value) for k in call.keywords}
    return call.func.id, values
  except (
    *(SyntaxError, AttributeError, ValueError, TypeError),
    *(MemoryError, RecursionError),
  ) as error:
    raise ValueError(
      f'{where}={text!r} must be a name, or a call like ddim(eta=0.5): {error}.'
    ) from error


def construct(kind: str, entry, kwargs: Mapping[str, Any]):
  """entry(**kwargs) and its parts; errors name the key that does not fit."""
  return checking.construct(f'config.{kind}', entry, kwargs)
