"""Config -> the data of a run: the half of build.Experiment on the host."""

import functools
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from pix2seqd_jax import checking
from pix2seqd_jax.data import latent_cache
from pix2seqd_jax.data import pipeline as data_pipeline
from pix2seqd_jax.data.formats import bad_examples, label_maps
from pix2seqd_jax.data.readers import semantic_folder
from pix2seqd_jax.data.transforms import transforms
from pix2seqd_jax.experiment import schema
from pix2seqd_jax.registry import DATASETS
from pix2seqd_jax.train import sharding
from pix2seqd_jax.types import (
  Batch,
  Category,
  Meta,
  Params,
  Segment,
  inputs_only,
)

# Transforms whose `size` is data.image_size unless the config says otherwise.
_SIZED = ('scale_jitter', 'fixed_size_crop', 'resize_to_fit', 'pad')
_RESIZING = ('scale_jitter', 'resize_to_fit')
# Of an image autoencoder: how it is computed, not what.
_SAME_LATENTS = ('parts', 'attention', 'remat')
# Paths of a source that are read from data.root on.
_BELOW_ROOT = (
  *('images', 'panoptic', 'annotations', 'labels', 'names', 'folder'),
)


def source_args(data: Mapping[str, Any], split: str):
  """The class of a split's source, and what it is called with."""
  kwargs = {**data['source'], **data[split]}
  for key in _BELOW_ROOT:
    if key in kwargs:
      checking.check_value(f'data.{split}.{key}', kwargs[key], str)
      kwargs[key] = os.path.join(data['root'], kwargs[key])
  return DATASETS[data['name']], kwargs


