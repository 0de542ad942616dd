"""Training runs of other processes: their configs, and what they logged."""

import json
import pathlib
from typing import Any

import ml_collections

from pix2seqd_jax.experiment import schema

# What of a line of metrics.jsonl tells of the machine, not of the run.
_SPEEDS = (
  'time',
  'steps_per_second',
  'images_per_second',
  'eval/images_per_second',
  'data_wait_fraction',
  'eta_seconds',
)


def metrics_of(folder: pathlib.Path) -> list[dict[str, Any]]:
  """The whole lines of metrics.jsonl."""
  path = folder / 'metrics.jsonl'
  text = path.read_text() if path.is_file() else ''
  return [json.loads(line) for line in text.split('\n')[:-1]]


def numbers_of(folder: pathlib.Path) -> dict[int, dict[str, float]]:
  """{step: what was measured}; of two lines of a step the later counts."""
  found = {}
  for row in metrics_of(folder):
    values = {k: v for k, v in row.items() if k not in _SPEEDS}
    found.setdefault(row['step'], {}).update(values)
  return found


def write_config(
  config: ml_collections.ConfigDict, path: pathlib.Path
) -> pathlib.Path:
  """A config file that gives this very config."""
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text(
    'import ml_collections\n\n\ndef get_config():\n'
    f'  return ml_collections.ConfigDict({schema.plain(config)!r})\n'
  )
  return path
