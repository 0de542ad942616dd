"""The nouns that all packages share: trees, the interface of models, of tasks.

Axis letters, used in every signature: b batch, h w height and width, c
channels, k bits or codes, g groups of codes, n tokens, d features, f frames,
s samples of one image, l letters of a caption.

Decided once (design.md, section 4): 0 is void everywhere; classes are
1..num_classes, `num_classes` without void; instances are 1..num_ids - 1,
`num_ids` with the null id 0; images are uint8 RGB until they reach the
device; t = 0 is data and t = 1 is the source.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np

# {'net': trained, with EMA; 'stats': running statistics (BatchNorm), with EMA
# but without gradient; 'frozen': neither, saved once a run}.
Params = Mapping[str, Any]
Batch = Mapping[str, Any]
PyTree = Any
State = PyTree  # what is diffused: an array [b, ...] or a dict of them
Condition = PyTree
Weight = Any  # broadcastable to the loss of each element, or None
Raw = Any  # what a model decodes to, at the network's resolution
Meta = Mapping[str, Any]
Array = Any

# What is folded into an example's key for its tiles and for its samples after
# the first: far from the steps of a sampler, which are folded in as 0, 1, ...
FIRST_TILE, FIRST_SAMPLE = 2**30, 2**31
# The keys of a batch that hold the truth. They are taken away before sampling.
LABELS = ('semantic', 'instance', 'bits', 'colors')
# Kept on the host: never sent to a device.
HOST_KEYS = ('meta',)


class Category(NamedTuple):
  """A class. Class number c of this library is `categories[c - 1]`."""

  id: int  # the number that the user's own files use
  name: str
  is_thing: bool
  color: tuple[int, int, int] | None = None


class Segment(NamedTuple):
  """One segment of the truth or of a prediction, named by its id in a map."""

  id: int
  class_id: int  # the class number 1..num_classes
  is_crowd: bool = False
  score: float | None = None


class Encoded(NamedTuple):
  """What an image (or a text) becomes, once, however many steps follow."""

  condition: Condition
  null: Condition | None = None  # for guidance
  stats: Any = None  # new running statistics; None when not training


class Prediction(NamedTuple):
  """`value` estimates the process's target; `aux` (logits) is for the loss."""

  value: State
  aux: Any = None


class Aux(NamedTuple):
  """What `loss_fn` returns beside the loss."""

  scalars: Mapping[str, Array]
  stats: Any = None


class Timesteps(NamedTuple):
  """Times at which the network is called, and where each step lands.

  Both are float64 [n], in [0, 1]. `next[i]` may differ from `now[i + 1]`
  (asymmetric time intervals; diffusers' linspace).
  """

  now: np.ndarray
  next: np.ndarray


class Segmentation(NamedTuple):
  """A read-out image at its original size; int32 [h, w], 0 = void."""

  semantic: np.ndarray
  instance: np.ndarray
  score: np.ndarray | None = None  # float32 [h, w], confidence in [0, 1]
  image: np.ndarray | None = None  # uint8 [h, w, 3], from models that draw one


@runtime_checkable
class Source(Protocol):
  """A data set on the host: random access, no state.

  An example is a dict: `image` uint8 [h, w, 3], `ids` int32 [h, w] (0 = void,
  else the id of a segment), `segments` tuple[Segment, ...] naming every id,
  `index` int, `file` str; a source may add more (`caption`).
  """

  categories: tuple[Category, ...]

  def __len__(self) -> int: ...

  def __getitem__(self, index: int) -> dict[str, Any]: ...


@runtime_checkable
class Model(Protocol):
  """All that train/ and evaluate know of a method."""

  def init(self, rng: Array, batch: Batch) -> Params: ...

  def loss_fn(
    self, params: Params, batch: Batch, rng: Array
  ) -> tuple[Array, Aux]: ...

  def sample(
    self,
    params: Params,
    batch: Batch,
    keys: Array,
    *,
    timesteps: Timesteps,
    sampler: Any,
    num_samples: int = 1,
  ) -> State: ...

  def decode(self, params: Params, x_0: State, batch: Batch) -> Raw: ...

  def postprocess(self, raw: Raw, meta: Meta) -> Segmentation: ...


@runtime_checkable
class MetricState(Protocol):
  """Counts that add up: over batches, over processes."""

  def merge(self, other: 'MetricState') -> 'MetricState': ...

  def compute(self) -> dict[str, float]: ...


@runtime_checkable
class Task(Protocol):
  """What is asked of a Segmentation."""

  # Labels handed over on purpose as batch['given']; all others are stripped.
  given: tuple[str, ...]

  def predict(
    self, sample_fn: Callable[..., Raw], batch: Batch, keys: Array
  ) -> Raw: ...

  def refine(self, segmentation: Segmentation) -> Segmentation: ...

  def metrics(self, segmentation: Segmentation, meta: Meta) -> MetricState: ...


def inputs_only(batch: Batch, given: Iterable[str] = ()) -> dict[str, Any]:
  """Takes every label out of a batch, so that a leak is a KeyError.

  Labels named in `given` are inputs of the task (a mask to complete, to
  synthesise from) and are handed over as `batch['given']`; of classes, their
  colours too where data.eval_transforms paint them.
  """
  inputs = {
    k: v for k, v in batch.items() if k not in LABELS and k not in HOST_KEYS
  }
  given = tuple(given)
  if given:
    inputs['given'] = {k: batch[k] for k in given}
  if 'semantic' in given and 'colors' in batch:
    inputs['given']['colors'] = batch['colors']
  return inputs
