"""What happens to the folders of a run's checkpoints: kept, cleared.

Only one process of a run does this; none of it on the training thread, but
for the clearing before the run starts.

Orbax's preservation policies (LatestN, EveryNSteps, BestN, joined by
AnyPreservationPolicy) say the same as `surplus`, but its manager removes what
they give up right after it commits the new step, before that has a manifest: a
kill in between would leave a run with keep=1 without any step that may be
read. They also count damaged steps, and for BestN read the metrics of all.
"""

import os
import pathlib
import shutil
import warnings

from pix2seqd_jax.train.checkpoints import archive, manifest

# Orbax's name for what is not committed yet; ours for what is being removed,
# and for what is damaged.
_TMP, _DELETING, _DAMAGED = (
  '*.orbax-checkpoint-tmp*',
  '.deleting',
  'unreadable-',
)


def clear(directory: pathlib.Path) -> None:
  """Removes what a killed run left behind; says so in one line.

  That is: uncommitted and half removed folders, half written files, and steps
  that were committed and have no manifest. Such a step is the newest; where an
  older one has none, it was lost, and the step is quarantined. Frozen weights
  of a run that has no complete step are removed as well: the next may start
  from others.

  Args:
    directory: the run's `checkpoints` folder. No other process may be saving
      into it.
  """
  workdir = directory.parent
  left = [path for path in leftovers(directory) if not is_quarantined(path)]
  complete = archive.steps_in(directory)
  newest = complete[-1] if complete else -1
  for step in archive.folders_in(directory):
    folder = directory / str(step)
    if step in complete:
      continue
    if step > newest and archive.meta_of(folder) is not None:
      left.append(folder)
    else:
      quarantine(directory, step, [f'{manifest.FILE}: missing'])
  if not complete and (workdir / archive.FROZEN).exists():
    left.append(workdir / archive.FROZEN)
  for path in left:
    _remove(path)
  if left:
    names = ', '.join(str(path.relative_to(workdir)) for path in left)
    warnings.warn(
      f'{workdir}: removed what was not finished when a run ended: {names}.',
      stacklevel=2,
    )


def leftovers(directory: pathlib.Path) -> list[pathlib.Path]:
  """All that is in a run's folder and is no checkpoint: see `clear`."""
  workdir = directory.parent
  left = [*directory.glob(_TMP), *directory.glob(f'*{_DELETING}')]
  left += [*workdir.glob(f'{archive.FROZEN}{_TMP}'), *workdir.glob('*.part')]
  return sorted(left) + sorted(
    filter(is_quarantined, directory.glob(f'{_DAMAGED}*'))
  )


def is_quarantined(path: pathlib.Path) -> bool:
  """Whether this is a damaged step that was quarantined."""
  return path.name.removeprefix(_DAMAGED).isdigit() and not path.name.isdigit()


def _remove(path: pathlib.Path) -> None:
  """A folder by one rename first: a kill leaves no step in part."""
  if not path.is_dir():
    path.unlink()
    return
  shutil.rmtree(_renamed(path) if path.name.isdigit() else path)


def _renamed(path: pathlib.Path) -> pathlib.Path:
  gone = path.with_name(f'{path.name}{_DELETING}')
  os.rename(path, gone)
  return gone


def quarantine(directory: pathlib.Path, step: int, wrong: list[str]) -> None:
  """Renames a damaged step to `unreadable-<step>`, with a line.

  It stays until the run has come to that step again: much of it may be whole.
  """
  place = directory / f'{_DAMAGED}{step}'
  if place.exists():
    shutil.rmtree(place)
  os.rename(directory / str(step), place)
  warnings.warn(
    f'checkpoint {step} of {directory} is damaged '
    f'({manifest.describe(wrong)}) and quarantined as {place.name}.',
    stacklevel=3,
  )


def write_manifests(directory: pathlib.Path, step: int) -> None:
  """Writes the manifests of a committed step and of the frozen weights.

  A step's manifest names that of the frozen weights, which so belong to it.
  """
  frozen, digest = directory.parent / archive.FROZEN, None
  if frozen.is_dir():
    known = manifest.exists(frozen)
    digest = manifest.read(frozen).digest if known else manifest.write(frozen)
  about = {'step': step, archive.FROZEN: digest}
  manifest.write(directory / str(step), about)


def surplus(
  directory: pathlib.Path, keep: int, keep_every: int, best: bool
) -> list[int]:
  """The complete steps that no rule keeps, oldest first.

  Args:
    directory: the run's `checkpoints` folder.
    keep: how many of the newest stay.
    keep_every: multiples of it stay as well; 0 = none.
    best: whether the best by the run's metric stays.
  """
  steps = archive.steps_in(directory)
  kept = set(steps[-keep:])
  kept |= {s for s in steps if keep_every and s % keep_every == 0}
  if best:
    kept |= {archive.best_step_in(directory)}
  return sorted(set(steps) - kept)


def prune(
  directory: pathlib.Path, keep: int, keep_every: int, best: bool
) -> None:
  """Removes what is `surplus`, and steps quarantined that are passed again."""
  gone = [
    directory / str(s) for s in surplus(directory, keep, keep_every, best)
  ]
  for path in [_renamed(path) for path in gone]:  # who waits, for names alone
    shutil.rmtree(path)
  steps = archive.steps_in(directory)
  for path in filter(is_quarantined, list(directory.glob(f'{_DAMAGED}*'))):
    if steps and int(path.name.removeprefix(_DAMAGED)) <= steps[-1]:
      shutil.rmtree(path)
