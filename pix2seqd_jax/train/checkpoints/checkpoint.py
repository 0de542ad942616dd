"""Checkpoints of a run: saved in the background, read only as written.

Layout, inside a working directory: `checkpoints/<step>/{params, ema,
optimizer, meta}` by Orbax, and `frozen/` with the weights that never change,
written once. `params` and `ema` are plain dicts, so weights can be loaded
without knowing what made them. The position in the data is the step.

A save is done when the step has its manifest: Orbax commits its folder, then a
thread hashes every file of it and writes the manifest (see manifest), and only
then older steps are removed. A run killed in between goes on from the step
before. With several processes the first one writes it, removes, and verifies
before all restore the step that it found good; the folder must be one that all
see.
"""

import concurrent.futures
import os
import pathlib
import time
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from pix2seqd_jax import types
from pix2seqd_jax.train.checkpoints import archive, manifest, retention
from pix2seqd_jax.train.state import TrainState

# For another process to write a manifest: its files are hashed meanwhile.
_PATIENCE = 600.0  # seconds


def _items(state: TrainState) -> dict[str, Any]:
  """What is saved of a state, by item."""
  params = {k: v for k, v in state.params.items() if k != 'frozen'}
  items = {
    'params': params,
    'optimizer': {'step': state.step, 'opt_state': state.opt_state},
  }
  if state.ema is not None:
    items['ema'] = dict(state.ema)
  return items


def _state(items: Mapping[str, Any], frozen: types.PyTree) -> TrainState:
  return TrainState(
    step=items['optimizer']['step'],
    params={**items['params'], 'frozen': frozen},
    ema=items.get('ema'),
    opt_state=items['optimizer']['opt_state'],
  )


def _barrier(name: str) -> None:
  """Until all processes have come here."""
  if jax.process_count() > 1:
    from jax.experimental import multihost_utils

    multihost_utils.sync_global_devices(name)


def _quiet() -> None:
  """Orbax reports every save at INFO through absl; keep warnings."""
  from absl import logging

  if logging.get_verbosity() > logging.WARNING:
    logging.set_verbosity(logging.WARNING)


