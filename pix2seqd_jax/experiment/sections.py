"""The sections of a config: each key once, with its type, range and meaning.

  key: Annotated[type, 'What it means.', a rule, ...] = default

A key without a default must be given by the config. Defaults, checks, error
messages and the reference in docs/configuration.md follow from here (see
schema.py). What people write and change are ConfigDicts.
"""

# Own dataclasses, not pydantic: its messages tell neither the nearest known key
# nor the fix, and it knows no ConfigDict.

import dataclasses
import importlib
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from pix2seqd_jax.checking import Range


@dataclasses.dataclass(frozen=True)
class Choices:
  """The words of a table, 'module.TABLE' of this package.

  For the reference alone: the owner checks them, and its error names them.
  """

  table: str

  def __iter__(self) -> Iterator[str]:
    module, _, table = self.table.rpartition('.')
    found = importlib.import_module(f'pix2seqd_jax.{module}')
    return iter(getattr(found, table))


@dataclasses.dataclass(frozen=True)
class Free:
  """The key may change when a run goes on: it changes no good example."""


# Upper bounds are far above any use, and below what would fill a machine's
# memory by a typing error.
_FEW, _MANY = 2**16, 2**31 - 1
Seed = Range(0, 2**32 - 1)
Size = Annotated[
  tuple[int, int], Range(1, 2**14, what='(height, width) in pixels, each')
]
Named = tuple[tuple[str, Mapping], ...]  # (name, keyword arguments), in order


@dataclasses.dataclass(frozen=True, kw_only=True)
class Data:
  """The data set, and what is made of an example before the device sees it."""

  name: Annotated[str, 'Name of the reader.', Choices('registry.DATASETS')]
  root: Annotated[str, 'The folder that all paths below start from.', Free()]
  source: Annotated[Mapping, 'Arguments of the reader, for both splits.']
  train: Annotated[Mapping, 'Arguments of the reader, for training.']
  eval: Annotated[Mapping, 'Arguments of the reader, for evaluation.']
  num_classes: Annotated[
    int, 'Number of classes, void not counted.', Range(1, _FEW)
  ]
  num_ids: Annotated[
    int,
    'Number of ids that segments can have.',
    Range(2, 2**24, note='It counts the null id 0.'),
  ]
  image_size: Annotated[Size, 'Size of the images that networks see.']
  mask_size: Annotated[Size, 'Size of the masks that are learned.']
  id_order: Annotated[
    str,
    'Which segment gets which id.',
    Choices('data.transforms.labels.ID_ORDERS'),
  ]
  name_stuff: Annotated[bool, 'Each class of stuff has an id of its own.']
  encode: Annotated[
    Literal['host', 'device'], 'Where labels become analog bits.'
  ]
  train_transforms: Annotated[
    Named, 'Transforms of training examples, in order.'
  ]
  eval_transforms: Annotated[
    Named, 'Transforms of evaluated and predicted images.'
  ]
  batch_size: Annotated[
    int, 'Examples a training step, over all devices.', Range(1, _FEW)
  ]
  num_threads: Annotated[
    int, 'Threads that read and transform.', Range(0, 1024), Free()
  ]
  on_bad_example: Annotated[
    Literal['raise', 'skip'], 'What happens at an unreadable example.', Free()
  ] = 'raise'
  backend: Annotated[
    str,
    'The library that enlarges images; opencv is an extra.',
    Choices('data.transforms.resize.BACKENDS'),
  ] = 'pillow'
  loader: Annotated[
    Literal['grain', 'tf_data'],
    'The library that makes batches, the same ones by both.',
    Free(),
  ] = 'grain'
  latents: Annotated[
    str, 'A folder of cached latents of the images; empty: none.', Free()
  ] = ''


