"""Whose checkpoints can be read, and `load`, which reads a network of one."""

import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import numpy as np

from pix2seqd_jax.pretrained import (
  clip,
  hub,
  inception_fid,
  ldmseg,
  lpips_vgg,
  mask_autoencoder,
  part,
  sd_unet,
  sd_vae,
  torch_files,
  uvit,
)
from pix2seqd_jax.pretrained.mapping import Plan

CASTS = ('float32', 'float16', 'bfloat16', 'keep')


class Source(NamedTuple):
  """A family of checkpoints.

  Attributes:
    parts: the networks in it; of a folder with subfolders, these are their
      names, as in diffusers.
    prefixes: {what the names of a file with all parts begin with: the part}.
    is_split: published as several files; a folder of them is read as one.
    is_whole: published as one .pt file with all parts, each under its name;
      one that is missing is an error.
    places: {part: where it is in the parameters of our model}; of others it
      is 'net/<part>'.
    rule: of config.init_from, for models to start from such a directory.
    half: parts published in float16: read as float32, and written back as
      float16 where no number changes by that.
  """

  parts: Mapping[str, part.Part]
  prefixes: Mapping[str, str] = {}
  is_split: bool = False
  is_whole: bool = False
  places: Mapping[str, str] = {}
  rule: str = 'exact'
  half: tuple[str, ...] = ()

  def place(self, part: str) -> str:
    """'net/...' or 'frozen/...'."""
    return self.places.get(part, f'net/{part}')


class Found(NamedTuple):
  """One network in a checkpoint, nothing of it read yet."""

  module: nn.Module
  plan: Plan
  tensors: Mapping[str, Any]
  config: Mapping[str, Any] | None  # theirs
  is_half: bool = False  # in all files of its kind: not worth refusing

  def read(self, cast: str | None = None) -> dict[str, Any]:
    """{'params': ..., 'batch_stats': ...}, NumPy; see `load` for `cast`."""
    if cast not in (None, *CASTS):
      raise ValueError(f'cast={cast!r} must be one of {", ".join(CASTS)}.')
    if cast is None and not self.is_half:
      _refuse_half(self)
    return self.plan.tree(self.tensors, _dtype(cast))


def _dtype(cast):
  if cast == 'bfloat16':
    import ml_dtypes

    return ml_dtypes.bfloat16
  return None if cast == 'keep' else np.dtype(cast or 'float32')


def _refuse_half(found: Found) -> None:
  used = {row.theirs: found.tensors[row.theirs] for row in found.plan.rows}
  half = list(torch_files.half_precision(used))
  if half:
    kinds = ' and '.join(sorted({used[name].dtype for name in half}))
    raise ValueError(
      f'{len(half)} of {len(used)} arrays are in {kinds} (the first is '
      f'{half[0]}); the originals trained in float32. Take the float32 file, '
      "or accept the rounding with cast='float32' (--cast float32)."
    )


def find(
  source: str,
  path: str | os.PathLike,
  *,
  only: str | None = None,
  key: str | None = None,
) -> dict[str, Found]:
  """The networks of a checkpoint, by part; no value is read.

  Args:
    source: a key of SOURCES.
    path: a file or a folder of weights, a folder of a whole pipeline with one
      subfolder a part, or a name on the Hub, hf://owner/repo/path.
    only: the part expected; None: all that are there.
    key: where in a .pt file the weights are; see torch_files.read.

  Raises:
    ValueError: unknown source or part, unreadable files, or names that do not
      fit: one error lists them all.
  """
  one = named(source, only)
  parts = one.parts
  path = hub.resolve(path)
  expected = tuple(parts) if only is None else (only,)
  folders = [name for name in parts if (path / name).is_dir()]
  beside = 0
  if folders:
    pieces = {
      name: (torch_files.read(path / name, key), config_of(path / name))
      for name in expected
      if name in folders
    }
  else:
    read = torch_files.read_all if one.is_split else torch_files.read
    keys = tuple(parts) if one.is_whole and key is None else key
    tensors = read(path, keys)
    some_of = _by_prefix(one.prefixes, tensors)
    beside = len(tensors) - sum(map(len, some_of.values())) if some_of else 0
    # A config.json beside a file of several networks is of none of them.
    config = None if some_of else config_of(path)
    some_of = some_of or _split(parts, tensors, only)
    folders = list(some_of)
    pieces = {n: (some, config) for n, some in some_of.items() if n in expected}
  if not pieces:
    raise ValueError(f'{path} has no {only}; it has {", ".join(folders)}.')
  return _planned(one, source, path, expected, pieces, beside)


def _planned(one, source, path, expected, pieces, beside) -> dict[str, Found]:
  """What becomes of the tensors of each part; one error for all that is wrong.

  `beside` tensors of the file are of no part.
  """
  found, problems = {}, []
  if one.is_whole:
    problems = [
      f'{path} has no {name}; if that is right, name the part that you want.'
      for name in expected
      if name not in pieces
    ]
  for name, (some, config) in pieces.items():
    try:
      module, plan = part.plan(one.parts[name], some, config)
    except ValueError as error:
      problems.append(f'{path}, as {name} of {source}: {error}')
      continue
    if beside:  # told once
      left = {'names of no part of it (model_ema, tables, ...)': beside}
      plan, beside = plan._replace(passed_over=plan.passed_over | left), 0
    found[name] = Found(module, plan, some, config, name in one.half)
  if problems:
    raise ValueError('\n'.join(problems))
  return found


