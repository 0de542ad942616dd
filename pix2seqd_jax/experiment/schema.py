"""Configs as plain dicts: their keys, their text, calls by keyword.

Unknown keys are refused: a key that nothing reads is a typing error.
"""

import ast
from collections.abc import Mapping
from typing import Any

import ml_collections

from pix2seqd_jax import checking
from pix2seqd_jax.registry import did_you_mean
from pix2seqd_jax.train.checkpoints import old_names

# How a run is operated, section by section: the same for every config unless
# it says otherwise. A config gets them from `complete`, so that each can be
# overridden on the command line; so does a config.json of before they existed.
DEFAULTS: dict[str, dict[str, Any]] = {
  'data': {
    'on_bad_example': 'raise',
    'backend': 'pillow',
    'loader': 'grain',  # or tf_data
    'latents': '',  # a folder of python -m pix2seqd_jax.cli.cache_latents
  },
  'sample': {
    'timestep_spacing': 'uniform',
    'timestep_spacing_args': {},
    'guidance': 1.0,  # 1 is the condition alone; PDM's gamma is one less
    'returns': '',  # empty: what the model says
    # Of masks that are given in part: see diffusion/inpainting.py.
    'inpainting': 'x0',
    'strength': 1.0,
  },
  'train': {'keep_every': 0, 'ledger': False, 'max_loss': 0.0},
  # Of task.name='synthesis', which any run may be evaluated by: the arguments
  # of tasks/synthesis.py, and the files of features.Features.
  'synthesis': {
    'num_samples': 2,
    'perturbation': -1.0,  # below 0: the model's
    'inception': '',
    'lpips': '',
  },
  # Which process this is of how many: see train/processes/places.py.
  'distributed': {
    'mode': 'auto',  # off, manual, slurm, tpu
    'coordinator': '',
    'num_processes': 0,
    'process_id': -1,
    'timeout_s': 300,
  },
}

# Every other key of a config, and its type: these a config must give.
_SIZE = tuple[int, int]
_NAMED = tuple[tuple[str, Mapping], ...]  # (name, keyword arguments), in order
KEYS: dict[str, dict[str, Any]] = {
  'config': {
    'seed': int,
    'data': Mapping,
    'model': Mapping,
    'task': Mapping,
    'sample': Mapping,
    'optimizer': Mapping,
    'train': Mapping,
    'eval': Mapping,
    'mesh': tuple[tuple[str, int], ...],
    'shard_rules': tuple[tuple[str, Any], ...],
    'init_from': tuple[tuple[str, str, str, str], ...],
  },
  'data': {
    'name': str,
    'root': str,
    'source': Mapping,
    'train': Mapping,
    'eval': Mapping,
    'num_classes': int,
    'num_ids': int,
    'image_size': _SIZE,
    'mask_size': _SIZE,
    'id_order': str,
    'name_stuff': bool,
    'encode': str,
    'train_transforms': _NAMED,
    'eval_transforms': _NAMED,
    'batch_size': int,
    'num_threads': int,
  },
  'sample': {
    'steps': int,
    'td': float,
    'sampler': str,
    'sampler_args': Mapping,
    'seed': int,
  },
  'optimizer': {
    'name': str,
    'learning_rate': float,
    'schedule': str,
    'warmup_steps': int,
    'end_factor': float,
    'b1': float,
    'b2': float,
    'eps': float,
    'weight_decay': float,
    'decay_mask': str | tuple[str, ...],
    'clip_norm': float | None,
    'groups': tuple,
    'freeze': tuple[str, ...],
    'accumulate': int,
    'ema_decay': float,
    'ema_warmup': bool,
  },
  'train': {
    'steps': int,
    'log_every': int,
    'save_every': int,
    'eval_every': int,
    'keep': int,
    'best_metric': str,
    'num_panels': int,
  },
  'eval': {'batch_size': int, 'num_examples': int, 'use_ema': bool},
}


def complete(config):
  """Adds the DEFAULTS that a config, or its plain dict, lacks; in place.

  Raises:
    ValueError: a key or value has been renamed since.
  """
  old_names.check(config)
  for section, defaults in DEFAULTS.items():
    if section not in config:
      config[section] = {}
    if not hasattr(config[section], 'keys'):
      continue  # check_keys tells of it
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


def check_keys(section: str, found: Any) -> None:
  """Raises ValueError for unknown, missing or mistyped keys of a section."""
  checking.check_value(f'config.{section}', found, Mapping)
  known = {k: type(v) for k, v in DEFAULTS.get(section, {}).items()}
  if section == 'config':
    known = dict.fromkeys(DEFAULTS, Mapping)
  known = {**KEYS.get(section, {}), **known}
  for key in found:
    if key not in known:
      where = key if section == 'config' else f'{section}.{key}'
      raise ValueError(
        f'config.{where} is unknown.{did_you_mean(key, known)} '
        f'Known in {section}: {", ".join(known)}.'
      )
  missing = [k for k in known if k not in found]
  if missing:
    raise ValueError(f'config: {section} lacks {", ".join(missing)}.')
  for key, hint in known.items():
    where = key if section == 'config' else f'{section}.{key}'
    checking.check_value(f'config.{where}', found[key], hint)


def unknown_key(key: str) -> str:
  """What to say of a name on the command line that no config has."""
  for old, new in old_names.KEYS.items():
    if key == old.split('.')[-1]:
      return f'config.{old} is now config.{new}: rename it.'
  known = [k for table in (*KEYS.values(), *DEFAULTS.values()) for k in table]
  return (
    f'no key of this config is named {key!r}.{did_you_mean(key, known)} '
    'Flags are --config.SECTION.KEY=VALUE; the config shows them all.'
  )


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
  """entry(**kwargs), with an error that names the key that does not fit."""
  checking.check_arguments(f'config.{kind}', entry, kwargs)
  return entry(**kwargs)
