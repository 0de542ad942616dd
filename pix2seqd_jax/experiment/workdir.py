"""A run's folder: config, categories, checkpoints, frozen weights, logs."""

import os
import pathlib
import warnings

import jax
import ml_collections

from pix2seqd_jax.data.formats import categories
from pix2seqd_jax.experiment import build, data, schema
from pix2seqd_jax.train import sharding, state
from pix2seqd_jax.train.checkpoints import (
  archive,
  checkpoint,
  manifest,
  resume,
  weights,
)
from pix2seqd_jax.types import Params

_CATEGORIES = 'categories.json'
# These may change when a run goes on: they change no number of good examples.
_FREE = (
  *schema.FREE,
  # How masks are read out and given: not what is trained.
  'model.thresholds',
  'model.mask_autoencoder.thresholds',
  'model.given_cells',
  'model.given_fill',
  'model.resize',
)


def load(
  folder: str | os.PathLike,
  config: ml_collections.ConfigDict | None = None,
) -> build.Experiment:
  """The experiment of a folder; `config` stands in for its config.json.

  Raises:
    ValueError: the folder holds no run, or a run of another model, or its
      config or categories are not as the run wrote them.
  """
  folder = pathlib.Path(folder)
  archive.check_told(folder)
  found = resume.load_config(folder)
  if found is None:
    raise ValueError(
      f'{folder}/{resume.FILE} does not exist; name the workdir of a run.'
    )
  if config is None:
    config = schema.from_plain(found)
  else:
    plain = schema.plain(config)
    resume.check_resume(
      folder,
      plain,
      frozen_keys=('model',),
      free=_FREE,
      defaults=schema.DEFAULTS,
    )
  classes = categories.read_categories(folder / _CATEGORIES)
  return build.Experiment(config, classes)


def save(experiment: build.Experiment, folder: pathlib.Path) -> None:
  """Writes config.json and categories.json, and a manifest of both.

  Raises:
    ValueError: the folder holds a run of another model, data set, optimizer
      or seed, or of which these files are not as it wrote them. What never
      came to a checkpoint is no run.
  """
  if archive.steps_in(folder):
    if jax.process_index() == 0:
      archive.check_told(folder)
    resume.check_resume(
      folder, experiment.config, free=_FREE, defaults=schema.DEFAULTS
    )
    data.check_same_classes(
      experiment.categories,
      categories.read_categories(folder / _CATEGORIES),
      str(folder),
    )
  if jax.process_index() == 0:
    folder.mkdir(parents=True, exist_ok=True)
    # Killed in between, the run has no manifest of them until its next start.
    (folder / manifest.FILE).unlink(missing_ok=True)
    categories.write_categories(folder / _CATEGORIES, experiment.categories)
    # Where a run is at work is no part of what it is: evaluated elsewhere, it
    # must not look for the processes that trained it.
    config = {k: v for k, v in experiment.config.items() if k != 'distributed'}
    resume.save_config(folder, config)
    manifest.write(folder, only=archive.TOLD)


def checkpointer(
  experiment: build.Experiment, folder: pathlib.Path
) -> checkpoint.Checkpointer:
  """What saves and restores this run's states."""
  loop = experiment.loop
  return checkpoint.Checkpointer(
    folder / archive.FOLDER,
    keep=loop.keep,
    keep_every=loop.keep_every,
    best_metric=loop.best_metric or None,
    best_mode=experiment.best_mode,
  )


def start(
  experiment: build.Experiment, saved: checkpoint.Checkpointer
) -> tuple[state.TrainState, str]:
  """The newest state of the run, or a new one, and what to tell of it."""
  if saved.latest_step() is not None:
    found = saved.restore(experiment.abstract_state)
    return found, f'going on from the checkpoint of step {int(found.step)}'
  k_init = jax.random.fold_in(jax.random.key(experiment.seed), 2**31 - 1)
  new = state.create_state(
    experiment.model, experiment.optimizer, k_init, *experiment.state_args
  )
  _warn_of_random(new.params['frozen'], experiment.init_from)
  if not experiment.init_from:
    return new, ''
  for folder, _, target, rule in experiment.init_from:
    _check_growth(experiment, folder, rule)
    _check_origin(experiment, folder, target)
  params, report = weights.init_from(new.params, experiment.init_from)
  return state.with_params(new, params), report


def _warn_of_random(frozen, entries):
  """Frozen parts that nothing trains and nothing fills."""
  targets = [target.split('/') for _, _, target, _ in entries]
  random = [
    f'frozen/{name}'
    for name in frozen
    if not any(t[:2] in (['frozen'], ['frozen', name]) for t in targets)
  ]
  if random and jax.process_index() == 0:
    warnings.warn(
      f'{", ".join(random)}: frozen at random values, for config.init_from '
      'fills them from no run; name one there, unless this is a test.',
      stacklevel=2,
    )


