"""Images -> files of masks, by a trained run.

pix2seqd predict --workdir runs/shapes --inputs images/ --output predictions/
"""

import os
import pathlib
from collections.abc import Sequence
from typing import Any


def predict(
  workdir: str | os.PathLike,
  inputs: Sequence[str | os.PathLike],
  *,
  output: str | os.PathLike = '',
  config: Any = None,
  step: str | int = '',
  formats: Sequence[str] = ('panoptic', 'overlay'),
  **kwargs,
) -> pathlib.Path:
  """Images -> files of some formats; see Pipeline.predict for all arguments.

  Raises:
    ValueError: there is no image, one cannot be read, or no such format.
  """
  from pix2seqd_jax.inference import pipeline

  if not inputs:
    raise ValueError('--inputs is empty; name an image or a folder of them.')
  folder = pathlib.Path(workdir)
  pipe = pipeline.Pipeline.from_pretrained(
    folder, step=step or None, config=config
  )
  output = output or folder / 'predictions'
  where = pipe.predict(inputs, output, formats=formats, **kwargs)
  print(f'Wrote {where}/: {", ".join(formats)}.')
  return where
