"""Our parameters as a file that the originals' code loads."""

import json
import os
import pathlib
import struct
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import numpy as np

from pix2seqd_jax.pretrained import part as parts

_TYPES = {
  'float64': 'F64',
  'float32': 'F32',
  'float16': 'F16',
  'bfloat16': 'BF16',
  'int64': 'I64',
  'int32': 'I32',
}


def save(
  part: parts.Part,
  module: nn.Module,
  variables: Mapping[str, Any],
  folder: str | os.PathLike,
) -> pathlib.Path:
  """Writes <their file>.safetensors and, where they have one, config.json.

  `UNet2DConditionModel.from_pretrained(folder)` of diffusers then loads it,
  `CLIPTextModel.from_pretrained(folder)` of transformers, or
  `load_state_dict(safetensors.torch.load_file(...))` of U-ViT. The way back
  through `sources.load` gives the same bytes.

  Args:
    part: whose names.
    module: ours.
    variables: {'params': ..., 'batch_stats': ...} of arrays.
    folder: made if it does not exist.

  Returns:
    The file of weights.

  Raises:
    ValueError: the variables are not the module's, or the file exists.
  """
  folder = pathlib.Path(folder)
  path = folder / part.file
  if path.exists():
    raise ValueError(f'{path} exists; name another directory.')
  # What is wrong is told before anything is written.
  arrays = list(parts.to_theirs(part, module, variables))
  config = None if part.config is None else dict(part.config(module))
  folder.mkdir(parents=True, exist_ok=True)
  if config is not None:
    (folder / 'config.json').write_text(json.dumps(config, indent=2) + '\n')
  return _write(path, arrays)


def save_whole(
  found: Mapping[str, list[tuple[parts.Entry, np.dtype, Any]]],
  folder: pathlib.Path,
) -> pathlib.Path:
  """Writes weights.pt, {part: its state dict}, as a training script has it.

  Beside them are a `step` and an `epoch` of 0, and no averages or optimizer.

  Args:
    found: {part: what part.to_theirs gives}.
    folder: made if it does not exist.

  Raises:
    ValueError: torch, which writes such files, is not installed.
  """
  try:
    import torch
  except ImportError as error:
    raise ValueError(
      'only torch writes files of PyTorch: pip install torch, or name with '
      f'--part one of {", ".join(found)}, which are written as safetensors.'
    ) from error
  whole: dict[str, Any] = {'step': 0, 'epoch': 0, 'ema': None, 'opt': None}
  for part, arrays in found.items():
    made: dict[int, Any] = {}  # two names of one array share it, as in theirs
    for entry, _, make in arrays:
      at = id(make)
      if at not in made:
        made[at] = torch.from_numpy(make())
      whole.setdefault(part, {})[entry.name] = made[at]
  folder.mkdir(parents=True, exist_ok=True)
  path = folder / 'weights.pt'
  torch.save(whole, path)
  return path


def _write(path, arrays) -> pathlib.Path:
  """A safetensors file: the length of its header, the header, the arrays.

  Its library takes all arrays at once, transposed: a second copy of a model
  that may fill the memory. This takes one after the other.
  """
  header, end = {'__metadata__': {'format': 'pt'}}, 0
  for entry, dtype, _ in arrays:
    size = int(np.prod(entry.shape)) * dtype.itemsize
    header[entry.name] = {
      'dtype': _TYPES[dtype.name],
      'shape': list(entry.shape),
      'data_offsets': [end, end + size],
    }
    end += size
  text = json.dumps(header, separators=(',', ':')).encode()
  text += b' ' * (-len(text) % 8)
  partial = path.with_suffix('.partial')
  with open(partial, 'wb') as file:
    file.write(struct.pack('<Q', len(text)))
    file.write(text)
    for _, _, make in arrays:
      file.write(make().tobytes())
  os.replace(partial, path)
  return path
