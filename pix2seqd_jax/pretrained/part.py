"""What a converter of PyTorch weights says of one network; all else is here.

A network of ours has the original's names, mechanically: a number joins the
word before it by an underscore and dots become levels, so that
`up_blocks.0.resnets.1.conv1.weight` is `up_blocks_0/resnets_1/conv1/kernel`.
Layers that are alike are stacked: `encoder.layers.3.mlp.fc1.weight` is
`encoder/layers/mlp/fc1/kernel`[3]. What remains to be told is told by a Part.
"""

import functools
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import numpy as np
from flax import traverse_util

from pix2seqd_jax.pretrained.mapping import CONV, LINEAR, SAME, Plan, Row
from pix2seqd_jax.pretrained.mapping import to_theirs as as_theirs

_LEAVES = {
  'kernel': 'weight',
  'scale': 'weight',
  'embedding': 'weight',
  'mean': 'running_mean',
  'var': 'running_var',
}
_NUMBERED = re.compile(r'(.+)_(\d+)')
# What wrapping a module (for several devices, by torch.compile) puts first.
_WRAPPERS = ('module.', '_orig_mod.')


class Part(NamedTuple):
  """One network and its spellings.

  Attributes:
    module: ({canonical name: their shape}, their config.json or None) -> our
      module; takes from the shapes what they show, a config goes before, the
      standard network comes last. A name may be missing: that is told later.
    shapes: module -> {'params': ..., 'batch_stats': ...} of anything with a
      shape (jax.eval_shape of its init).
    canonical: all names of a file (without wrappers) -> {name: the newest
      spelling, or None for what is passed over by rule}. Unknown names come
      back as they are, to be refused by name. See `each`.
    mark: a canonical name that tells this network from others.
    prefix: with which all canonical names begin, and our paths do not.
    stacks: modules, named without the prefix, whose numbered children are one
      stack of ours: 'encoder.layers'.
    literal: regexes of components like `linear_1`, whose number is a part of
      the original's word.
    convs: module -> a regex of canonical names of weights that are 1x1
      convolutions in theirs and matrices in ours, or None. Only for the way
      back; on the way in either is taken.
    config: module -> their config.json, for the way back; None: they have none.
    file: what they call the file of weights.
    spellings: canonical name -> the names that a file of theirs has for it,
      for the way back.
  """

  module: Callable[
    [Mapping[str, tuple[int, ...]], Mapping[str, Any] | None], nn.Module
  ]
  shapes: Callable[[nn.Module], Mapping[str, Any]]
  canonical: Callable[[Collection[str]], Mapping[str, str | None]]
  mark: str
  prefix: str = ''
  stacks: tuple[str, ...] = ()
  literal: tuple[str, ...] = ()
  convs: Callable[[nn.Module], str | None] = lambda module: None
  config: Callable[[nn.Module], Mapping[str, Any]] | None = None
  file: str = 'model.safetensors'
  spellings: Callable[[str], tuple[str, ...]] = lambda name: (name,)


def each(
  function: Callable[[str], str | None],
) -> Callable[[Collection[str]], dict[str, str | None]]:
  """A Part's `canonical` from a function of one name."""
  return lambda names: {name: function(name) for name in names}


class Entry(NamedTuple):
  """One of their arrays as our module expects it."""

  name: str  # canonical
  shape: tuple[int, ...]  # theirs
  row: Row


def entries(part: Part, module: nn.Module) -> tuple[Entry, ...]:
  """Every array of theirs that makes up our module, in our order."""
  found = []
  convs = re.compile(part.convs(module) or '(?!)')
  flat = traverse_util.flatten_dict(dict(part.shapes(module)))
  for path, leaf in sorted(flat.items()):
    names, is_stack = _names(part, path, leaf.shape)
    shape = tuple(leaf.shape[1:] if is_stack else leaf.shape)
    layout, theirs = _layout(path[-1], shape)
    for i, name in enumerate(names):
      if layout == LINEAR and convs.fullmatch(name):
        theirs = (*theirs[:2], 1, 1)
      row = Row(name, path, shape, i if is_stack else None, layout)
      found.append(Entry(name, theirs, row))
  return tuple(found)


def shapes_of(
  part: Part, variables: Mapping[str, Any]
) -> dict[str, tuple[int, ...]]:
  """{canonical name: their shape} of variables of ours, without a module."""
  found = {}
  for path, leaf in traverse_util.flatten_dict(dict(variables)).items():
    names, is_stack = _names(part, path, leaf.shape)
    shape = tuple(leaf.shape[1:] if is_stack else leaf.shape)
    found |= dict.fromkeys(names, _layout(path[-1], shape)[1])
  return found


def _names(part, path, shape) -> tuple[list[str], bool]:
  """The canonical names of one of our leaves, and whether it is a stack."""
  words = [_word(part, word) for word in path[1:-1]]
  leaf = _LEAVES.get(path[-1], path[-1])
  for i in range(1, len(words) + 1):
    if '.'.join(words[:i]) in part.stacks:
      head, tail = words[:i], words[i:]
      return [
        part.prefix + '.'.join([*head, str(n), *tail, leaf])
        for n in range(shape[0])
      ], True
  return [part.prefix + '.'.join([*words, leaf])], False


