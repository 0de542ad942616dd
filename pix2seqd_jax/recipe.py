"""Configs as plain dicts: their keys, their text, calls by keyword.

Unknown keys are refused: a key that nothing reads is a typing error.
"""

import inspect
from collections.abc import Mapping
from typing import Any

import ml_collections

from pix2seqd_jax.registry import did_you_mean

# How a run is operated, section by section: the same for every recipe unless
# it says otherwise. A recipe gets them from `complete`, so that each can be
# overridden on the command line; so does a config.json of before they existed.
DEFAULTS: dict[str, dict[str, Any]] = {
  'data': {'on_bad_example': 'raise'},
  'sample': {
    'grid': 'uniform',
    'grid_args': {},
    'guidance': 1.0,  # 1 is the condition alone; PDM's gamma is one less
    'returns': '',  # empty: what the model says
  },
  'train': {'keep_every': 0, 'ledger': False, 'max_loss': 0.0},
  # Which process this is of how many: see train/places.py.
  'distributed': {
    'mode': 'auto',  # off, manual, slurm, tpu
    'coordinator': '',
    'num_processes': 0,
    'process_id': -1,
    'timeout_s': 300,
  },
}

# Every other key of a config: these a recipe must give.
KEYS = {
  'config': (
    'seed',
    'data',
    'model',
    'task',
    'sample',
    'optimizer',
    'train',
    'eval',
    'mesh',
    'shard_rules',
    'init_from',
  ),
  'data': (
    'name',
    'root',
    'source',
    'train',
    'eval',
    'num_classes',
    'max_instances',
    'image_size',
    'mask_size',
    'id_order',
    'name_stuff',
    'encode',
    'train_transforms',
    'eval_transforms',
    'batch_size',
    'num_threads',
  ),
  'sample': ('steps', 'td', 'stepper', 'stepper_args', 'seed'),
  'optimizer': (
    'name',
    'learning_rate',
    'schedule',
    'warmup_steps',
    'end_factor',
    'b1',
    'b2',
    'eps',
    'weight_decay',
    'decay_mask',
    'clip_norm',
    'groups',
    'freeze',
    'accumulate',
    'ema_decay',
    'ema_warmup',
  ),
  'train': (
    'steps',
    'log_every',
    'save_every',
    'eval_every',
    'keep',
    'best_metric',
    'num_panels',
  ),
  'eval': ('batch_size', 'num_examples', 'use_ema'),
}


def complete(config):
  """Adds the DEFAULTS that a config, or its plain dict, lacks; in place."""
  for section, defaults in DEFAULTS.items():
    if section not in config:
      config[section] = {}
    for key, value in defaults.items():
      if key not in config[section]:
        config[section][key] = value
  return config


def from_plain(config: Mapping[str, Any]) -> ml_collections.ConfigDict:
  """What JSON made of a config -> a ConfigDict; lists become tuples again."""
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


def check_keys(section: str, found: Mapping[str, Any], optional=()):
  known = (*KEYS.get(section, ()), *DEFAULTS.get(section, ()))
  if section == 'config':
    known = (*known, *(s for s in DEFAULTS if s not in known))
  for key in found:
    if key not in known:
      where = key if section == 'config' else f'{section}.{key}'
      raise ValueError(
        f'config.{where} is unknown.{did_you_mean(key, known)} '
        f'Known in {section}: {", ".join(known)}.'
      )
  missing = [k for k in known if k not in found and k not in optional]
  if missing:
    raise ValueError(f'config: {section} lacks {", ".join(missing)}.')


def construct(kind: str, entry, kwargs: Mapping[str, Any]):
  """entry(**kwargs), with an error that names the key that does not fit."""
  check_arguments(kind, entry, kwargs)
  return entry(**kwargs)


def check_arguments(kind: str, entry, kwargs: Mapping[str, Any]) -> None:
  """Raises ValueError where `entry` cannot be called with `kwargs`."""
  parameters = inspect.signature(entry).parameters
  for key in kwargs:
    if key not in parameters:
      raise ValueError(
        f'config.{kind}.{key} is unknown to {entry.__name__}.'
        f'{did_you_mean(key, parameters)} Known: {", ".join(parameters)}.'
      )
  missing = [
    k
    for k, p in parameters.items()
    if p.default is inspect.Parameter.empty
    and k not in kwargs
    and p.kind is not inspect.Parameter.VAR_KEYWORD
  ]
  if missing:
    raise ValueError(
      f'config.{kind} lacks {", ".join(missing)}, which {entry.__name__} needs.'
    )
