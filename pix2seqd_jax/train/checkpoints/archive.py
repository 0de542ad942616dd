"""Which steps a checkpoints folder holds, and which of them may be read.

A step is complete once its folder has a manifest (see manifest).
Nothing here writes.
"""

import contextlib
import json
import os
import pathlib
import time
import warnings
from collections.abc import Sequence
from typing import Any

from pix2seqd_jax.train.checkpoints import manifest

FOLDER = 'checkpoints'
FROZEN = 'frozen'
WEIGHTS = ('params', 'ema')
# What a working directory's own manifest is about.
TOLD = ('config.json', 'categories.json')
# In a step's meta: its folder is complete only with a manifest.
HAS_MANIFEST = 'sealed'


def checkpoint_dir(directory: str | os.PathLike) -> pathlib.Path:
  """A working directory, or its `checkpoints` -> the latter."""
  path = pathlib.Path(directory).absolute()
  return path / FOLDER if (path / FOLDER).is_dir() else path


def meta_of(step_dir: pathlib.Path) -> dict[str, Any] | None:
  """What a step's save noted of itself; None where that cannot be read."""
  try:
    text = (step_dir / 'meta' / 'metadata').read_text(encoding='utf-8')
    meta = json.loads(text)
  except (OSError, ValueError):
    return None
  return meta if isinstance(meta, dict) else None


def is_complete(step_dir: pathlib.Path) -> bool:
  """Whether a step has a manifest, or is of a version that wrote none.

  Orbax commits a step before its manifest is written; a run killed in between
  leaves a step that is not complete, and nobody may read it.
  """
  if manifest.exists(step_dir):
    return True
  meta = meta_of(step_dir)
  return meta is not None and HAS_MANIFEST not in meta


def folders_in(directory: str | os.PathLike) -> list[int]:
  """The steps that have a folder, complete or not, oldest first."""
  path = checkpoint_dir(directory)
  if not path.is_dir():
    return []
  return sorted(int(p.name) for p in path.iterdir() if p.name.isdigit())


def steps_in(directory: str | os.PathLike) -> list[int]:
  """The complete steps of a working or checkpoint directory, oldest first."""
  path = checkpoint_dir(directory)
  return [s for s in folders_in(path) if is_complete(path / str(s))]


def best_step_in(directory: str | os.PathLike) -> int | None:
  """The step with the best value of the metric that its run named last."""
  path, metas = checkpoint_dir(directory), {}
  for step in steps_in(path):
    folder = path / str(step)
    with contextlib.suppress(FileNotFoundError):  # removed meanwhile
      if manifest.exists(folder) and manifest.faults(folder, ('meta',)):
        continue
      metas[step] = meta_of(folder) or {}
  named = [meta for meta in metas.values() if meta.get('best_metric')]
  if not named:
    return None
  sign = -1 if named[-1].get('best_mode') == 'min' else 1
  values = {
    step: (meta.get('metrics') or {}).get(named[-1]['best_metric'])
    for step, meta in metas.items()
  }
  ranks = [
    (sign * value, step)
    for step, value in values.items()
    if value is not None and value == value
  ]
  return max(ranks)[1] if ranks else None


def damage(step_dir: pathlib.Path, items: Sequence[str] = ()) -> list[str]:
  """What is wrong with a complete step: a line a file, none if all is well.

  Args:
    step_dir: of the step. One without a manifest, of an earlier version,
      cannot be wrong.
    items: names of those that matter ('ema'); empty is all of it.
  """
  if not is_complete(step_dir):  # removed meanwhile
    return [f'{manifest.FILE}: missing']
  if not manifest.exists(step_dir):
    return []
  return manifest.faults(step_dir, items) or frozen_damage(step_dir)


def is_whole(directory: str | os.PathLike, step: int) -> bool:
  """Whether a step is there and its weights are as written."""
  try:
    return not damage(checkpoint_dir(directory) / str(step), WEIGHTS)
  except OSError:  # while it is being removed
    return False


