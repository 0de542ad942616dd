"""Trained runs that are measured again and again, by several samplers."""

import functools
import pathlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from benchmarks import counted, timed
from pix2seqd_jax.experiment import build
from pix2seqd_jax.experiment import workdir as workdirs
from pix2seqd_jax.train import evaluate


class Sampler(NamedTuple):
  """A way to sample a model: its name, sampler, and the sampler's settings."""

  name: str
  sampler: str
  args: Mapping[str, Any] = {}


EULER = Sampler('Euler', 'euler')
# 'small' as in Stable Diffusion's scheduler: in few steps 'large' leaves more
# noise in the state than its time tells the network.
DDPM = Sampler('DDPM', 'ddpm', {'variance': 'small'})
SAMPLERS = {'semantic_dsm': (Sampler('DDIM', 'ddim'), DDPM)}


class Run:
  """A trained run, its parameters on one device, and held-out examples."""

  def __init__(self, folder: str, step: str | int, num_examples: int):
    self.folder = folder.rstrip('/')
    self.experiment = workdirs.load(folder)
    self.step = workdirs.find_step(folder, step)
    self.params = workdirs.load_params(self.experiment, folder, self.step)
    self.num_examples = num_examples

  @property
  def name(self) -> str:
    """Of its folder."""
    return pathlib.PurePath(self.folder).name

  @functools.cached_property
  def batches(self) -> list[Any]:
    """Read once, however often they are sampled."""
    return list(self.experiment.eval_batches(self.num_examples))

  @property
  def samplers(self) -> tuple[Sampler, ...]:
    """Euler for flows; DDIM and DDPM for the baseline."""
    return SAMPLERS.get(self.experiment.config['model']['name'], (EULER,))

  @property
  def draws(self) -> bool:
    """Whether it makes images of masks."""
    return EULER in self.samplers

  @property
  def steps(self) -> int:
    """Of sampling, by its config."""
    return self.experiment.config['sample']['steps']

  def variant(
    self, sampler: Sampler, task: str, **synthesis: Any
  ) -> build.Experiment:
    """The experiment with another sampler, judged by another task."""
    config = self.experiment.config
    sample = {'sampler': sampler.sampler, 'sampler_args': dict(sampler.args)}
    if sampler.sampler == 'euler':
      sample |= {'timestep_spacing': 'uniform', 'timestep_spacing_args': {}}
    found = build.Experiment(
      {
        **config,
        'task': {'name': task},
        'sample': {**config['sample'], **sample, 'td': 0.0},
        'synthesis': {**config['synthesis'], **synthesis},
      },
      self.experiment.categories,
    )
    found.model = self.experiment.model
    return found

  def score(
    self,
    sampler: Sampler,
    steps: int,
    task: str = 'semantic',
    *,
    seed: int = 0,
    on_example: Callable | None = None,
    **synthesis: Any,
  ) -> dict[str, float]:
    """The task's metrics, `seconds` a sample, and `calls` of the network for
    each (`calls_back` to images); on_example(segmentation) sees answers."""
    experiment = self.variant(sampler, task, **synthesis)
    timesteps = experiment.timesteps(steps)
    sampler = counted.counted(experiment.sampler)
    sample_fn = timed.Timed(
      evaluate.make_sampler(
        experiment.model,
        timesteps=timesteps,
        sampler=sampler,
        num_samples=1,
        **experiment.sampling_options(),
      )
    )
    found = evaluate.evaluate(
      experiment.model,
      experiment.task,
      self.params,
      self.batches,
      sample_fn=sample_fn,
      seed=seed,
      on_example=on_example and (lambda seen, meta: on_example(seen)),
      progress=False,
    )
    real = [np.asarray(batch['is_real'], bool) for batch in self.batches]
    result = {**found, 'seconds': sample_fn.seconds / sample_fn.images}
    for back, key in ((False, ''), (True, '_back')):
      told = sampler, experiment.model.process, timesteps, back, real
      result[f'calls{key}'] = counted.calls(*told)
      result[f'cut_short{key}'] = counted.cut_short(sampler, back, real)
    return result
