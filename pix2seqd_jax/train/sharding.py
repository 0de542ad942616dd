"""Where arrays live: the mesh, rules from paths to shardings, batches.

Sharding is data (design.md, section 3): no model names a mesh axis. A rule is
(regex, spec); the regex is searched in the '/'-joined path of a leaf, and the
first rule that matches wins. The paths of optimizer state and EMA end with the
path of their parameter, so one set of rules shards a whole train state.
"""

import math
import re
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from pix2seqd_jax import types

AXES = (('data', -1), ('fsdp', 1), ('tensor', 1))
BATCH_AXES = ('data', 'fsdp')
Rules = Sequence[tuple[str, Any]]


def path_of(key_path) -> str:
  """('net', 0, 'kernel') -> 'net/0/kernel', for any kind of tree key."""
  return jax.tree_util.keystr(key_path, simple=True, separator='/')


def map_paths(fn, tree: types.PyTree, *rest: types.PyTree) -> types.PyTree:
  """jax.tree.map whose function gets the '/'-joined path first."""
  return jax.tree_util.tree_map_with_path(
    lambda p, *leaves: fn(path_of(p), *leaves), tree, *rest
  )


def flat_paths(tree: types.PyTree) -> dict[str, Any]:
  """{'a/b/kernel': leaf} for every leaf."""
  leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
  return {path_of(p): leaf for p, leaf in leaves}


def check_axes(axes: Sequence[tuple[str, int]]) -> tuple[tuple[str, int], ...]:
  """The axes of a mesh, or ValueError: all that needs no devices."""
  axes = tuple((str(name), int(size)) for name, size in axes)
  names = tuple(name for name, _ in axes)
  sizes = [size for _, size in axes]
  if len(set(names)) != len(names) or not set(BATCH_AXES) <= set(names):
    raise ValueError(
      f'mesh={axes} must name each axis once, with {BATCH_AXES} among them; '
      f'start from {AXES}.'
    )
  if sizes.count(-1) > 1 or any(s < 1 and s != -1 for s in sizes):
    raise ValueError(
      f'mesh={axes}: sizes are at least 1, and at most one of them is -1 '
      '(all remaining devices); set the others to numbers.'
    )
  return axes


def check_rules(rules: 'Rules') -> None:
  """Raises ValueError for a rule that is no (regex, spec)."""
  for pattern, spec in rules:
    try:
      re.compile(pattern)
    except re.error as error:
      raise ValueError(
        f'shard_rules: {pattern!r} is no regular expression: {error}.'
      ) from error
    parts = spec if isinstance(spec, tuple | list) else (spec,)
    if not all(part is None or isinstance(part, str) for part in _flat(parts)):
      raise ValueError(
        f'shard_rules: {pattern!r} -> {spec!r} must be the name of a mesh '
        'axis, or a tuple of names and None, one a dimension.'
      )


def _flat(parts):
  for part in parts:
    yield from part if isinstance(part, tuple | list) else (part,)


