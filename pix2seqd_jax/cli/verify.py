"""Whether the checkpoints of a run are, bit for bit, what was written.

  python -m pix2seqd_jax.cli.verify --workdir runs/shapes [--json]

Reads every file of every step and of the frozen weights, and compares it with
the manifest that the run wrote last of all. Nothing is changed. Exits with 1
where anything is not as it was written, or cannot be checked.
"""

import argparse
import json
import os
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

from pix2seqd_jax.train.checkpoints import archive, manifest, retention

# What a folder can be, beside 'ok'.
STATES = {
  'damaged': 'differs from what was written',
  'unfinished': 'its save was cut off (or is under way); the next start of '
  'the run removes it',
  'unverified': 'written by a version without manifests: cannot be checked',
  'quarantined': 'was damaged; goes when the run has come to that step again',
  'left over': 'an uncommitted save; the next start of the run removes it',
}


def verify(directory: str | os.PathLike) -> list[dict[str, Any]]:
  """The state of each folder of checkpoints, and of each file in it.

  Args:
    directory: a working directory, or the `checkpoints` folder in it.

  Returns:
    For each folder 'name', 'state' ('ok' or one of STATES), 'bytes' and
    'files', {path: 'ok' or what is wrong}; steps first, oldest first.

  Raises:
    ValueError: the directory has no checkpoints.
  """
  path = archive.checkpoint_dir(directory)
  folders = [path / str(step) for step in archive.folders_in(path)]
  if not folders:
    raise ValueError(
      f'{path} has no checkpoint; name the --workdir of a run, or the '
      'checkpoints folder in it.'
    )
  if (path.parent / archive.FROZEN).is_dir():
    folders.append(path.parent / archive.FROZEN)
  found = [_look(folder, path.parent) for folder in folders]
  if manifest.exists(path.parent):
    files = manifest.states(path.parent, archive.TOLD)
    found.append(_part('.', files, path.parent))
  for folder in retention.leftovers(path):
    damaged = retention.is_quarantined(folder)
    name = str(folder.relative_to(path.parent))
    state = 'quarantined' if damaged else 'left over'
    found.append({'name': name, 'state': state, 'bytes': 0, 'files': {}})
  return found


def _look(folder: pathlib.Path, workdir: pathlib.Path) -> dict[str, Any]:
  """One folder; a step also stands and falls with the frozen weights."""
  is_step = folder.name != archive.FROZEN
  if manifest.exists(folder):
    files = manifest.states(folder)
    if set(files.values()) == {'ok'} and is_step:
      wrong = archive.frozen_damage(folder)
      files |= dict(line.rsplit(': ', 1) for line in wrong)
    return _part(str(folder.relative_to(workdir)), files, folder)
  if is_step and not archive.is_complete(folder):
    state = 'unfinished'
  else:
    state = 'unverified'
  files = dict.fromkeys(manifest.files_in(folder), state)
  return _part(str(folder.relative_to(workdir)), files, folder, state)


def _part(name, files, folder, state='damaged') -> dict[str, Any]:
  """What there is to say of a folder whose files are in these states."""
  there = [folder / k for k in files if (folder / k).is_file()]
  return {
    'name': name,
    'state': 'ok' if set(files.values()) == {'ok'} else state,
    'bytes': sum(path.stat().st_size for path in there),
    'files': files,
  }


def lines(found: Sequence[dict[str, Any]]) -> list[str]:
  """A line for each folder, and one for each file that is not as written."""
  text = []
  for part in found:
    state = part['state']
    head = f'{part["name"]}: {state}'
    if state == 'ok':
      size = part['bytes'] / 2**20
      text.append(f'{head} ({len(part["files"])} files, {size:.1f} MiB)')
      continue
    text.append(f'{head}, {STATES[state]}')
    wrong = {k: v for k, v in part['files'].items() if v not in ('ok', state)}
    text += [f'  {name}: {what}' for name, what in wrong.items()]
  bad = sum(part['state'] != 'ok' for part in found)
  text.append(f'{len(found)} folders, {bad} of them not as written.')
  return text


def main(argv: Sequence[str] | None = None) -> int:
  """The command; returns its exit code."""
  parser = argparse.ArgumentParser(
    prog='python -m pix2seqd_jax.cli.verify',
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  parser.add_argument('--workdir', required=True, help='the folder of the run')
  parser.add_argument('--json', action='store_true', help='for programs')
  args = parser.parse_args(argv)
  try:
    found = verify(args.workdir)
  except ValueError as error:
    print(f'ValueError: {error}', file=sys.stderr)
    return 2
  ok = all(part['state'] == 'ok' for part in found)
  if args.json:
    print(json.dumps({'ok': ok, 'folders': found}, indent=1))
  else:
    print('\n'.join(lines(found)))
  return int(not ok)


if __name__ == '__main__':
  sys.exit(main())