def frozen_damage(step_dir: pathlib.Path) -> list[str]:
  """What is wrong with the frozen weights of a step whose manifest is
  good; none if it has none."""
  frozen = frozen_of(step_dir)
  if frozen is None:
    return []
  wrong = [f'{FROZEN}/{line}' for line in manifest.faults(frozen)]
  digest = manifest.read(step_dir).about.get(FROZEN)
  if not wrong and manifest.read(frozen).digest != digest:
    wrong = [f'{FROZEN}: of another run']
  return wrong


def frozen_of(step_dir: pathlib.Path) -> pathlib.Path | None:
  """Where the frozen weights of a complete step are, if it has any."""
  frozen = step_dir.parent.parent / FROZEN
  if manifest.exists(step_dir):
    has_frozen = manifest.read(step_dir).about.get(FROZEN) is not None
  else:
    has_frozen = frozen.is_dir()
  return frozen if has_frozen else None


def item_of(step_dir: pathlib.Path, ema: bool) -> str:
  """'ema' or 'params': what there is to load of a complete step."""
  names = ['ema/' if (step_dir / 'ema').is_dir() else '']
  if manifest.exists(step_dir):  # a folder that went missing is no choice
    with contextlib.suppress(manifest.Damaged):
      names = list(manifest.read(step_dir).files)
  return 'ema' if ema and any(n.startswith('ema/') for n in names) else 'params'


def choose(path: pathlib.Path, step: int | str | None, ema: bool) -> int:
  """The step to load, all of whose bytes that matter are as written."""
  steps = steps_in(path)
  chosen = best_step_in(path) if step == 'best' else step
  if step is None and steps:
    return newest_step(path)
  if chosen not in steps:
    raise ValueError(
      f'{path} has no checkpoint {"" if step is None else step!r}; the steps '
      f'there are {steps}'
      + (
        ', none of them with a metric; give a number.'
        if step == 'best'
        else '.'
      )
    )
  folder = path / str(chosen)
  wrong = damage(folder, (item_of(folder, ema),))
  if wrong:
    raise ValueError(
      f'checkpoint {chosen} of {path} is damaged ({manifest.describe(wrong)}); '
      f'name another step of {steps}, or bring its files back from a copy.'
    )
  warn_unverified(folder)
  return chosen


def newest_step(directory: str | os.PathLike) -> int:
  """The newest step whose weights, averaged or not, are as written.

  Each newer one is passed over with a warning.

  Raises:
    ValueError: there is none.
  """
  path, wrong = checkpoint_dir(directory), {}
  for step in steps_in(path)[::-1]:
    folder = path / str(step)
    wrong[step] = damage(folder, WEIGHTS)
    if not wrong[step]:
      warn_unverified(folder)
      return step
    warnings.warn(
      f'checkpoint {step} of {path} is damaged '
      f'({manifest.describe(wrong[step])}) and passed over.',
      stacklevel=2,
    )
  raise ValueError(
    f'{path} has no checkpoint'
    + (
      f' that is not damaged; of {sorted(wrong)} bring back from a copy: '
      f'{manifest.describe(wrong[max(wrong)])}.'
      if wrong
      else ''
    )
  )


def check_told(workdir: str | os.PathLike) -> None:
  """Refuses a config or categories that are not what the run wrote.

  Where the directory has no manifest of them, there is nothing to compare.

  Raises:
    ValueError: naming them.
  """
  workdir = pathlib.Path(workdir)
  for patience in (0.5, 0):
    if not manifest.exists(workdir):
      return
    wrong = manifest.faults(workdir, TOLD)
    if not wrong:
      return
    time.sleep(patience)  # a run that starts just now writes them
  raise ValueError(
    f'{workdir} is not as its run wrote it ({manifest.describe(wrong)}): a bad '
    'disk, or edited by hand. Bring it back from a copy; where the edit is '
    f'meant, remove {workdir / manifest.FILE}.'
  )


def warn_unverified(step_dir: pathlib.Path) -> None:
  """Says of a step of an earlier version that it cannot be verified."""
  if not manifest.exists(step_dir):
    warnings.warn(
      f'{step_dir} was written by a version without manifests: whether its '
      'bytes are as they were written cannot be checked.',
      stacklevel=3,
    )