def make_mesh(
  axes: Sequence[tuple[str, int]] = AXES, devices: Sequence | None = None
) -> Mesh:
  """A mesh of named axes; the size -1 (once at most) takes what is left.

  Every axis is of type Auto: the compiler propagates shardings. jax's default
  for make_mesh became Explicit in 0.9, hence the argument is always passed.

  Raises:
    ValueError: when two sizes are -1, a name repeats or is missing among
      'data' and 'fsdp', or the sizes do not multiply to the device count.
  """
  axes = check_axes(axes)
  devices = list(jax.devices() if devices is None else devices)
  names = tuple(name for name, _ in axes)
  sizes = [size for _, size in axes]
  known = math.prod(s for s in sizes if s != -1)
  if len(devices) % known or (-1 not in sizes and known != len(devices)):
    raise ValueError(
      f'mesh={axes} needs a multiple of {known} devices, exactly that many '
      f'without a -1, but there are {len(devices)}; change the sizes, or set '
      "('data', -1)."
    )
  sizes = [len(devices) // known if s == -1 else s for s in sizes]
  grid = np.asarray(devices, dtype=object).reshape(sizes)
  return Mesh(grid, names, axis_types=(AxisType.Auto,) * len(names))


def replicated(mesh: Mesh) -> NamedSharding:
  """Every device holds the whole array."""
  return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
  """The leading dimension is split over ('data', 'fsdp')."""
  return NamedSharding(mesh, PartitionSpec(BATCH_AXES))


def _size(mesh: Mesh, entry) -> int:
  names = (entry,) if isinstance(entry, str) else tuple(entry or ())
  return math.prod(mesh.shape[name] for name in names)


def _check_axes(mesh: Mesh, pattern: str, spec) -> None:
  entries = (spec,) if isinstance(spec, str) else spec
  for entry in entries:
    for name in (entry,) if isinstance(entry, str) else tuple(entry or ()):
      if name not in mesh.shape:
        raise ValueError(
          f'shard_rules: {pattern!r} -> {spec!r} names the axis {name!r}, '
          f'which is not in the mesh; use one of {tuple(mesh.shape)}.'
        )


def _automatic(shape: tuple[int, ...], axis: str, mesh: Mesh) -> PartitionSpec:
  """The largest dimension that the axis divides (the last of equals)."""
  size = mesh.shape[axis]
  fitting = [(n, i) for i, n in enumerate(shape) if n and n % size == 0]
  if len(shape) < 2 or not fitting:
    return PartitionSpec()
  _, chosen = max(fitting)
  return PartitionSpec(
    *(axis if i == chosen else None for i in range(len(shape)))
  )


def spec_for(
  path: str, shape: tuple[int, ...], mesh: Mesh, rules: Rules
) -> PartitionSpec:
  """The partition of one array; see `shardings`."""
  for pattern, spec in rules:
    if not re.search(pattern, path):
      continue
    _check_axes(mesh, pattern, spec)
    if isinstance(spec, str):
      return _automatic(shape, spec, mesh)
    if len(spec) > len(shape) or any(
      n % _size(mesh, entry) for n, entry in zip(shape, spec)
    ):
      raise ValueError(
        f'shard_rules: {pattern!r} -> {spec!r} does not fit {path!r} of shape '
        f'{tuple(shape)} on the mesh {dict(mesh.shape)}: each named axis must '
        'divide its dimension; narrow the regex, or give one axis name as a '
        "string ('fsdp') to shard what divides and replicate the rest."
      )
    return PartitionSpec(
      *(tuple(e) if isinstance(e, list) else e for e in spec)
    )
  return PartitionSpec()


def shardings(
  abstract_tree: types.PyTree, mesh: Mesh, rules: Rules = ()
) -> types.PyTree:
  """A NamedSharding for each leaf; replicated where no rule matches.

  A spec is either
    * a tuple with an entry (an axis name, several of them, or None) for each
      leading dimension: exact, and an error where an axis does not divide; or
    * one axis name as a string: of an array with two dimensions or more, the
      largest that the axis divides is split (the last of equals); scalars,
      vectors and arrays that nothing divides are replicated.
  """
  return map_paths(
    lambda path, leaf: NamedSharding(
      mesh, spec_for(path, tuple(leaf.shape), mesh, rules)
    ),
    abstract_tree,
  )


def check_batch(
  batch_size: int,
  mesh: Mesh,
  processes: int | None = None,
  name: str = 'data.batch_size',
  pieces: int = 1,
):
  """Raises ValueError unless the mesh divides the global batch.

  Args:
    batch_size: of all processes together.
    mesh: its data and fsdp axes split the batch.
    processes: by default those of this run.
    name: of the key, for the message.
    pieces: optimizer.accumulate.
  """
  processes = jax.process_count() if processes is None else processes
  shards = _size(mesh, BATCH_AXES)
  if shards % processes:
    raise ValueError(
      f'mesh {dict(mesh.shape)}: data * fsdp = {shards} shards of the batch '
      f'cannot be dealt to {processes} processes; make it a multiple of them.'
    )
  if batch_size % (shards * pieces) or not batch_size:
    parts = f', each in optimizer.accumulate={pieces} parts' * (pieces > 1)
    raise ValueError(
      f'{name}={batch_size} is not divided by the mesh: data * fsdp = {shards} '
      f'shards over {processes} process(es){parts}; use a multiple of '
      f'{shards * pieces}, or a smaller mesh.'
    )


def _narrow(path: str, x) -> np.ndarray:
  """64-bit numbers -> 32-bit ones, refusing what would wrap around."""
  if isinstance(x, jax.ShapeDtypeStruct):
    return x
  x = np.asarray(x)
  if x.dtype == np.float64:
    return x.astype(np.float32)
  if x.dtype in (np.int64, np.uint64):
    info = np.iinfo(np.int32)
    if x.size and (x.min() < info.min or x.max() > info.max):
      raise ValueError(
        f'batch[{path!r}] holds {int(x.min())}..{int(x.max())}, which does not '
        'fit int32, the widest integer on the device (x64 is off); number the '
        'examples from 0.'
      )
    return x.astype(np.int32)
  return x


def _dtype(x) -> np.dtype:
  return np.dtype(x.dtype) if hasattr(x, 'dtype') else np.asarray(x).dtype


def device_part(batch: types.Batch) -> dict[str, Any]:
  """The part of a host batch that a device can hold, narrowed to 32 bits.

  Drops `types.HOST_KEYS` and whatever is not numeric (names of files). int64
  becomes int32, the same for all values so that nothing is compiled twice.
  """
  kept = {}
  for key, value in batch.items():
    if key in types.HOST_KEYS or value is None:
      continue
    leaves = jax.tree.leaves(value)
    if any(_dtype(x).kind not in 'biufV' for x in leaves):
      continue
    kept[key] = map_paths(lambda p, x, k=key: _narrow(f'{k}/{p}', x), value)
  return kept


def put_batch(batch: types.Batch, mesh: Mesh) -> dict[str, jax.Array]:
  """This process's part of a batch -> global arrays, split over the mesh.

  Raises:
    ValueError: when the mesh does not divide the global batch.
  """
  kept = device_part(batch)
  where = batch_sharding(mesh)
  for x in jax.tree.leaves(kept)[:1]:
    check_batch(x.shape[0] * jax.process_count(), mesh)
  return jax.tree.map(
    lambda x: jax.make_array_from_process_local_data(where, x), kept
  )