@dataclasses.dataclass(frozen=True, kw_only=True)
class Model:
  """The method; the other keys are arguments of its class."""

  name: Annotated[str, 'Name of the method.', Choices('registry.MODELS')]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task:
  """The question that is asked; the other keys are arguments of its class."""

  name: Annotated[str, 'Name of the task.', Choices('registry.TASKS')]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sample:
  """How answers are sampled."""

  steps: Annotated[int, 'Number of steps.', Range(1, _FEW)]
  td: Annotated[
    float, "Pix2Seq-D's asymmetric time interval, in steps, 0 or more."
  ]
  sampler: Annotated[
    str,
    "Name of the sampler, or a call of it: 'ddim(eta=0.5)'.",
    Choices('diffusion.samplers.SAMPLERS'),
  ]
  sampler_args: Annotated[Mapping, 'Arguments of the sampler.']
  seed: Annotated[
    int, 'Seed of the noise; each example has its own noise.', Seed
  ]
  timestep_spacing: Annotated[
    str,
    "Name of the spacing, or a call of it: 'uniform(end=0.001)'.",
    Choices('diffusion.timesteps.SPACINGS'),
  ] = 'uniform'
  timestep_spacing_args: Annotated[Mapping, 'Arguments of the spacing.'] = (
    dataclasses.field(default_factory=dict)
  )
  guidance: Annotated[
    float,
    "Scale of guidance; 1 is the condition alone (PDM's gamma is one less).",
  ] = 1.0
  returns: Annotated[
    str,
    "Which estimate is the answer; empty: the model's own choice.",
    Choices('diffusion.sampling.RETURNS'),
  ] = ''
  inpainting: Annotated[
    str,
    'How the given part of a mask is kept.',
    Choices('diffusion.inpainting.VARIANTS'),
  ] = 'x0'
  strength: Annotated[
    float, 'Noise on a given mask, in (0, 1]; 1 is noise alone.'
  ] = 1.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Optimizer:
  """The updates of the weights. Regexes are searched in names of parameters."""

  name: Annotated[
    str,
    'adamw (as in Keras), torch_adamw, adam, sgd (momentum b1) or lamb.',
  ]
  learning_rate: Annotated[float, 'The highest learning rate.']
  schedule: Annotated[
    str, 'The rate after the warm-up: linear, cosine or constant.'
  ]
  warmup_steps: Annotated[
    int, 'Steps in which the rate rises from 0.', Range(0, _MANY)
  ]
  end_factor: Annotated[float, 'The last rate, as a fraction of the highest.']
  b1: Annotated[float, 'Decay of the first moment.']
  b2: Annotated[float, 'Decay of the second moment.']
  eps: Annotated[float, 'Added to the denominator of Adam.']
  weight_decay: Annotated[float, 'Decoupled weight decay, times the rate.']
  decay_mask: Annotated[
    str | tuple[str, ...], 'Which weights decay: all, kernels, or regexes.'
  ]
  clip_norm: Annotated[
    float | None, "Bound of the gradients' global norm; None: no bound."
  ]
  groups: Annotated[
    tuple, '(regex, multiplier of the rate); the first match counts.'
  ]
  freeze: Annotated[tuple[str, ...], 'Regexes of weights that are not trained.']
  accumulate: Annotated[
    int,
    'Parts of a batch that are computed one by one.',
    Range(1, _FEW),
  ]
  ema_decay: Annotated[
    float,
    'Decay of the averaged weights.',
    Range(0, 1, below=True, note='0 keeps no average.'),
  ]
  ema_warmup: Annotated[
    bool, 'The decay is at most (1 + i) / (10 + i) after i steps.'
  ]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Train:
  """Lengths and intervals of a run, in steps; an interval of 0 is never."""

  steps: Annotated[int, 'Number of training steps.', Range(1, _MANY)]
  log_every: Annotated[int, 'Steps between lines of metrics.', Range(1, _MANY)]
  save_every: Annotated[int, 'Steps between checkpoints.', Range(0, _MANY)]
  eval_every: Annotated[int, 'Steps between evaluations.', Range(0, _MANY)]
  keep: Annotated[
    int, 'Number of newest checkpoints that stay.', Range(1, _MANY)
  ]
  best_metric: Annotated[
    str, 'Metric whose best checkpoint stays; empty: none does.'
  ]
  num_panels: Annotated[
    int, 'Images of an evaluation in TensorBoard.', Range(0, _MANY)
  ]
  keep_every: Annotated[
    int, 'Checkpoints of its multiples stay; 0: none do.', Range(0, _MANY)
  ] = 0
  ledger: Annotated[bool, 'Writes a hash of every example of each step.'] = (
    False
  )
  max_loss: Annotated[
    float, 'A larger loss stops the run.', Range(0, note='0: no loss does.')
  ] = 0.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Eval:
  """How checkpoints are evaluated."""

  batch_size: Annotated[
    int, 'Examples at once, over all devices.', Range(1, _FEW)
  ]
  num_examples: Annotated[
    int, 'Number of examples; 0: all of the split.', Range(0, _MANY)
  ]
  use_ema: Annotated[bool, 'Whether the averaged weights are evaluated.']


@dataclasses.dataclass(frozen=True, kw_only=True)
class Synthesis:
  """Of task.name='synthesis', which scores any run that makes images."""

  num_samples: Annotated[int, 'Images of each mask.'] = 2
  perturbation: Annotated[
    float, "Noise on the mask, in levels of 255; below 0: the model's."
  ] = -1.0
  inception: Annotated[
    str, "File of FID's Inception; empty: VGG-16 instead."
  ] = ''
  lpips: Annotated[str, "Folder of LPIPS' weights; empty: random weights."] = ''


@dataclasses.dataclass(frozen=True, kw_only=True)
class Distributed:
  """Which process this is of how many; no part of what a run is."""

  mode: Annotated[
    str,
    'Where this is read; auto: all in turn.',
    Choices('train.processes.MODES'),
  ] = 'auto'
  coordinator: Annotated[str, 'host:port of process 0; empty: it is found.'] = (
    ''
  )
  num_processes: Annotated[int, 'Processes of the run; 0: it is found.'] = 0
  process_id: Annotated[int, 'Number of this process; -1: it is found.'] = -1
  timeout_s: Annotated[int, 'Seconds to wait for the others at the start.'] = (
    300
  )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
  """All of it."""

  seed: Annotated[
    int, 'Seed of first weights, noise and order in training.', Seed
  ]
  data: Data
  model: Model
  task: Task
  sample: Sample
  optimizer: Optimizer
  train: Train
  eval: Eval
  mesh: Annotated[
    tuple[tuple[str, int], ...],
    'Axes of the devices and their sizes; -1: all that are left.',
  ]
  shard_rules: Annotated[
    tuple[tuple[str, Any], ...],
    '(regex, axis of the mesh for each dimension); empty: no split.',
  ]
  init_from: Annotated[
    tuple[tuple[str, str, str, str], ...],
    'First weights: (folder of a run, prefix there, prefix here, rule).',
  ]
  synthesis: Synthesis
  distributed: Distributed
