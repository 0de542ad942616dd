"""Checkpoints of a run: save, resume, load weights.

Layout, inside a working directory: `checkpoints/<step>/{params, ema,
optimizer, meta}` by Orbax, and `frozen/` with the weights that never change,
written once. `params` and `ema` are plain dicts, so weights can be loaded
without knowing what made them. The position in the data is the step.
"""

import os
import pathlib
import warnings
from collections.abc import Mapping
from typing import Any

import jax

from pix2seqd_jax import types
from pix2seqd_jax.train import archive
from pix2seqd_jax.train.state import TrainState


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


def _quiet() -> None:
  """Orbax reports every save at INFO through absl; keep warnings."""
  from absl import logging

  if logging.get_verbosity() > logging.WARNING:
    logging.set_verbosity(logging.WARNING)


class Checkpointer:
  """Saves in the background; keeps the newest and the best.

  Args:
    directory: the run's `checkpoints` folder; `frozen` is put beside it.
    keep: how many of the newest stay.
    best_metric: name of a metric whose best checkpoint stays as well.
    best_mode: 'max' or 'min'.

  Raises:
    ValueError: on a bad `keep` or `best_mode`.
  """

  def __init__(
    self,
    directory: str | os.PathLike,
    keep: int = 3,
    best_metric: str | None = None,
    best_mode: str = 'max',
  ):
    if keep < 1 or best_mode not in ('max', 'min'):
      raise ValueError(
        f'train.keep={keep} must be at least 1, and train.best_mode='
        f"{best_mode!r} 'max' or 'min'."
      )
    self.directory = pathlib.Path(directory).absolute()
    self.best_metric = best_metric
    self.best_mode = best_mode
    self._keep = keep
    self._manager = self._open()
    self._frozen_done = False

  def _open(self):
    import orbax.checkpoint as ocp
    from orbax.checkpoint import checkpoint_managers as policies

    _quiet()
    newest = policies.LatestN(self._keep)
    options: dict[str, Any] = {'preservation_policy': newest}
    if self.best_metric is not None:
      name = self.best_metric
      best = policies.BestN(
        get_metric_fn=lambda metrics: metrics[name],
        reverse=self.best_mode == 'min',
        n=1,
        keep_checkpoints_without_metrics=False,
      )
      options = {
        'preservation_policy': policies.AnyPreservationPolicy([newest, best]),
        'best_fn': lambda metrics: metrics[name],
        'best_mode': self.best_mode,
      }
    self.directory.mkdir(parents=True, exist_ok=True)
    return ocp.CheckpointManager(
      self.directory, options=ocp.CheckpointManagerOptions(**options)
    )

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

    if step in self._manager.all_steps():
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
      'metrics': metrics,
      'best_metric': self.best_metric,
      'best_mode': self.best_mode,
    }
    args = {k: ocp.args.StandardSave(v) for k, v in _items(state).items()}
    return self._manager.save(
      step,
      args=ocp.args.Composite(meta=ocp.args.JsonSave(meta), **args),
      metrics=metrics if self.best_metric is not None else None,
      force=force,
    )

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
    """All steps that are there, oldest first."""
    return sorted(self._manager.all_steps())

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
    """The state of a step (default: the newest that can be read).

    Args:
      abstract_state: shapes, dtypes and shardings, from state.abstract_state;
        any mesh, not only the one on which it was saved.
      step: which. By default a step that cannot be read is passed over with a
        warning, and set aside as `unreadable-<step>`.

    Raises:
      ValueError: where there is no checkpoint, or none that fits.
    """
    self.wait()
    steps = self.steps()
    if not steps or (step is not None and step not in steps):
      raise ValueError(
        f'{self.directory} has no checkpoint {"" if step is None else step}; '
        f'the steps there are {steps}.'
      )
    candidates = [step] if step is not None else steps[::-1]
    errors: dict[int, Exception] = {}
    for candidate in candidates:
      try:
        state = self._restore(abstract_state, candidate)
      except Exception as error:  # Orbax has no common class for these
        errors[candidate] = error
        continue
      self._set_aside(errors)
      return state
    first = next(iter(errors))
    raise ValueError(
      f'checkpoint {first} of {self.directory} does not fit this run, or is '
      f'damaged: {_brief(errors[first])} Use the config it was trained with, '
      'or another workdir.'
    ) from errors[first]

  def _restore(self, abstract_state: TrainState, step: int) -> TrainState:
    import orbax.checkpoint as ocp

    wanted = _items(abstract_state)
    args = {k: ocp.args.StandardRestore(v) for k, v in wanted.items()}
    found = self._manager.restore(step, args=ocp.args.Composite(**args))
    frozen = abstract_state.params.get('frozen', {})
    if jax.tree.leaves(frozen):
      with ocp.StandardCheckpointer() as checkpointer:
        frozen = checkpointer.restore(self._frozen_path, frozen)
    return _state(found, frozen)

  def _set_aside(self, errors: Mapping[int, Exception]) -> None:
    for step, error in errors.items():
      warnings.warn(
        f'checkpoint {step} of {self.directory} cannot be read and is set '
        f'aside: {_brief(error)}',
        stacklevel=3,
      )
      if jax.process_index() == 0:
        aside = self.directory / f'unreadable-{step}'
        os.rename(self.directory / str(step), aside)
    if errors:
      self._manager.reload()

  def reached_preemption(self, step: int) -> bool:
    """Whether all processes were told to stop after this step."""
    return self._manager.reached_preemption(step)

  def wait(self) -> None:
    """Until what is being saved is on disk."""
    self._manager.wait_until_finished()

  def close(self) -> None:
    """Waits, and ends the threads."""
    self._manager.close()

  def __enter__(self):
    return self

  def __exit__(self, *_):
    self.close()


def _brief(error: Exception) -> str:
  """The first lines of an error: those of tensorstore run over pages."""
  text = ' '.join(f'{type(error).__name__}: {error}'.split())
  return text[:400] + ('...' if len(text) > 400 else '')