class DataParts:
  """Sources, transforms and batches of a config, each read once.

  Needs of the class that it is a part of: `config`, `seed`, `model`, and
  `_categories` and `_sources` from its constructor.
  """

  def source(self, split: str):
    """The examples of 'train' or 'eval'; read once.

    Raises:
      ValueError: a bad argument, or other classes than those of the run.
    """
    if split not in self._sources:
      self._sources[split] = self._read_source(split)
      # Classes are numbers from here on: the two splits must agree on them.
      check_same_classes(
        self._sources[split].categories, self.categories, f'data.{split}'
      )
      if latents := self.config['data']['latents']:
        count = len(self._sources[split])
        latent_cache.check_count(latents, split, count)
    return self._sources[split]

  def _read_source(self, split):
    data = self.config['data']
    entry, kwargs = source_args(data, split)
    source = schema.construct(f'data.source or data.{split}', entry, kwargs)
    self._check_count(source.categories)
    return source

  def _check_count(self, categories):
    data, count = self.config['data'], len(categories)
    if count != data['num_classes']:
      raise ValueError(
        f'data.num_classes={data["num_classes"]} but {data["name"]} has '
        f'{count} classes; set data.num_classes={count}.'
      )

  @functools.cached_property
  def categories(self) -> tuple[Category, ...]:
    """The classes; of folders of label maps no file is needed for them.

    Raises:
      ValueError: a bad argument of the source, or as many classes as
        data.num_classes does not say.
    """
    if self._categories or self.config['data']['name'] != 'semantic_folder':
      return self._categories or self._read_source('eval').categories
    entry, kwargs = source_args(self.config['data'], 'eval')
    checking.check_arguments('config.data.source or data.eval', entry, kwargs)
    found = semantic_folder.categories(**kwargs)
    self._check_count(found)
    return found

  @functools.cached_property
  def label_numbers(self) -> dict[int, int]:
    """The data set's own numbers in label maps -> classes, 0 = void.

    Those that `label_maps.label_map` writes, and what else a folder of label
    maps has for void; none for void where such a folder has none.
    """
    written = label_maps.label_values(self.categories, 'ids').tolist()
    found = {number: c for c, number in enumerate(written)}
    if self.config['data']['name'] != 'semantic_folder':
      return found
    _, kwargs = source_args(self.config['data'], 'eval')
    theirs = semantic_folder.numbers(**kwargs)
    found |= theirs
    if 0 not in theirs.values():
      found = {number: c for number, c in found.items() if c}
    return found

  @property
  def _named_stuff(self) -> tuple[int, ...]:
    """Classes with ids of their own: all stuff, or none (the paper)."""
    if not self.config['data']['name_stuff']:
      return ()
    return tuple(
      number
      for number, category in enumerate(self.categories, 1)
      if not category.is_thing
    )

  def transform_pairs(self, split: str) -> tuple[tuple[str, dict], ...]:
    """The config's transforms of a split, (name, kwargs), sizes filled in."""
    data = self.config['data']
    pairs = []
    for name, kwargs in data[f'{split}_transforms']:
      if name in _SIZED:
        kwargs = {'size': data['image_size'], **kwargs}
      if name in _RESIZING:
        kwargs = {'backend': data['backend'], **kwargs}
      if name == 'paint':
        model = self.config['model']  # of an image autoencoder in `masks`
        told = (model.get('masks') or model).get('anchors', {})
        kwargs = {'num_classes': data['num_classes'], **told, **kwargs}
      pairs.append((name, kwargs))
    return tuple(pairs)

  def transform(self, split: str, *, cached: bool = True):
    """The host transforms of a split: the config's, padding, the labels.

    With data.latents also the latent of the image, unless not `cached`: for
    an image that is none of the data set.
    """
    data = self.config['data']
    labels = {
      'size': data['mask_size'],
      'num_ids': data['num_ids'],
      'id_order': data['id_order'],
      'stuff': self._named_stuff,
    }
    made = transforms.build_transforms(
      (*self.transform_pairs(split), ('labels', labels))
    )
    if not (data['latents'] and cached):
      return made
    latents = latent_cache.open_latents(
      data['latents'], split, self.latent_origin(split)
    )
    return transforms.Compose((*made.transforms, latents))

  def latent_origin(self, split: str) -> dict[str, Any]:
    """What cached latents of a split depend on beside weights.

    Raises:
      ValueError: the model has no image autoencoder, or the split's transforms
        draw more than a flip.
    """
    model = self.config['model']
    if 'image_autoencoder' not in model:
      raise ValueError(
        f'data.latents: model.name={model["name"]!r} has no image autoencoder; '
        'latents are for ldmseg and semflow. Empty data.latents.'
      )
    if model.get('posterior') == 'sample':
      raise ValueError(
        "data.latents: model.posterior='sample' draws latents of images, but "
        "cached ones are modes; set model.posterior='mode', or empty "
        'data.latents.'
      )
    network = {
      k: v
      for k, v in model['image_autoencoder'].items()
      if k not in _SAME_LATENTS
    }
    network['dtype'] = model.get('dtype', 'float32')
    return latent_cache.origin(
      self.config['data'], split, self.transform_pairs(split), network
    )

  def check_latents(self, params: Params) -> None:
    """Raises ValueError where data.latents is of other weights than these.

    Without data.latents it does nothing. All processes must call it.
    """
    folder = self.config['data']['latents']
    if not folder:
      return
    found = sharding.flat_paths(params.get('frozen', {}).get('image', {}))
    found = {k: _whole(v) for k, v in found.items()}
    latent_cache.check_weights(folder, latent_cache.digest(found))

  @functools.cached_property
  def _encode_on_host(self):
    if self.config['data']['encode'] == 'device':
      return None
    if hasattr(self.model, 'encode_labels'):
      return self.model.encode_labels
    raise ValueError(
      "data.encode='host' is for models whose codes the host can make, but "
      f'model.name={self.config["model"]["name"]!r} makes its own on the '
      "device; set data.encode='device'."
    )

  def train_batches(self, start_step: int = 0) -> Iterator[Batch]:
    """Batch number `start_step` and all that follow, without end."""
    data = self.config['data']
    return data_pipeline.train_batches(
      self.source('train'),
      self.transform('train'),
      batch_size=data['batch_size'],
      seed=self.seed,
      start_step=start_step,
      process_index=jax.process_index(),
      process_count=jax.process_count(),
      num_threads=data['num_threads'],
      encode=self._encode_on_host,
      on_bad=self.on_bad('train'),
      loader=data['loader'],
    )

  def eval_batches(self, num_examples: int | None = None) -> Iterator[Batch]:
    """Every example of the eval split once; the last batch is padded."""
    return data_pipeline.eval_batches(
      self.source('eval'),
      self.transform('eval'),
      batch_size=self.config['eval']['batch_size'],
      process_index=jax.process_index(),
      process_count=jax.process_count(),
      num_examples=num_examples or self.config['eval']['num_examples'] or None,
      on_bad=self.on_bad('eval'),
    )

  @functools.cached_property
  def bad_examples(self) -> bad_examples.BadExamples:
    """What data.on_bad_example='skip' has passed over."""
    return bad_examples.BadExamples()

  def note_bad_examples(self, folder: str | os.PathLike) -> None:
    """Has them named in a file of this work directory, from now on."""
    self.bad_examples.path = os.path.join(folder, bad_examples.FILE)

  def on_bad(self, split: str):
    """What is told of bad examples of a split; None where they are errors."""
    if self.config['data']['on_bad_example'] == 'raise':
      return None
    return functools.partial(self.bad_examples.add, split)

  def files_of(self, indices: Iterable[int]) -> list[str]:
    """The files of training examples."""
    source = self.source('train')
    if hasattr(source, 'file_name'):
      return [str(source.file_name(i)) for i in indices]
    return [str(source[i].get('file', '')) for i in indices]

  def abstract_batch(self, batch_size: int = 1) -> dict[str, Any]:
    """Shapes of a training batch, without any data."""
    data = self.config['data']
    image, mask = data['image_size'], data['mask_size']
    shapes = {
      'image': ((*image, 3), np.uint8),
      'valid': (image, np.bool_),
      'semantic': (mask, np.int32),
      'instance': (mask, np.int32),
      'is_real': ((), np.bool_),
    }
    return {
      key: jax.ShapeDtypeStruct((batch_size, *shape), dtype)
      for key, (shape, dtype) in shapes.items()
    }

  def single(
    self, example: Mapping[str, Any], given: Sequence[str] = ()
  ) -> tuple[Batch, Meta]:
    """One image through the eval transforms: (device inputs, its meta).

    `given` names labels that are inputs; see types.inputs_only.
    """
    batch = next(
      data_pipeline.eval_batches(
        [example], self.transform('eval', cached=False), batch_size=1
      )
    )
    inputs = _inputs(batch)
    if given:
      inputs['given'] = inputs_only(batch, given)['given']
    return sharding.device_part(inputs), batch['meta'][0]

  def check_transforms(self, split: str) -> None:
    """Sends a blank image through the transforms of a split.

    Raises:
      ValueError: they do not end at data.image_size and data.mask_size.
    """
    data = self.config['data']
    size = tuple(data['image_size'])
    blank = {
      'image': np.zeros((*size, 3), np.uint8),
      'ids': np.ones(size, np.int32),
      'segments': (Segment(1, 1),),
      'index': 0,
      'file': f'a blank image for data.{split}_transforms',
    }
    transform = self.transform(split)
    _check_swaps(self.transform_pairs(split), data['num_classes'])
    made = transform(blank, np.random.default_rng(0))
    for key, expected in (('image', size), ('valid', size)):
      if key not in made or made[key].shape[:2] != expected:
        raise ValueError(
          f'data.{split}_transforms end with {key} of shape '
          f'{made[key].shape if key in made else None} but data.image_size='
          f"{size}; end them with ('pad', {{}})."
        )


def _check_swaps(pairs, num_classes):
  """Raises ValueError for a swap of a flip of classes that do not exist."""
  for _, kwargs in pairs:
    last = max((n for pair in kwargs.get('swap', ()) for n in pair), default=0)
    if last > num_classes:
      raise ValueError(
        f'data.train_transforms: the swap of random_flip names class {last}, '
        f'but data.num_classes={num_classes}; classes are numbered from 1.'
      )


def _whole(x) -> np.ndarray:
  """An array of any devices and processes, on each host."""
  if isinstance(x, jax.Array) and not x.is_fully_addressable:
    from jax.experimental import multihost_utils

    x = multihost_utils.process_allgather(x, tiled=True)
  return np.asarray(x)


def check_same_classes(found, expected, where):
  """Raises ValueError at the first class that differs."""
  for number, (a, b) in enumerate(zip(found, expected, strict=True), 1):
    if a[:3] != b[:3]:
      raise ValueError(
        f'{where}: class {number} is {tuple(a[:3])} (id, name, thing) but '
        f'{tuple(b[:3])} elsewhere in this run; list the categories of all '
        'JSON files in one order.'
      )


def _inputs(batch):
  return {k: batch[k] for k in ('image', 'valid')}