def named(source: str, only: str | None = None) -> Source:
  """A source by its name; ValueError for an unknown one, or no such part."""
  found = SOURCES.get(source)
  if found is None:
    raise ValueError(
      f'{source!r} is none of the checkpoints that can be read: '
      f'{", ".join(SOURCES)}.'
    )
  if only is not None and only not in found.parts:
    raise ValueError(f'part={only!r}: {source} has {", ".join(found.parts)}.')
  return found


def part_of(source: str, only: str) -> part.Part:
  """A part of a source by its name; ValueError for an unknown one."""
  return named(source, only).parts[only]


def _by_prefix(prefixes, tensors) -> dict[str, dict[str, Any]]:
  found: dict[str, dict[str, Any]] = {}
  for prefix, name in prefixes.items():
    some = {
      k: v for k, v in tensors.items() if part.unwrapped(k).startswith(prefix)
    }
    if some:
      found[name] = some
  return found


def _split(parts, tensors, only) -> dict[str, dict[str, Any]]:
  """{part: its tensors}: by the part asked for, by marks."""
  if only is not None:
    return {only: tensors}
  marked = [
    name
    for name, one in parts.items()
    if one.mark in part.spell(one, tensors).values()
  ]
  if len(parts) == 1:
    marked = list(parts)
  if len(marked) != 1:
    raise ValueError(
      f'these weights look like {" and ".join(marked) or "none"} of '
      f'{", ".join(parts)} (their names begin with '
      f'{", ".join(sorted(tensors)[:3])}); say which with --part.'
    )
  return {marked[0]: tensors}


def config_of(path: pathlib.Path) -> Mapping[str, Any] | None:
  """The config.json of a folder, or beside a file."""
  file = (path if path.is_dir() else path.parent) / 'config.json'
  if not file.is_file():
    return None
  try:
    found = json.loads(file.read_text())
  except ValueError as error:
    raise ValueError(f'{file} is no JSON: {error}.') from error
  if not isinstance(found, dict):
    raise ValueError(f'{file} must hold a JSON object.')
  return found


def load(
  source: str,
  path: str | os.PathLike,
  only: str | None = None,
  *,
  cast: str | None = None,
  key: str | None = None,
) -> tuple[nn.Module, dict[str, Any]]:
  """A network of somebody's checkpoint: our module and its variables.

  `module, variables = load('sd15', 'stable-diffusion-v1-5', 'unet')`, then
  `module.apply(variables, x, t, context)`. Change what is not a size with
  `module.clone(dtype=jnp.bfloat16, remat=True)`. The host's memory peaks at
  the size of the variables and one array more.

  Args:
    source: a key of SOURCES.
    path: see `find`.
    only: which part; None where the checkpoint has a single one.
    cast: None: float32, and an error for weights in half precision; 'float32'
      takes those too; 'bfloat16', 'float16'; 'keep' leaves every type.
    key: where in a .pt file the weights are.

  Raises:
    ValueError: as `find`; or the checkpoint has several parts and none is
      asked for.
  """
  found = find(source, path, only=only, key=key)
  if len(found) != 1:
    raise ValueError(
      f'{path} has {", ".join(found)}; say which is expected with only=.'
    )
  (one,) = found.values()
  return one.module, one.read(cast)


_STABLE_DIFFUSION = Source(
  {'unet': sd_unet.PART, 'vae': sd_vae.PART, 'text_encoder': clip.TEXT},
  {
    'model.diffusion_model.': 'unet',
    'first_stage_model.': 'vae',
    'cond_stage_model.': 'text_encoder',
  },
)
SOURCES = {
  'sd15': _STABLE_DIFFUSION,
  'sd21': _STABLE_DIFFUSION,
  'clip': Source({'clip': clip.CLIP}),
  'clip-text': Source({'text_encoder': clip.TEXT}),
  'uvit': Source({'uvit': uvit.PART}),
  'ldmseg-autoencoder': Source({'autoencoder': mask_autoencoder.PART}),
  'ldmseg': Source(
    ldmseg.PARTS,
    {f'{name}.': name for name in ldmseg.PARTS},
    is_whole=True,
    places=ldmseg.PLACES,
    half=('vae_image',),
  ),
  'ldmseg-start': Source(
    ldmseg.START,
    {'model.diffusion_model.': 'unet', 'first_stage_model.': 'vae'},
    places=ldmseg.START_PLACES,
    rule='grow',
  ),
  # A released file and what training leaves: the UNet alone.
  'semflow': Source({'unet': sd_unet.PART}, places={'unet': 'net/unet'}),
  'inception-fid': Source({'inception': inception_fid.PART}),
  'lpips-vgg': Source({'lpips': lpips_vgg.PART}, is_split=True),
}
