"""Weights out of checkpoints: for inference, and to start another run from."""

import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from pix2seqd_jax import types
from pix2seqd_jax.train import sharding, state
from pix2seqd_jax.train.checkpoints import archive, manifest

RULES = ('exact', 'grow', 'partial')


# What is written stays in memory until a file is full; Orbax' own are 2 GB.
_FILE_SIZE = 64 * 2**20


def _read(path: pathlib.Path) -> dict[str, Any]:
  """A saved tree of any devices as NumPy arrays, without knowing the tree."""
  import orbax.checkpoint as ocp
  from etils import epath

  handler = ocp.PyTreeCheckpointHandler()
  tree = handler.metadata(epath.Path(path)).tree
  args = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
  return handler.restore(
    epath.Path(path), args=ocp.args.PyTreeRestore(restore_args=args)
  )


def load_params(
  directory: str | os.PathLike,
  step: int | str | None = None,
  ema: bool = True,
) -> dict[str, Any]:
  """{'net', 'stats', 'frozen'} of a checkpoint as NumPy arrays on the host.

  Needs neither the model nor the devices it was trained on. Every file that is
  read has the digest it was written with.

  Args:
    directory: a working directory, or the `checkpoints` folder in it.
    step: None for the newest that is not damaged (each one passed over is
      warned of), 'best' for the best by the run's metric.
    ema: the averaged weights where there are any.

  Raises:
    ValueError: where there is no such checkpoint, or it is damaged.
  """
  path = archive.checkpoint_dir(directory)
  chosen = archive.choose(path, step, ema)
  item = path / str(chosen)
  params = _read(item / archive.item_of(item, ema))
  frozen = archive.frozen_of(item)
  found = {} if frozen is None else _read(frozen)
  return state.collections({**params, 'frozen': found})


class _Uncopied(np.ndarray):
  """Orbax copies NumPy arrays, which may change while it writes: not ours."""

  def __deepcopy__(self, memo):
    return self


def _uncopied(leaf: Any) -> Any:
  return leaf.view(_Uncopied) if isinstance(leaf, np.ndarray) else leaf


def save_params(
  directory: str | os.PathLike,
  step: int,
  params: types.Params,
  ema: types.Params | None = None,
) -> pathlib.Path:
  """Writes weights as a checkpoint that `load_params` and `init_from` read.

  With config.json and categories.json beside it, `directory` is one for
  `Pipeline.from_pretrained`. There is no optimizer state in it: a run starts
  from it by config.init_from, and cannot go on from it.

  Args:
    directory: a working directory, made if it does not exist.
    step: under which number; 0 or more.
    params: {'net', 'stats', 'frozen'}, arrays of any devices; the last two
      may be missing.
    ema: {'net', 'stats'}, the averaged weights, if there are any.

  Returns:
    The folder of the step.

  Raises:
    ValueError: the folder has this step, or frozen weights, already.
  """
  import orbax.checkpoint as ocp

  path = pathlib.Path(directory).absolute() / archive.FOLDER
  params = state.collections(params)
  frozen = params.pop('frozen')
  where = path / str(step)
  taken = [where] if where.exists() else []
  if jax.tree.leaves(frozen) and (path.parent / archive.FROZEN).exists():
    taken.append(path.parent / archive.FROZEN)
  if taken or step < 0:
    raise ValueError(
      f'step={step}: {" and ".join(map(str, taken))} exist already; name '
      'another directory.'
      if taken
      else f'step={step} must be at least 0.'
    )
  path.mkdir(parents=True, exist_ok=True)
  digest = None
  if jax.tree.leaves(frozen):
    with ocp.StandardCheckpointer() as checkpointer:
      checkpointer.save(path.parent / archive.FROZEN, frozen)
    digest = manifest.write(path.parent / archive.FROZEN)
  items = {'params': params} if ema is None else {'params': params, 'ema': ema}
  args = {
    k: ocp.args.PyTreeSave(
      jax.tree.map(_uncopied, dict(v)), ocdbt_target_data_file_size=_FILE_SIZE
    )
    for k, v in items.items()
  }
  with ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as checkpointer:
    meta = ocp.args.JsonSave({archive.HAS_MANIFEST: True})
    checkpointer.save(where, ocp.args.Composite(meta=meta, **args))
  manifest.write(where, {'step': step, archive.FROZEN: digest})
  return where


def _select(flat: Mapping[str, Any], prefix: str) -> dict[str, Any]:
  """{path below the prefix: leaf}."""
  if not prefix:
    return dict(flat)
  cut = prefix.rstrip('/') + '/'
  return {k[len(cut) :]: v for k, v in flat.items() if k.startswith(cut)}


def _pairs(source: str, target: str) -> list[tuple[str, str]]:
  """Prefixes within whole params: 'encoder' means net/ and stats/ of it."""
  source, target = source.rstrip('/'), target.rstrip('/')
  named = [p.split('/')[0] in state.COLLECTIONS for p in (source, target)]
  if named[0] != named[1]:
    raise ValueError(
      f'init_from: {source!r} -> {target!r}: either both prefixes begin with '
      f'one of {state.COLLECTIONS}, or neither does.'
    )
  if named[0]:
    return [(source, target)]
  return [
    (f'{c}/{source}'.rstrip('/'), f'{c}/{target}'.rstrip('/'))
    for c in state.AVERAGED
  ]


