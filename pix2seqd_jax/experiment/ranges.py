"""The ranges of a config's numbers: what no part of it checks by itself."""

from collections.abc import Mapping
from typing import Any

# A range -> the integers that must lie in it. The upper bounds are far above
# any use, and below what would fill a machine's memory by a typing error.
_MANY = 2**31 - 1
_RANGES = {
  (1, 2**16): (
    'data.batch_size',
    'data.num_classes',
    'eval.batch_size',
    'optimizer.accumulate',
    'sample.steps',
  ),
  (1, _MANY): ('train.steps', 'train.log_every', 'train.keep'),
  (0, _MANY): (
    'train.save_every',
    'train.eval_every',
    'train.num_panels',
    'train.keep_every',
    'eval.num_examples',
    'optimizer.warmup_steps',
  ),
  (0, 1024): ('data.num_threads',),
  (2, 2**24): ('data.num_ids',),
  (0, 2**32 - 1): ('seed', 'sample.seed'),
}
_SIZES = ('data.image_size', 'data.mask_size')
_LARGEST_SIDE = 2**14
_WORDS = {
  'data.encode': ('host', 'device'),
  'data.on_bad_example': ('raise', 'skip'),
  'data.loader': ('grain', 'tf_data'),
}


def check(config: Mapping[str, Any]) -> None:
  """Raises ValueError for a number out of its range.

  Args:
    config: plain, with every key at hand and of its type.
  """
  for name in ('model.name', 'task.name'):
    if not isinstance(_find(config, name), str):
      raise ValueError(f'{name}={_find(config, name)!r} must be a word.')
  for (least, most), names in _RANGES.items():
    for name in names:
      value = _find(config, name)
      if not least <= value <= most:
        raise ValueError(
          f'{name}={value!r} must be an integer from {least} to {most}.'
          + _NOTES.get(name, '')
        )
  for name in _SIZES:
    if not all(1 <= side <= _LARGEST_SIDE for side in _find(config, name)):
      raise ValueError(
        f'{name}={_find(config, name)} must be (height, width) in pixels, '
        f'each from 1 to {_LARGEST_SIDE}.'
      )
  for name, words in _WORDS.items():
    if _find(config, name) not in words:
      raise ValueError(
        f'{name}={_find(config, name)!r} must be one of {", ".join(words)}.'
      )
  if not 0 <= config['optimizer']['ema_decay'] < 1:
    raise ValueError(
      f'optimizer.ema_decay={config["optimizer"]["ema_decay"]} must lie in '
      '[0, 1); 0 keeps no average.'
    )
  max_loss = config['train']['max_loss']
  if not max_loss >= 0:
    raise ValueError(f'train.max_loss={max_loss} must be >= 0 (0: any loss).')


_NOTES = {'data.num_ids': ' It counts the null id 0.'}


def _find(config, name):
  for key in name.split('.'):
    config = config[key]
  return config