def _word(part, word) -> str:
  match = _NUMBERED.fullmatch(word)
  if match is None or any(re.fullmatch(p, word) for p in part.literal):
    return word
  return f'{match[1]}.{match[2]}'


def _layout(leaf, shape) -> tuple[str, tuple[int, ...]]:
  if leaf == 'kernel' and len(shape) == 2:
    return LINEAR, shape[::-1]
  if leaf == 'kernel' and len(shape) == 4:
    return CONV, (shape[3], shape[2], shape[0], shape[1])
  return SAME, shape


def spell(part: Part, names: Collection[str]) -> dict[str, str | None]:
  """{name in a file: its canonical name, or None if it is passed over}."""
  bare = {name: unwrapped(name) for name in names}
  known = part.canonical(tuple(bare.values()))
  return {name: known[bare[name]] for name in names}


def unwrapped(name: str) -> str:
  while name.startswith(_WRAPPERS):
    name = name.removeprefix(_WRAPPERS[0]).removeprefix(_WRAPPERS[1])
  return name


def plan(
  part: Part,
  tensors: Mapping[str, Any],
  config: Mapping[str, Any] | None = None,
  module: nn.Module | None = None,
) -> tuple[nn.Module, Plan]:
  """Which of their arrays becomes which of ours; reads no value.

  Args:
    part: the network.
    tensors: {name in any spelling: anything with a shape}.
    config: their config.json, if there is one.
    module: ours, where it is known; else one is made for these shapes.

  Returns:
    (the module, the plan of all its arrays).

  Raises:
    ValueError: lists every missing, extra, double and misshapen name.
  """
  spelled = spell(part, tensors)
  theirs: dict[str, str] = {}
  problems = []
  for name, canonical in spelled.items():
    if canonical in theirs:
      problems.append(f'double: {theirs[canonical]} and {name}')
    elif canonical is not None:
      theirs[canonical] = name
  if module is None:
    shapes = {n: tuple(tensors[raw].shape) for n, raw in theirs.items()}
    module = part.module(shapes, config)
  rows = []
  for entry in entries(part, module):
    raw = theirs.pop(entry.name, None)
    if raw is None:
      problems.append(f'missing: {entry.name} {entry.shape}')
    elif not _fits(entry, tuple(tensors[raw].shape)):
      problems.append(
        f'misshapen: {raw} is {tuple(tensors[raw].shape)}, the model has '
        f'{entry.shape}'
      )
    else:
      rows.append(entry.row._replace(theirs=raw))
  problems += [f'extra: {raw}' for raw in theirs.values()]
  if problems:
    raise ValueError(
      f'{len(problems)} names do not fit {type(module).__name__}; check that '
      'the file holds this network and, if its sizes are not the standard '
      'ones, that its config.json lies beside it:\n  '
      + '\n  '.join(sorted(problems))
    )
  passed = sum(canonical is None for canonical in spelled.values())
  what = {'names that are no weights, or copies': passed} if passed else {}
  return module, Plan(tuple(rows), what)


def _fits(entry: Entry, shape: tuple[int, ...]) -> bool:
  if entry.row.layout == LINEAR and shape[2:] in ((1,), (1, 1)):
    shape = shape[:2]
    return shape == entry.shape[:2]
  if entry.row.layout == LINEAR:
    return shape == entry.shape[:2]
  return shape == entry.shape


def to_theirs(
  part: Part, module: nn.Module, variables: Mapping[str, Any]
) -> Iterator[tuple[Entry, np.dtype, Callable[[], np.ndarray]]]:
  """Our arrays under their names: (entry, type, a function that makes it).

  Args:
    part: the network.
    module: ours.
    variables: {'params': ..., 'batch_stats': ...} of arrays.

  Raises:
    ValueError: the variables are not the module's, name by name.
  """
  flat = traverse_util.flatten_dict(dict(variables))
  expected = entries(part, module)
  paths = {entry.row.path for entry in expected}
  problems = [f'missing: {"/".join(p)}' for p in paths - flat.keys()]
  problems += [f'extra: {"/".join(p)}' for p in flat.keys() - paths]
  for entry in expected:
    value = flat.get(entry.row.path)
    if value is not None and _shape(value, entry.row) != entry.row.shape:
      problems.append(f'misshapen: {"/".join(entry.row.path)} {value.shape}')
  if problems:
    raise ValueError(
      f'{len(problems)} arrays are not those of {type(module).__name__}:\n  '
      + '\n  '.join(sorted(set(problems)))
    )

  def make(entry):
    value = flat[entry.row.path]
    value = value if entry.row.index is None else value[entry.row.index]
    return as_theirs(np.asarray(value), entry.row.layout, entry.shape)

  for entry in expected:
    dtype = np.dtype(flat[entry.row.path].dtype)
    value = functools.partial(make, entry)
    for name in part.spellings(entry.name):
      yield entry._replace(name=name), dtype, value


def _shape(value, row) -> tuple[int, ...]:
  return tuple(value.shape[0 if row.index is None else 1 :])
