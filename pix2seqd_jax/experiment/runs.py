"""Training and evaluation as a whole: a config and a work directory.

A work directory holds: config.json categories.json checkpoints/N frozen/
metrics.jsonl events.* predictions/.
"""

import contextlib
import os
import pathlib
import time
import warnings

import jax
import ml_collections

from pix2seqd_jax.experiment import build
from pix2seqd_jax.experiment import workdir as workdirs
from pix2seqd_jax.train import bad_batch, ledger, log, loop, processes, state
from pix2seqd_jax.train import evaluate as evaluate_lib
from pix2seqd_jax.train.checkpoints import archive
from pix2seqd_jax.visualize import reports

_POLL_SECONDS = 5.0


def train(
  config: ml_collections.ConfigDict, workdir: str | os.PathLike
) -> state.TrainState:
  """Trains, or goes on where the work directory stopped.

  Args:
    config: the config.
    workdir: a folder, made if it does not exist.

  Returns:
    The last TrainState; its step is below train.steps if the run was stopped.

  Raises:
    ValueError: the config is wrong, or it is not the config of this folder.
  """
  experiment = build.Experiment(config)
  folder = pathlib.Path(workdir)
  with processes.session(folder, **experiment.distributed):
    return _train(experiment, folder)


def _train(experiment, folder) -> state.TrainState:
  experiment.check()
  workdirs.save(experiment, folder)
  experiment.note_bad_examples(folder)
  settings = experiment.loop
  with (
    contextlib.closing(log.default_writer(folder)) as writer,
    workdirs.checkpointer(experiment, folder) as checkpointer,
    contextlib.ExitStack() as stack,
  ):
    train_state, report = workdirs.start(experiment, checkpointer)
    experiment.check_latents(train_state.params)
    if report:
      writer.write_texts(int(train_state.step), {'run': report})
    if not int(train_state.step):
      table = log.parameter_table(train_state.params)
      if jax.process_index() == 0:
        (folder / 'parameters.txt').write_text(table + '\n')

    book = None
    if settings.ledger:
      book = stack.enter_context(
        contextlib.closing(ledger.Ledger(folder, int(train_state.step)))
      )

    def evaluate_state(current, step):
      params = state.eval_params(current, experiment.use_ema)
      return evaluate_params(experiment, params, writer=writer, step=step)

    return loop.train(
      state=train_state,
      train_step=experiment.train_step(),
      batches_from=experiment.train_batches,
      num_steps=settings.steps,
      rng=jax.random.key(experiment.seed),
      mesh=experiment.mesh,
      checkpointer=checkpointer,
      writer=writer,
      log_every=settings.log_every,
      save_every=settings.save_every,
      eval_every=settings.eval_every,
      eval_fn=evaluate_state,
      ledger=book,
      max_loss=settings.max_loss,
      dump_fn=lambda step, batch: bad_batch.dump(
        folder, step, batch, experiment.files_of
      ),
    )


def evaluate_params(
  experiment: build.Experiment,
  params,
  *,
  writer: log.MetricWriter | None = None,
  step: int = 0,
  steps: int | None = None,
  td: float | None = None,
) -> dict[str, float]:
  """The task's metrics over the eval split, with panels for the writer.

  Args:
    experiment: the parts.
    params: of the model, on any device.
    writer: gets train.num_panels strips: image, truth, prediction; where
      images are drawn, what was drawn (of which mask, and what the model
      sees in it).
    step: under which the panels are written.
    steps, td: of sampling; None is the config's.
  """
  experiment.check_latents(params)
  panels = {}

  def draw(found, meta):
    if writer is None or len(panels) >= experiment.loop.num_panels:
      return
    panels[f'eval/{len(panels)}'] = reports.panel(
      experiment.task,
      found,
      meta,
      experiment.categories,
      experiment.answer_categories,
    )

  results = evaluate_lib.evaluate(
    experiment.model,
    experiment.task,
    params,
    experiment.eval_batches(),
    sample_fn=experiment.sample_fn(steps, td, mesh=experiment.mesh),
    seed=experiment.sample_seed,
    mesh=experiment.mesh,
    on_example=draw,
  )
  if writer is not None:
    writer.write_images(step, panels)
    if jax.process_index() == 0:
      print(reports.table(results, [c.name for c in experiment.categories]))
  return results


def evaluate(
  workdir: str | os.PathLike,
  config: ml_collections.ConfigDict | None = None,
  *,
  step: str | int = '',
  watch: bool = False,
) -> dict[str, float]:
  """Evaluates a checkpoint, or with `watch` each new one as it comes.

  Args:
    workdir: of the run; the results go to its metrics.jsonl and event files.
    config: None is the config of the work directory.
    step: of the checkpoint, or 'best'; empty is the newest.
    watch: goes on until the checkpoint of train.steps has been evaluated;
      of several new ones the newest is taken. One that is damaged, or that the
      run removed before it was read, is passed over with a warning; that of
      train.steps is an error.

  Returns:
    The last metrics.

  Raises:
    ValueError: there is no such checkpoint, or `step` and `watch` together.
  """
  if watch and step != '':
    raise ValueError(f'--watch evaluates what comes; drop --step={step}.')
  folder = pathlib.Path(workdir)
  experiment = workdirs.load(folder, config)
  with processes.session(folder, **experiment.distributed):
    return _evaluate(experiment, folder, step, watch)


def _evaluate(experiment, folder, step, watch) -> dict[str, float]:
  experiment.note_bad_examples(folder)
  done, results = None, {}
  with contextlib.closing(log.default_writer(folder)) as writer:
    while True:
      found = workdirs.find_step(folder, step, wait=watch)
      found = processes.of_first(found)
      if found is not None and found != done:
        params = _load(experiment, folder, found, watch)
        if params is not None:
          results = evaluate_params(
            experiment, params, writer=writer, step=found
          )
          scalars = {f'eval/{k}': v for k, v in results.items()}
          writer.write_scalars(found, scalars)
          writer.flush()
        done = found
      if not watch or done == experiment.loop.steps:
        return results
      if processes.preempted():  # of several, SIGTERM alone ends none
        raise processes.Preempted
      time.sleep(_POLL_SECONDS)


def _load(experiment, folder, step, watch):
  """The weights of a step; None, with a warning, where a watch passes it over.

  It may be gone, as the run keeps so many, or damaged; the next one comes.
  """
  params = error = None
  try:
    params = workdirs.read_params(experiment, folder, step)
  except (ValueError, OSError) as raised:
    error = raised
    last = step == experiment.loop.steps
    if not watch or last or archive.is_whole(folder, step):
      raise
  if processes.all_true(error is None):
    return workdirs.place_params(experiment, params, experiment.mesh)
  why = f' ({error})' if error else ' by another process'
  warnings.warn(
    f'{folder}: step {step} cannot be read{why}; passed over.', stacklevel=2
  )
  return None
