"""What can be said of a config without building the run: milliseconds.

`build.Experiment` checks the numbers when it is made; `validate` goes through
every part that costs no data, no devices and no tracing, and tells all faults
at once.
"""

from collections.abc import Mapping
from typing import Any

import ml_collections

from pix2seqd_jax import checking
from pix2seqd_jax.experiment import build
from pix2seqd_jax.experiment import data as data_parts
from pix2seqd_jax.train import sharding
from pix2seqd_jax.types import Category


def faults(config: ml_collections.ConfigDict | Mapping[str, Any]) -> list[str]:
  """Every fault that can be found without data, devices or tracing.

  Whether files exist, whether a mesh fits the devices and whether the
  networks' sizes fit one another shows in `Experiment.check`, which builds.

  Args:
    config: a config, or its plain dict.

  Returns:
    A message each, naming the key, the value, the rule and the fix.
  """
  try:
    experiment = build.Experiment(config)
  except ValueError as error:
    return [str(error)]
  data = experiment.config['data']
  experiment = build.Experiment(
    config,
    tuple(Category(i, str(i), True) for i in range(data['num_classes'])),
  )
  found = []
  for part in (
    lambda: experiment.model,
    lambda: experiment.task,
    lambda: experiment.optimizer,
    lambda: experiment.sampler,
    experiment.sampling_options,
    lambda: sharding.check_axes(experiment.config['mesh']),
    lambda: sharding.check_rules(experiment.shard_rules),
    lambda: _check_source(data, 'train'),
    lambda: _check_source(data, 'eval'),
    lambda: experiment.transform('train'),
    lambda: experiment.transform('eval'),
  ):
    _note(part, found)
  if not found:  # these need the parts above
    _note(experiment.timesteps, found)
    _note(experiment.check_ranges, found)
  return found


def validate(config: ml_collections.ConfigDict | Mapping[str, Any]) -> None:
  """Raises ValueError that lists all of `faults`."""
  found = faults(config)
  if len(found) == 1:
    raise ValueError(found[0])
  if found:
    raise ValueError(
      f'the config has {len(found)} faults:\n'
      + '\n'.join(f'  {f}' for f in found)
    )


def _note(part, found: list[str]) -> None:
  try:
    part()
  except ValueError as error:
    if str(error) not in found:
      found.append(str(error))


def _check_source(data, split):
  entry, kwargs = data_parts.source_args(data, split)
  checking.check_arguments(f'config.data.source or data.{split}', entry, kwargs)
