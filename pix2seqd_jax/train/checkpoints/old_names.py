"""Names in configs that were renamed after commit 62d6a96.

A run's config.json keeps the names of its day and is read by those of today;
a config or a command line that still has an old one is told the new one.
"""

import copy
import re
from collections.abc import Mapping
from typing import Any

KEYS = {
  'data.max_instances': 'data.num_ids',
  'model.picture': 'model.image',
  'model.classifier.picture': 'model.classifier.image',
  'sample.grid': 'sample.timestep_spacing',
  'sample.grid_args': 'sample.timestep_spacing_args',
  'sample.stepper': 'sample.sampler',
  'sample.stepper_args': 'sample.sampler_args',
  'sample.completion': 'sample.inpainting',
}
# By today's key: old value -> new one.
VALUES = {
  'task.name': {'completion': 'inpainting'},
  'sample.sampler_args.inner': {'grid': 'timesteps'},  # of dpm_singlestep
}


def find(config: Mapping[str, Any]) -> list[str]:
  """A sentence for each old name: the new one."""
  found = [
    f'config.{old} is now config.{new}'
    for old, new in KEYS.items()
    if _has(config, old)
  ]
  for key, renamed in VALUES.items():
    value = _get(config, key) if _has(config, key) else None
    if isinstance(value, str) and value in renamed:
      found.append(f'config.{key}={value!r} is now {renamed[value]!r}')
  return found


def check(config: Mapping[str, Any]) -> None:
  """Raises ValueError that names the new name of each old one."""
  if found := find(config):
    raise ValueError(f'{"; ".join(found)}: rename it.')


def migrate(config: Mapping[str, Any]) -> dict[str, Any]:
  """A plain config of any day, by today's names; a copy."""
  config = copy.deepcopy(dict(config))
  for old, new in KEYS.items():
    if _has(config, old):
      *_, last = new.split('.')
      section, key = _section(config, old), old.split('.')[-1]
      section[last] = section.pop(key)
  for key, renamed in VALUES.items():
    if _has(config, key) and isinstance(_get(config, key), str):
      section, last = _section(config, key), key.split('.')[-1]
      section[last] = renamed.get(section[last], section[last])
  if _has(config, 'sample.sampler'):
    call = str(_get(config, 'sample.sampler'))
    if call.strip().startswith('dpm_singlestep('):  # its `inner`
      config['sample']['sampler'] = re.sub(
        '([\'"])grid\\1', "'timesteps'", call
      )
  return config


def _section(config, name):
  for key in name.split('.')[:-1]:
    config = config.get(key) if hasattr(config, 'get') else None
  return config


def _has(config, name):
  section = _section(config, name)
  return hasattr(section, 'keys') and name.split('.')[-1] in section


def _get(config, name):
  return _section(config, name)[name.split('.')[-1]]
