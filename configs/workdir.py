"""The config of a work directory, so that its values can be overridden.

  python -m pix2seqd_jax.run --mode eval --workdir runs/shapes \\
    --config configs/workdir.py:runs/shapes --config.sample.steps=50
"""

import json
import pathlib

from ml_collections import ConfigDict

from pix2seqd_jax.experiment import schema


def get_config(arg: str | None = None) -> ConfigDict:
  path = pathlib.Path(arg or '') / 'config.json'
  if not path.is_file():
    raise ValueError(
      f'{path} does not exist; write --config=configs/workdir.py:WORKDIR.'
    )
  return schema.from_plain(json.loads(path.read_text(encoding='utf-8')))
