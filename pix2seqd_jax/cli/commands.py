"""The three modes as functions: what run.py, a Colab and the tests call.

A work directory holds: config.json categories.json checkpoints/N frozen/
metrics.jsonl events.* predictions/.
"""

import contextlib
import os
import pathlib
import time
import warnings
from collections.abc import Sequence

import jax
import ml_collections
import numpy as np

from pix2seqd_jax.data.formats import label_maps
from pix2seqd_jax.experiment import build
from pix2seqd_jax.experiment import workdir as workdirs
from pix2seqd_jax.inference import pipeline, synthesis
from pix2seqd_jax.train import bad_batch, ledger, log, loop, processes, state
from pix2seqd_jax.train import evaluate as evaluate_lib
from pix2seqd_jax.train.checkpoints import archive
from pix2seqd_jax.visualize import overlays

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
    panels[f'eval/{len(panels)}'] = _panel(experiment, found, meta)

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
      print(table(results, [c.name for c in experiment.categories]))
  return results


def _panel(experiment, found, meta):
  """What an answer looks like beside the truth; see evaluate_params."""
  task, made = experiment.task, found.image
  if made is not None and not task.given:
    return _side_by_side((meta['image'], made), ('image', 'drawn'))
  truth, classes = meta['truth'], experiment.answer_categories
  expected = truth['segments']
  if classes != experiment.categories:  # answers have none of the data set
    expected = [segment._replace(class_id=1) for segment in expected]
  maps = (truth['ids'], expected), task.segments(found)
  if made is None:
    return overlays.panel(meta['image'], *maps, classes)
  # What was given knows no instances.
  named = [segment for segment in expected if not segment.is_crowd]
  given = label_maps.label_map(truth['ids'], named, classes, 'classes')
  maps = synthesis.as_map(given.astype(np.int32)), maps[1]
  painted = [overlays.paint(*one, classes) for one in maps]
  strip = _side_by_side(
    (meta['image'], painted[0], made, painted[1]),
    ('image', 'given', 'drawn', 'seen in it'),
  )
  return overlays.with_legend(strip, maps, classes)


def _side_by_side(images, captions):
  """A strip of images, small ones enlarged."""
  strips = [
    overlays.panel(one, None, None, (), captions=(caption,), legend=False)
    for one, caption in zip(images, captions, strict=True)
  ]
  return overlays.grid(strips, len(strips))


# What is told in one number, below the tables.
_SINGLE = (
  *('miou', 'pixel_accuracy', 'psnr', 'l1', 'fid'),
  *('lpips_pairwise', 'lpips_diversity', 'resegmentation_miou'),
  *('resegmentation_pixel_accuracy', 'images_per_second'),
)


def table(results: dict[str, float], classes: Sequence[str]) -> str:
  """PQ, SQ and RQ of all, things, stuff and each class, as aligned text.

  Without PQ, the IoU of each class. And below them what else there is to tell
  in one number; FID and LPIPS of no trained network say so.
  """
  groups = [(name, f'_class/{name}') for name in classes]
  columns = ('iou', 'resegmentation_iou')
  if 'pq' in results:
    columns = ('pq', 'sq', 'rq')
    groups[:0] = [('all', ''), ('things', '_things'), ('stuff', '_stuff')]
  columns = [c for c in columns if any(f'{c}{g}' in results for _, g in groups)]
  rows = [
    (name, [results.get(f'{c}{g}') for c in columns]) for name, g in groups
  ]
  width = max(len(name) for name, _ in rows)
  lines = []
  if columns:
    titles = ' '.join(f'{c.rpartition("_")[2].upper():>6}' for c in columns)
    lines = [f'{"":{width}} {titles}']
  for name, values in rows:
    if values and None not in values:
      numbers = ' '.join(f'{value:6.3f}' for value in values)
      lines.append(f'{name:{width}} {numbers}')
  for name in _SINGLE:
    if name in results:
      lines.append(f'{name}: {results[name]:.3f}{_of_whom(name, results)}')
  return '\n'.join(lines)


def _of_whom(name, results):
  """What makes a number another than that of papers."""
  if name == 'fid' and not results['fid_is_inception']:
    random = '' if results['lpips_is_trained'] else 'a random '
    return f' (features of {random}VGG-16, not of Inception)'
  if name.startswith('lpips') and not results['lpips_is_trained']:
    return ' (random weights)'
  return ''


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


def predict(
  workdir: str | os.PathLike,
  inputs: Sequence[str | os.PathLike],
  *,
  output: str | os.PathLike = '',
  config: ml_collections.ConfigDict | None = None,
  step: str | int = '',
  formats: Sequence[str] = ('panoptic', 'overlay'),
  **kwargs,
) -> pathlib.Path:
  """Images -> files of some formats; see Pipeline.predict for all arguments.

  Raises:
    ValueError: there is no image, one cannot be read, or no such format.
  """
  if not inputs:
    raise ValueError('--inputs is empty; name an image or a folder of them.')
  folder = pathlib.Path(workdir)
  pipe = pipeline.Pipeline.from_pretrained(
    folder, step=step or None, config=config
  )
  output = output or folder / 'predictions'
  where = pipe.predict(inputs, output, formats=formats, **kwargs)
  print(f'Wrote {where}/: {", ".join(formats)}.')
  return where