def _check_growth(experiment, folder, rule):
  """Self-conditioning puts its channels in the middle of the input, and new
  rows of a kernel go to the end: such a start would be a silent mistake."""
  theirs = (resume.load_config(folder) or {}).get('model', {})
  ours = experiment.config['model']
  told = [bool(m.get('self_condition_rate', 0)) for m in (theirs, ours)]
  if rule != 'exact' and theirs and told[0] != told[1]:
    raise ValueError(
      f'init_from: {folder} was trained with model.self_condition_rate='
      f'{theirs.get("self_condition_rate", 0)}, here it is '
      f'{ours.get("self_condition_rate", 0)}: the input channels differ in '
      'order; set both to 0 or neither.'
    )


def _check_origin(experiment, folder, target):
  """What a model says of weights that fit in shape but not in meaning."""
  theirs = resume.load_config(folder)
  if theirs and hasattr(experiment.model, 'check_origin'):
    experiment.model.check_origin(folder, target, theirs)


def find_step(
  folder: str | os.PathLike, step: str | int = '', *, wait: bool = False
) -> int | None:
  """'' -> the newest checkpoint's step, 'best' -> the best, '500' -> 500.

  A damaged newest one is passed over with a warning. With `wait` the newest is
  not verified here, but when its weights are loaded: this is asked often.

  Raises:
    ValueError: there is none, unless `wait`, which returns None.
  """
  steps = archive.steps_in(folder)
  if step == 'best':
    found = archive.best_step_in(folder)
  elif step == '':
    found = steps[-1] if steps else None
    if steps and not wait:
      found = archive.newest_step(folder)
  elif str(step).isdigit():
    found = int(step)
  else:
    raise ValueError(f"step={step!r} must be a number, 'best' or empty.")
  if found not in steps and not wait:
    hint = ''
    if step == 'best' and steps:
      hint = ' None was measured: train with train.best_metric and eval_every.'
    raise ValueError(
      f'{folder} has no checkpoint {step or "at all"!r}; its steps are {steps}.'
      + hint
    )
  return found if found in steps else None


def load_params(
  experiment: build.Experiment,
  folder: str | os.PathLike,
  step: int,
  ema: bool | None = None,
  mesh: jax.sharding.Mesh | None = None,
) -> Params:
  """The parameters of a checkpoint, on any devices.

  Args:
    experiment: the parts.
    folder: the work directory.
    step: of the checkpoint.
    ema: the averaged parameters; None is what the config says.
    mesh: lays them out by the config's rules; None puts them on one device,
      whatever mesh they were trained on.

  Raises:
    ValueError: they do not fit the config's model.
  """
  params = read_params(experiment, folder, step, ema)
  return place_params(experiment, params, mesh)


def read_params(
  experiment: build.Experiment,
  folder: str | os.PathLike,
  step: int,
  ema: bool | None = None,
) -> Params:
  """As `load_params`, on the host: no process waits for another."""
  ema = experiment.use_ema if ema is None else ema
  params = weights.load_params(folder, step=step, ema=ema)
  expected = jax.eval_shape(
    experiment.model.init, jax.random.key(0), experiment.abstract_batch()
  )
  expected = state.collections(expected)
  _check_tree(params, expected, folder)
  return jax.tree.map(lambda _, leaf: leaf, expected, params)


def place_params(
  experiment: build.Experiment,
  params: Params,
  mesh: jax.sharding.Mesh | None = None,
) -> Params:
  """What `read_params` read, on devices; all processes of a mesh at once."""
  if mesh is None:
    return jax.device_put(params, jax.devices()[0])
  where = sharding.shardings(params, mesh, experiment.shard_rules)
  return jax.tree.map(jax.device_put, params, where)


def _check_tree(params, expected, folder):
  """Raises ValueError that lists what is missing, extra or misshapen."""
  found, expected = (
    {path: tuple(leaf.shape) for path, leaf in sharding.flat_paths(t).items()}
    for t in (params, expected)
  )
  wrong = sorted(
    f'{path}: {expected.get(path, "absent")} by the config, '
    f'{found.get(path, "absent")} in the checkpoint'
    for path in {*found, *expected}
    if found.get(path) != expected.get(path)
  )
  if wrong:
    raise ValueError(
      f'the checkpoint in {folder} does not fit config.model; use the '
      'config.json beside it. '
      + '; '.join(wrong[:10])
      + (f'; and {len(wrong) - 10} more.' if len(wrong) > 10 else '.')
    )
