"""Config -> the parts of a run. The only file that reads a config's values.

Everything here fails before compilation, with the key, the value, the rule and
the fix.
"""

import functools

import jax
import ml_collections
import numpy as np

from pix2seqd_jax import data as data_room
from pix2seqd_jax import models as models_room
from pix2seqd_jax import tasks as tasks_room
from pix2seqd_jax.diffusion import guidance, samplers, sampling
from pix2seqd_jax.diffusion import sampler as sampler_lib
from pix2seqd_jax.diffusion import timesteps as timesteps_lib
from pix2seqd_jax.experiment import data, schema, sections
from pix2seqd_jax.metrics import panoptic_quality
from pix2seqd_jax.pretrained import perceptual
from pix2seqd_jax.registry import MODELS, TASKS, did_you_mean
from pix2seqd_jax.train import evaluate, optimizer, sharding, state, step
from pix2seqd_jax.train.checkpoints import weights
from pix2seqd_jax.types import Category, Timesteps

_ROOMS = (data_room, models_room, tasks_room)  # imported: names are registered


class Experiment(data.DataParts):
  """The parts of a run, each built when it is first asked for.

  Args:
    config: a config from configs/, or the config.json of a work directory.
    categories: the classes, where the data set itself is not at hand (a
      checkpoint that is only used to predict).
  """

  def __init__(
    self,
    config: ml_collections.ConfigDict,
    categories: tuple[Category, ...] | None = None,
  ):
    self.config = schema.complete(schema.plain(config))
    self._categories = categories
    self._sources, self._samplers = {}, {}
    schema.check(self.config)

  @property
  def distributed(self) -> dict:
    return self.config['distributed']

  @property
  def use_ema(self) -> bool:
    return self.config['eval']['use_ema']

  @property
  def keeps_ema(self) -> bool:
    return self.config['optimizer']['ema_decay'] > 0

  @property
  def init_from(self):
    """The config's, of which prefixes may end with a slash."""
    return tuple(
      (folder, source.rstrip('/'), target.rstrip('/'), rule)
      for folder, source, target, rule in self.config['init_from']
    )

  @property
  def seed(self) -> int:
    return self.config['seed']

  @property
  def loop(self) -> sections.Train:
    return sections.Train(**self.config['train'])

  @functools.cached_property
  def mesh(self) -> jax.sharding.Mesh:
    mesh = sharding.make_mesh(self.config['mesh'])
    for key in ('data', 'eval'):
      sharding.check_batch(
        self.config[key]['batch_size'], mesh, name=f'{key}.batch_size'
      )
    return mesh

  @property
  def shard_rules(self):
    return self.config['shard_rules']

  @property
  def answer_categories(self) -> tuple[Category, ...]:
    """The classes of answers: one, where the model names none."""
    named = getattr(self.model, 'names_classes', True)
    return self.categories if named else panoptic_quality.ANY

  # The method.

  @functools.cached_property
  def model(self):
    data = self.config['data']
    kwargs = dict(self.config['model'])
    entry = MODELS[kwargs.pop('name')]
    for key in ('num_classes', 'num_ids', 'image_size', 'mask_size'):
      if key in kwargs:
        raise ValueError(f'config.model.{key} is set by data.{key}; remove it.')
      kwargs[key] = data[key]
    return schema.construct('model', entry, kwargs)

  @functools.cached_property
  def task(self):
    kwargs = dict(self.config['task'])
    name = kwargs.pop('name')
    entry = TASKS[name]
    if name == 'synthesis':
      kwargs = {**self.config['synthesis'], **kwargs}
      files = {k: kwargs.pop(k) for k in ('inception', 'lpips')}
      kwargs['features'] = perceptual.Features(**files)
      self._check_draws()
      moved, check = kwargs['perturbation'], 'check_perturbation'
      if moved >= 0 and hasattr(self.model, check):  # below 0: the model's own
        self.model.check_perturbation(moved, 'synthesis.perturbation')
    return schema.construct(
      'task', entry, {**kwargs, 'categories': self.categories}
    )

  def _check_draws(self):
    if not getattr(self.model, 'draws_images', False):
      raise ValueError(
        "task.name='synthesis' makes images of masks, but a model "
        f'{self.config["model"]["name"]!r} makes none; use model.name='
        "'semflow'."
      )

  @functools.cached_property
  def learning_rate(self):
    config = self.config['optimizer']
    return optimizer.make_schedule(
      config['schedule'],
      base=config['learning_rate'],
      warmup_steps=config['warmup_steps'],
      total_steps=self.loop.steps,
      end_factor=config['end_factor'],
    )

  @functools.cached_property
  def optimizer(self):
    config = self.config['optimizer']
    rest = (
      'schedule',
      'learning_rate',
      'warmup_steps',
      'end_factor',
      'accumulate',
      'ema_decay',
      'ema_warmup',
      'name',
    )
    return optimizer.make_optimizer(
      config['name'],
      self.learning_rate,
      **{k: v for k, v in config.items() if k not in rest},
    )

  # Sampling.

  def timesteps(
    self, steps: int | None = None, td: float | None = None
  ) -> Timesteps:
    """The times of sampling; arguments override the config's.

    A model that diffuses nothing (an autoencoder) answers in one step.
    """
    if not hasattr(self.model, 'process'):
      return Timesteps(np.ones(1), np.zeros(1))
    config = self.config['sample']
    maker = self._sampling_part('timestep_spacing', timesteps_lib.SPACINGS)
    timesteps = maker.make(
      self.model.process,
      config['steps'] if steps is None else steps,
      config['td'] if td is None else td,
    )
    sampler_lib.check(self.sampler, self.model.process, timesteps)
    is_noise = getattr(self.model, 'source_is_noise', True)
    sampler_lib.check_source(self.sampler, is_noise)
    return timesteps

  @property
  def sampler(self):
    return self._sampling_part('sampler', samplers.SAMPLERS)

  def _sampling_part(self, key, known):
    """known[sample.KEY](**sample.KEY_args)."""
    config = self.config['sample']
    name, told = schema.parse_call(f'sample.{key}', config[key])
    kwargs = {**config[f'{key}_args'], **told}
    if name not in known:
      raise ValueError(
        f'sample.{key}={name!r} is unknown.{did_you_mean(name, known)} '
        f'Known: {", ".join(known)}.'
      )
    return schema.construct(f'sample.{key}_args', known[name], kwargs)

  def sample_fn(
    self, steps=None, td=None, num_samples=1, mesh=None, callback=None
  ):
    """(params, inputs, keys) -> Raw, compiled once a shape and steps.

    `mesh` splits the answers like the batch; None is for one device. For
    `callback` see diffusion.sampling.sample.
    """
    key = (steps, td, num_samples, mesh, callback)
    if key not in self._samplers:
      self._samplers[key] = evaluate.make_sampler(
        self.model,
        timesteps=self.timesteps(steps, td),
        sampler=self.sampler,
        num_samples=num_samples,
        mesh=mesh,
        **self.sampling_options(callback),
      )
    return self._samplers[key]

  def sampling_options(self, callback=None):
    """What model.sample is told beyond its defaults."""
    config = self.config['sample']
    sampling.check_options(
      *(config[k] for k in ('guidance', 'returns', 'inpainting', 'strength'))
    )
    options = {'callback': callback, 'returns': config['returns']}
    options = {k: v for k, v in options.items() if v}
    for key, default in schema.DEFAULTS['sample'].items():
      if key in ('guidance', 'inpainting', 'strength'):
        if config[key] != default:
          options[key] = config[key]
    return options

  @property
  def sample_seed(self) -> int:
    return self.config['sample']['seed']

  def train_step(self) -> step.TrainStep:
    """(state, batch, rng) -> (state, scalars)."""
    config = self.config['optimizer']
    return step.make_train_step(
      self.model,
      self.optimizer,
      mesh=self.mesh,
      rules=self.shard_rules,
      ema_decay=config['ema_decay'],
      ema_warmup=config['ema_warmup'],
      accumulate=config['accumulate'],
    )

  @property
  def state_args(self):
    """What state.create_state and abstract_state take after the optimizer."""
    return (
      self.abstract_batch(),
      self.mesh,
      self.shard_rules,
      self.keeps_ema,
    )

  @functools.cached_property
  def abstract_state(self) -> state.TrainState:
    """Shapes and shardings of the train state; a target for restoring."""
    return state.abstract_state(self.model, self.optimizer, *self.state_args)

  def check(self) -> None:
    """Builds what can be wrong, before anything is written or compiled."""
    _ = self.mesh, self.model, self.task, self.optimizer, self.sampler
    self.timesteps()
    if 'guidance' in self.sampling_options() and hasattr(self.model, 'process'):
      args = self.abstract_state.params, self.abstract_batch(), None
      encoded = jax.eval_shape(self.model.encode, *args)
      guidance.check_null(encoded.null, self.config['sample']['guidance'])
    for split in ('train', 'eval'):
      self.check_transforms(split)
      self.source(split)
    self.check_ranges()
    self._check_best_metric(str)
    sharding.check_batch(
      self.config['data']['batch_size'],
      self.mesh,
      pieces=self.config['optimizer']['accumulate'],
    )
    self.check_networks()

  def check_networks(self):
    """Traces them: sizes that do not fit one another."""
    try:
      _ = self.abstract_state
    except ValueError:
      raise
    except Exception as error:  # flax and jax have many kinds
      raise ValueError(
        f'config.model: the networks cannot be built with these sizes: '
        f'{type(error).__name__}: {error}'
      ) from error

  @property
  def best_mode(self) -> str:
    """'min' where train.best_metric is a distance or an error, else 'max'."""
    lower = getattr(self.task.empty(), 'lower_is_better', ())
    return 'min' if self.loop.best_metric in lower else 'max'

  def _check_best_metric(self, part):
    """`part` of the name: classes are not known before the data are read."""
    best = self.loop.best_metric
    never = getattr(self.task, 'unmeasured', ())
    known = [name for name in self.task.empty().compute() if name not in never]
    if best and part(best) not in map(part, known):
      raise ValueError(
        f'train.best_metric={best!r} is no metric of task '
        f'{self.config["task"]["name"]!r}.{did_you_mean(best, known)} Known: '
        f'{", ".join(known)}; empty keeps no best checkpoint.'
      )

  def _check_room(self):
    """Who paints label maps is to see all classes of an image."""
    data = self.config['data']
    paints = hasattr(type(self.model), 'palette')
    paints = getattr(self.model, 'masks', paints)  # of an autoencoder's, some
    if data['name'] != 'semantic_folder' or not paints:
      return
    if data['num_ids'] <= data['num_classes']:
      raise ValueError(
        f'data.num_ids={data["num_ids"]} must be above '
        f'data.num_classes={data["num_classes"]}: of an image that shows more '
        'classes the smallest would become void.'
      )

  def check_ranges(self) -> None:
    """Raises ValueError where values do not fit one another."""
    config, accumulate = self.config, self.config['optimizer']['accumulate']
    self._check_room()
    self._check_best_metric(lambda name: name.split('/')[0])
    rate = getattr(self.model, 'self_condition_rate', 0)
    fraction = config['data']['batch_size'] // accumulate
    if rate and int(rate * fraction) < 1:
      raise ValueError(
        f'model.self_condition_rate={rate} of {fraction} examples is none; '
        'raise '
        'it, or data.batch_size / optimizer.accumulate.'
      )
    _ = self._encode_on_host  # whether there is such a way
    weights.check_entries(self.init_from)
