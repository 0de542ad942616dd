"""Which changes of a config a resumed run may make."""

import json
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from pix2seqd_jax.train.checkpoints import manifest, old_names

FILE = 'config.json'
FROZEN_KEYS = ('model', 'data', 'optimizer', 'seed')


def _flat(tree: Any, prefix: str = '') -> dict[str, Any]:
  """{'a.b': value}; lists are values."""
  if not isinstance(tree, Mapping) or not tree:
    return {prefix: tree}
  flat = {}
  for key, value in tree.items():
    flat.update(_flat(value, f'{prefix}.{key}' if prefix else str(key)))
  return flat


def _plain(config: Mapping[str, Any]) -> dict[str, Any]:
  """As JSON would give it back: tuples become lists."""
  return json.loads(json.dumps(config))


def save_config(
  workdir: str | os.PathLike, config: Mapping[str, Any]
) -> pathlib.Path:
  """Writes config.json, at once or not at all."""
  path = pathlib.Path(workdir) / FILE
  path.parent.mkdir(parents=True, exist_ok=True)
  text = json.dumps(_plain(config), indent=2, sort_keys=True) + '\n'
  manifest.write_text(path, text)
  return path


def load_config(workdir: str | os.PathLike) -> dict[str, Any] | None:
  """The config of a working directory, by today's names; None: no such file."""
  path = pathlib.Path(workdir) / FILE
  if not path.is_file():
    return None
  try:
    return old_names.migrate(json.loads(path.read_text(encoding='utf-8')))
  except json.JSONDecodeError as error:
    raise ValueError(
      f'{path} is not JSON ({error}); restore it, or use another workdir.'
    ) from error


def _within(name: str, keys: Sequence[str]) -> bool:
  return any(name == key or name.startswith(f'{key}.') for key in keys)


def check_resume(
  workdir: str | os.PathLike,
  new_config: Mapping[str, Any],
  frozen_keys: Sequence[str] = FROZEN_KEYS,
  free: Sequence[str] = (),
  defaults: Mapping[str, Any] | None = None,
) -> bool:
  """Whether workdir holds a run that this config goes on with.

  Model, data, optimizer and seed must be those of the run; all else (lengths,
  intervals, the mesh) may change.

  Args:
    workdir: of the run.
    new_config: as a plain dict.
    frozen_keys: dotted names that must not change, with all below them.
    free: dotted names below those that may change after all
      ('data.num_threads').
    defaults: values of keys that the run's config may be too old to have.

  Returns:
    False where workdir has no config yet: a fresh run.

  Raises:
    ValueError: naming each changed key, its old and its new value.
  """
  old = load_config(workdir)
  if old is None:
    return False
  given = {k: v for k, v in _flat(_plain(defaults or {})).items() if v != {}}
  before = {**given, **_flat(old)}
  after = _flat(_plain(new_config))
  absent = object()
  changes = []
  for name in sorted({**before, **after}):
    values = [flat.get(name, absent) for flat in (before, after)]
    if not _within(name, frozen_keys) or _within(name, free):
      continue
    if values[0] is absent or values[1] is absent or values[0] != values[1]:
      shown = ['absent' if v is absent else repr(v) for v in values]
      changes.append(
        f'  {name}: {shown[0]} in {FILE}, {shown[1]} now; set it back to '
        f'{shown[0]}'
      )
  if changes:
    raise ValueError(
      f'{workdir} holds a run of another config, and a resumed run may not '
      f'change {", ".join(frozen_keys)}; use a new workdir (config.init_from '
      'takes over weights), or undo:\n' + '\n'.join(changes)
    )
  return True