def _grown(path: str, value: np.ndarray, shape: tuple[int, ...]):
  """A kernel [..., in, out] with zero rows for new inputs, or None."""
  old = value.shape
  if path.split('/')[-1] != 'kernel' or len(old) != len(shape) or len(old) < 2:
    return None
  if old[:-2] != shape[:-2] or old[-1] != shape[-1] or old[-2] > shape[-2]:
    return None
  widths = [(0, 0)] * len(old)
  widths[-2] = (0, shape[-2] - old[-2])
  return np.pad(value, widths)


def _fitted(rule: str, path: str, value: Any, like: Any):
  """The value for a target leaf, or None where it does not fit."""
  value = np.asarray(value)
  if value.shape != tuple(like.shape):
    if rule == 'exact':
      return None
    value = _grown(path, value, tuple(like.shape))
  return None if value is None else value.astype(like.dtype)


def _list(title: str, names: Sequence[str]) -> str:
  shown = ''.join(f'\n  {title}: {name}' for name in list(names)[:20])
  more = len(names) - 20
  return shown + (f'\n  {title}: and {more} more' if more > 0 else '')


def _copy_part(flat, loaded, entry, pair) -> tuple[dict[str, Any], list[str]]:
  """New leaves for one pair of prefixes, and lines for the report."""
  directory, _, _, rule = entry
  expected, given = _select(flat, pair[1]), _select(loaded, pair[0])
  missing = sorted(set(expected) - set(given))
  extra = sorted(set(given) - set(expected))
  new, wrong, lines = {}, [], []
  if rule == 'partial':
    lines, missing = [f'  new: {pair[1]}/{name}' for name in missing], []
  for name in sorted(set(expected) & set(given)):
    path = f'{pair[1]}/{name}' if pair[1] else name
    old, like = np.shape(given[name]), tuple(expected[name].shape)
    value = _fitted(rule, name, given[name], expected[name])
    if value is None:
      wrong.append(f'{path}: {like} here, {old} there')
    else:
      new[path] = value
      lines += [f'  grown: {path}: {old} -> {like}'] if old != like else []
  if missing or extra or wrong:
    raise ValueError(
      f'init_from: {directory} {pair[0]!r} -> {pair[1]!r} by {rule!r} does not '
      'fit; use the architecture of that run, other prefixes, or the rule '
      "'grow' for kernels with more inputs here, 'partial' for new parts here."
      + _list('missing there', missing)
      + _list('extra there', extra)
      + _list('misshapen', wrong)
    )
  return new, lines


def check_entries(entries: Sequence[tuple[str, str, str, str]]) -> None:
  """Raises ValueError for an entry of `init_from` that cannot be right."""
  for entry in entries:
    if len(entry) != 4 or entry[3] not in RULES:
      raise ValueError(
        f'init_from: {entry!r} must be (directory, source prefix, target '
        f'prefix, rule) with a rule of {RULES}.'
      )
    if not archive.steps_in(entry[0]):
      raise ValueError(
        f'init_from: {entry[0]} has no checkpoint; name the workdir of a run.'
      )


def init_from(
  params: types.Params,
  entries: Sequence[tuple[str, str, str, str]],
  step: int | str | None = None,
) -> tuple[types.Params, str]:
  """Copies parts of other runs' (averaged) weights into parameters.

  An entry is (directory, source prefix, target prefix, rule). A prefix is a
  path like 'encoder', meaning net/encoder and stats/encoder, or names its
  collection ('net/encoder', 'frozen/autoencoder'); '' is all but what is
  frozen, which 'frozen' names. Rules:
    * 'exact': the same names and shapes on both sides;
    * 'grow': the same names; a kernel with more input channels here gets zero
      rows at the end, so that it starts as the function it was (conv_in when
      past masks join the input: 272 -> 304 channels);
    * 'partial': as 'grow', and what only this run has stays as initialised
      (cross-attention on top of a decoder pretrained without images).

  Args:
    params: of this run, arrays or shapes; leaves that nothing names stay.
    entries: applied in order.
    step: of the checkpoints; None = newest, or 'best'.

  Returns:
    (params with NumPy arrays where something was copied, a printable report).

  Raises:
    ValueError: listing all missing, extra and misshapen names.
  """
  flat = sharding.flat_paths(params)
  report = []
  for entry in entries:
    check_entries([entry])
    directory, source, target, rule = entry
    loaded = sharding.flat_paths(load_params(directory, step))
    copied: dict[str, Any] = {}
    lines: list[str] = []
    for pair in _pairs(source, target):
      new, more = _copy_part(flat, loaded, entry, pair)
      copied.update(new)
      lines += more
    if not copied:
      raise ValueError(
        f'init_from: no weight of {directory} is named {source!r}, or none '
        f'here {target!r}; the names there look like {sorted(loaded)[:3]}.'
      )
    flat.update(copied)
    size = sum(int(np.size(v)) for v in copied.values())
    report.append(
      f'{directory}: {source or "all"!r} -> {target or "all"!r} ({rule}): '
      f'{len(copied)} arrays, {size:,} numbers'
    )
    report += lines
  return sharding.map_paths(lambda path, _: flat[path], params), '\n'.join(
    report
  )