class Checkpointer:
  """Saves in the background; keeps the newest, the best and every so many.

  Opening one removes what a killed run left in the folder.

  Args:
    directory: the run's `checkpoints` folder; `frozen` is put beside it.
    keep: how many of the newest stay.
    best_metric: name of a metric whose best checkpoint stays as well.
    best_mode: 'max' or 'min'.
    keep_every: steps that are multiples of it stay as well; 0 = none.

  Raises:
    ValueError: on a bad `keep`, `keep_every` or `best_mode`.
  """

  def __init__(
    self,
    directory: str | os.PathLike,
    keep: int = 3,
    best_metric: str | None = None,
    best_mode: str = 'max',
    keep_every: int = 0,
  ):
    if keep < 1 or keep_every < 0 or best_mode not in ('max', 'min'):
      raise ValueError(
        f'train.keep={keep} must be at least 1, train.keep_every={keep_every} '
        f"at least 0, and best_mode={best_mode!r} 'max' or 'min'."
      )
    self.directory = pathlib.Path(directory).absolute()
    self.best_metric = best_metric
    self.best_mode = best_mode
    self._rules = keep, keep_every, best_metric is not None
    self._frozen_done = False
    self._thread = concurrent.futures.ThreadPoolExecutor(1, 'manifest')
    self._pending: dict[int, concurrent.futures.Future] = {}
    _quiet()
    if jax.process_index() == 0:
      self.directory.mkdir(parents=True, exist_ok=True)
      retention.clear(self.directory)
    _barrier('checkpoints cleared')
    self._open()

  def _open(self) -> None:
    """A manager that knows the steps there are by their names alone.

    Its `reload` would read the metadata of each, damaged ones included. And
    which ones stay is our choice, made after the new step has its manifest.
    """
    import orbax.checkpoint as ocp

    options = ocp.CheckpointManagerOptions(lightweight_initialize=True)
    self._manager = ocp.CheckpointManager(self.directory, options=options)
    self._known = set(archive.steps_in(self.directory))

  def save(
    self,
    step: int,
    state: TrainState,
    metrics: Mapping[str, float] | None = None,
    force: bool = False,
  ) -> bool:
    """Starts to save; the arrays may be donated as soon as this returns.

    Args:
      step: steps done; a step that is already there is left as it is.
      state: of which params['frozen'] goes to `frozen/`, once a run.
      metrics: of this state; `best_metric` among them if one was named.
      force: saves a step before the newest one as well.

    Returns:
      Whether something was saved.
    """
    import orbax.checkpoint as ocp

    self._raise_errors()
    if step in self._known:
      return False
    metrics = (
      None if metrics is None else {k: float(v) for k, v in metrics.items()}
    )
    if metrics is not None and self.best_metric is not None:
      if self.best_metric not in metrics:
        raise ValueError(
          f'train.best_metric={self.best_metric!r} is not among the metrics '
          f'{sorted(metrics)}; name one of them.'
        )
    self._save_frozen(state.params.get('frozen', {}))
    meta = {
      archive.HAS_MANIFEST: True,
      'metrics': metrics,
      'best_metric': self.best_metric,
      'best_mode': self.best_mode,
    }
    args = {k: ocp.args.StandardSave(v) for k, v in _items(state).items()}
    args = ocp.args.Composite(meta=ocp.args.JsonSave(meta), **args)
    if not self._manager.save(step, args=args, force=force):
      return False
    self._known.add(step)
    self._pending[step] = self._thread.submit(self._finish, step)
    return True

  def _finish(self, step: int) -> None:
    """Off the training thread, one step after the other."""
    self._manager.wait_until_finished()
    if jax.process_index() == 0:
      retention.write_manifests(self.directory, step)
      retention.prune(self.directory, *self._rules)
    else:
      self._await_finish(step)

  def _is_finished(self, step: int) -> bool:
    """Whether the first process is done with this step, or with a later one:
    with what it removes then as well, or `steps` would differ between them."""
    try:
      steps = archive.steps_in(self.directory)
      there = any(s >= step for s in steps)
      return there and not retention.surplus(self.directory, *self._rules)
    except OSError:  # of a folder that is being removed
      return False

  def _await_finish(self, step: int) -> None:
    """Until the first process has finished this step, or a later one, and has
    removed what it replaces."""
    deadline = time.monotonic() + _PATIENCE
    while not self._is_finished(step):
      if time.monotonic() > deadline:
        raise TimeoutError(
          f'process 0 has not written {self.directory}/{step}/{manifest.FILE}, '
          f'or not removed older steps, in {_PATIENCE} seconds: is this folder '
          'the same on all machines?'
        )
      time.sleep(0.02)

  def _raise_errors(self) -> None:
    """What went wrong in the background since the last look."""
    for step in [s for s, job in self._pending.items() if job.done()]:
      self._pending.pop(step).result()

  @property
  def _frozen_path(self) -> pathlib.Path:
    return self.directory.parent / archive.FROZEN

  def _save_frozen(self, frozen: types.PyTree) -> None:
    if self._frozen_done or not jax.tree.leaves(frozen):
      return
    import orbax.checkpoint as ocp

    if not self._frozen_path.exists():
      with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(self._frozen_path, frozen)
    self._frozen_done = True

  def steps(self) -> list[int]:
    """All steps that are there or being saved, oldest first."""
    return sorted({*archive.steps_in(self.directory), *self._pending})

  def latest_step(self) -> int | None:
    """The newest step, or None."""
    steps = self.steps()
    return steps[-1] if steps else None

  def best_step(self) -> int | None:
    """The best step by `best_metric`, or None where none was measured."""
    self.wait()
    return archive.best_step_in(self.directory)

  def restore(
    self, abstract_state: TrainState, step: int | None = None
  ) -> TrainState:
    """The state of a step (default: the newest that is not damaged).

    Every file is verified before anything of it is used.

    Args:
      abstract_state: shapes, dtypes and shardings, from state.abstract_state;
        any mesh, not only the one on which it was saved.
      step: which. By default a damaged step is passed over with a warning, and
        quarantined as `unreadable-<step>` until the run has come there again.

    Raises:
      ValueError: where there is no checkpoint, none that is whole, or it does
        not fit.
    """
    self.wait()
    step = self._agree(step)
    try:
      return self._restore(abstract_state, step)
    except Exception as error:  # Orbax has no common class for these
      damaged = '' if manifest.exists(self._folder(step)) else ' or is broken'
      raise ValueError(
        f'checkpoint {step} of {self.directory} does not fit this run'
        f'{damaged}: {_brief(error)} Use the config it was trained with, or '
        'another workdir.'
      ) from error

  def _folder(self, step: int) -> pathlib.Path:
    return self.directory / str(step)

  def _agree(self, step: int | None) -> int:
    """The step to restore: verified by one process, the same for all."""
    error = found = None
    if jax.process_index() == 0:
      try:
        found = self._verified(step)
      except ValueError as raised:
        error = raised
    if jax.process_count() > 1:
      from jax.experimental import multihost_utils

      told = np.int64(-1 if found is None else found)
      found = int(multihost_utils.broadcast_one_to_all(told))
      found = None if found < 0 else found
    if found is None:
      raise error or ValueError(
        f'{self.directory} has no checkpoint to restore: see process 0.'
      )
    self._manager.close()
    self._open()
    return found

  def _verified(self, step: int | None) -> int:
    """This step, or the newest whole one, with damaged ones quarantined."""
    steps = archive.steps_in(self.directory)
    if not steps or (step is not None and step not in steps):
      raise ValueError(
        f'{self.directory} has no checkpoint {"" if step is None else step}; '
        f'the steps there are {steps}.'
      )
    wrong: dict[int, list[str]] = {}
    for candidate in steps[::-1] if step is None else [step]:
      found = archive.damage(self._folder(candidate))
      if not found:
        for damaged, lines in wrong.items():
          retention.quarantine(self.directory, damaged, lines)
        archive.warn_unverified(self._folder(candidate))
        return candidate
      wrong[candidate] = found
    first = max(wrong)
    raise ValueError(
      f'{"every" if step is None else "this"} checkpoint of {self.directory} '
      f'is damaged; {first}: {manifest.describe(wrong[first])}. Bring the '
      'files back from a copy, or use another workdir.'
    )

  def _restore(self, abstract_state: TrainState, step: int) -> TrainState:
    import orbax.checkpoint as ocp

    expected = _items(abstract_state)
    missing = [k for k in expected if not (self._folder(step) / k).is_dir()]
    if missing:
      raise ValueError(
        f'it has no {" and no ".join(missing)}; where it holds weights alone, '
        'start from them by config.init_from.'
      )
    args = {k: ocp.args.StandardRestore(v) for k, v in expected.items()}
    found = self._manager.restore(step, args=ocp.args.Composite(**args))
    frozen = abstract_state.params.get('frozen', {})
    if jax.tree.leaves(frozen):
      with ocp.StandardCheckpointer() as checkpointer:
        frozen = checkpointer.restore(self._frozen_path, frozen)
    return _state(found, frozen)

  def wait(self) -> None:
    """Until what is being saved is complete, and what it replaces removed."""
    self._manager.wait_until_finished()
    concurrent.futures.wait(self._pending.values())
    self._raise_errors()

  def close(self) -> None:
    """Waits, and ends the threads."""
    try:
      self.wait()
    finally:
      self._thread.shutdown()
      self._manager.close()

  def __enter__(self):
    return self

  def __exit__(self, *_):
    self.close()


def _brief(error: Exception) -> str:
  """The first lines of an error: those of tensorstore run over pages."""
  text = ' '.join(f'{type(error).__name__}: {error}'.split())
  return text[:400] + ('...' if len(text) > 400 else '')
