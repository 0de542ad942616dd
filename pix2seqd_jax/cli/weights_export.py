"""Parts of our runs under their originals' names, as files that theirs load."""

import json
import pathlib
from collections.abc import Mapping
from typing import Any

from pix2seqd_jax.pretrained import ldmseg, save, sources
from pix2seqd_jax.pretrained import part as parts
from pix2seqd_jax.train.checkpoints import weights

FILE = 'pretrained.json'  # where the weights of a directory come from
# Fields that change the numbers and that no array shows.
_HIDDEN = ('num_heads', 'groups', 'epsilon', 'linear', 'activation', 'eos_id')


def check_folder(out: pathlib.Path) -> None:
  """Raises ValueError where something is there already."""
  if out.exists() and (not out.is_dir() or any(out.iterdir())):
    raise ValueError(f'--out={out} is not empty; name a new directory.')


def export(
  source: str,
  checkpoint: str,
  out: str,
  *,
  part: str,
  prefix: str | None = None,
  ema: bool = True,
  like: str | None = None,
) -> list[str]:
  """Writes a part of a run of ours under the original's names.

  Args:
    source: whose names, a key of sources.SOURCES.
    checkpoint: a working directory of ours, or one that `convert_parts` made.
    out: the folder to make: weights in safetensors, and config.json.
    part: one of the source's.
    prefix: where in the run's weights it is ('unet', 'frozen/vae'); by default
      where `convert_parts` put it.
    ema: the averaged weights where there are any.
    like: their config.json, or a folder that has it: for what no array shows
      (heads, groups, ...). By default what the directory was converted from
      says, else the standard network.

  Returns:
    Lines to print.

  Raises:
    ValueError: unknown names, or the run has no such part.
  """
  family = sources.named(source)
  folder = pathlib.Path(out)
  if family.is_whole and part == 'all':
    if prefix is not None or like is not None:
      raise ValueError('--prefix and --like go with --part, and not with all.')
    return _export_whole(family, checkpoint, folder, ema)
  one = sources.part_of(source, part)
  check_folder(folder)
  params = weights.load_params(checkpoint, ema=ema)
  module, variables, told = _found(
    family, part, checkpoint, params, prefix, like
  )
  path = save.save(one, module, variables, folder)
  lines = [f'wrote {path}, {type(module).__name__} by its original names']
  hidden = [n for n in _HIDDEN if hasattr(module, n)]
  if hidden and not told:
    values = ', '.join(f'{n}={getattr(module, n)!r}' for n in hidden)
    lines.append(f'assumed, as no array shows it: {values}; else give --like')
  return lines


def _found(family, part, checkpoint, params, prefix=None, like=None):
  """-> (module, variables, what is known beside the arrays)."""
  one = family.parts[part]
  place = prefix or family.places.get(part, part)
  variables = _under(params, place)
  if not variables:
    raise ValueError(
      f'--prefix={place}: {checkpoint} has no such weights; it has '
      f'{", ".join(sorted(params["net"]))}.'
    )
  if part in family.half:
    variables = ldmseg.halved(variables)
  name = part if prefix is None else prefix.strip('/').removeprefix('net/')
  told = _told(checkpoint).get('networks', {}).get(name, {})
  if like is not None:
    told = {'config': _config(like)}
  module = one.module(parts.shapes_of(one, variables), told.get('config'))
  # Heads and the like are not in our arrays; what is no text was told whole.
  module = module.clone(
    **{
      name: tuple(value) if isinstance(value, list) else value
      for name, value in told.get('fields', {}).items()
      if not isinstance(getattr(module, name), Mapping) and name != 'dtype'
    }
  )
  return module, variables, told


def _export_whole(family, checkpoint, folder, ema) -> list[str]:
  """All parts in one file of PyTorch's, each under its name."""
  check_folder(folder)
  params = weights.load_params(checkpoint, ema=ema)
  found = {}
  for part, one in family.parts.items():
    module, variables, _ = _found(family, part, checkpoint, params)
    found[part] = list(parts.to_theirs(one, module, variables))
  path = save.save_whole(found, folder)
  return [f'wrote {path}, with {", ".join(found)} by their original names']


def _config(path) -> Mapping[str, Any]:
  folder = pathlib.Path(path)
  folder = folder.parent if folder.name == 'config.json' else folder
  found = sources.config_of(folder) if folder.is_dir() else None
  if found is None:
    raise ValueError(f'--like={path} is no config.json, nor a folder with one.')
  return found


def _under(params, prefix) -> dict[str, Any]:
  """{'params', 'batch_stats'} below a prefix, which may name its collection."""
  first, _, rest = prefix.partition('/')
  if first in ('net', 'frozen'):
    sides = {'params': (first, rest)}
  else:
    sides = {'params': ('net', prefix), 'batch_stats': ('stats', prefix)}
  found = {}
  for name, (collection, path) in sides.items():
    node = params.get(collection, {})
    for word in filter(None, path.split('/')):
      node = node.get(word, {})
    if node:
      found[name] = node
  return found


def _told(checkpoint) -> dict[str, Any]:
  file = pathlib.Path(checkpoint) / FILE
  return json.loads(file.read_text()) if file.is_file() else {}
