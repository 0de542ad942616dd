"""Masks -> images: what Pipeline.synthesize does.

The way back of a flow between images and masks (SemFlow, Wang et al. 2024,
https://arxiv.org/abs/2405.20282, section 3.4): the same network, the same
times in the other order.
"""

import dataclasses
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from PIL import Image

from pix2seqd_jax.data.formats import label_maps
from pix2seqd_jax.experiment import build
from pix2seqd_jax.types import Category, Params
from pix2seqd_jax.visualize import overlays

# Of the noise on masks that a model was trained with, for strips and tables.
FACTORS = (0.0, 0.5, 1.0, 1.5, 2.0)


@dataclasses.dataclass(frozen=True)
class SynthesisResult:
  """What was made of a mask.

  Attributes:
    images: of each sample uint8 [h, w, 3], at the size of the network: the
      mask's, shrunk or enlarged as the config says; see `resized`.
    mask: int32 [h', w'], the classes that were given; 0 = void.
    categories: the classes.
  """

  images: tuple[np.ndarray, ...]
  mask: np.ndarray
  categories: tuple[Category, ...]

  def panel(self, columns: int = 4) -> np.ndarray:
    """The mask and all images side by side, with a legend; uint8."""
    painted = overlays.paint(*overlays.as_map(self.mask), self.categories)
    captions = ['mask']
    captions += [f'sample {i}' for i in range(1, len(self.images) + 1)]
    shown = [
      overlays.captioned(one, caption)
      for one, caption in zip((painted, *self.images), captions, strict=True)
    ]
    strip = overlays.grid(shown, columns)
    return overlays.with_legend(
      strip, [overlays.as_map(self.mask)], self.categories
    )

  def resized(self) -> 'SynthesisResult':
    """The same with images of the mask's own size, by bicubic weights."""
    h, w = self.mask.shape
    images = tuple(
      np.asarray(Image.fromarray(one).resize((w, h), Image.Resampling.BICUBIC))
      for one in self.images
    )
    return dataclasses.replace(self, images=images)

  def save(
    self, folder: str | os.PathLike, name: str = 'image.png'
  ) -> list[pathlib.Path]:
    """Writes STEM.png, or STEM_1.png, STEM_2.png, ... of several samples.

    Returns:
      The files.
    """
    stem = pathlib.PurePath(name).stem
    names = [f'{stem}.png']
    if len(self.images) > 1:
      names = [f'{stem}_{i}.png' for i in range(1, len(self.images) + 1)]
    paths = [pathlib.Path(folder) / name for name in names]
    for path, image in zip(paths, self.images, strict=True):
      overlays.save_png(path, image)
    return paths


class Synthesizer:
  """A trained model that makes images of masks.

  Args:
    experiment: the parts, from a work directory's config.
    params: as from the checkpoint.
  """

  def __init__(self, experiment: build.Experiment, params: Params):
    self.experiment, self.params = experiment, params

  def read(self, mask: Any, values: str | None = None) -> np.ndarray:
    """`read_mask`, by the classes and the numbers of the run's data."""
    return read_mask(
      mask,
      self.experiment.categories,
      values,
      lambda: self.experiment.label_numbers,
    )

  def batch(
    self, mask: np.ndarray, perturbation: float | int | None = None
  ) -> tuple[Any, Any]:
    """A mask that `read` has read -> (the device's inputs, its meta).

    Raises:
      ValueError: a model that makes no images, or a perturbation with which
        masks would not be what they are.
    """
    ids, segments = overlays.as_map(mask)
    example = {
      'image': np.zeros((*mask.shape, 3), np.uint8),
      'ids': ids,
      'segments': segments,
      'index': 0,
      'file': '',
    }
    batch, meta = self.experiment.single(example, ('semantic',))
    self._check(batch)
    if perturbation is not None:
      self.experiment.model.check_perturbation(perturbation)
      told = np.full(1, perturbation, np.float32)
      batch['given']['perturbation'] = jax.numpy.asarray(told)
    return batch, meta

  def _check(self, batch):
    model = self.experiment.model
    start = getattr(model, 'start', None)
    keys = jax.random.split(jax.random.key(0), 1)
    if start and jax.eval_shape(start, self.params, batch, keys) is not None:
      return
    name = self.experiment.config['model']['name']
    raise ValueError(
      f'a model {name!r} makes no images of masks; use one that leads from '
      "each to the other (model.name='semflow')."
    )

  def draw(
    self,
    mask: np.ndarray,
    key: Any,
    *,
    steps: int | None = None,
    num_samples: int = 1,
    perturbation: float | int | None = None,
    callback: Callable | None = None,
  ) -> SynthesisResult:
    """The images; see Pipeline.synthesize."""
    batch, meta = self.batch(mask, perturbation)
    told = {'callback': callback} if callback else {}
    sample_fn = self.experiment.sample_fn(steps, None, num_samples, **told)
    raw = jax.device_get(sample_fn(self.params, batch, key[None]))
    images = [
      self.experiment.model.postprocess(
        jax.tree.map(lambda leaf, i=i: leaf[i], raw), meta
      ).image
      for i in range(num_samples)
    ]
    return SynthesisResult(tuple(images), mask, self.experiment.categories)


def noise_factors(
  model: Any, factors: Sequence[float | int] | None = None
) -> tuple[float | int, ...]:
  """Factors of a model's perturbation, all of which may be sampled with.

  Args:
    model: a SemFlow.
    factors: which; None: those of FACTORS that may be.

  Raises:
    ValueError: a factor, of those that were given, with which a colour could
      be that of another class.
  """
  if factors is None:
    limit = model.palette.spacing / 2
    return tuple(f for f in FACTORS if f * model.perturbation < limit)
  for factor in factors:
    name = f'the noise of factor {factor:g},'
    model.check_perturbation(factor * model.perturbation, name)
  return tuple(factors)


def read_mask(
  mask: Any,
  categories: Sequence[Category],
  values: str | None = None,
  numbers: Callable[[], Mapping[int, int]] | None = None,
) -> np.ndarray:
  """A mask in any form -> classes int32 [h, w], 0 = void.

  Args:
    mask: a path of a label map (one channel, without loss), a PIL image,
      integers [h, w], or a result of Pipeline.segment.
    categories: class c is `categories[c - 1]`.
    values: 'classes', 0 for void and 1..C; or 'ids', the data set's own
      numbers. None: 'ids' of files and images, as data sets and
      Pipeline.predict write them, 'classes' of arrays.
    numbers: gives {the data set's own number: class, 0 = void}; None: those of
      label_maps.label_values.

  Raises:
    ValueError: a file that cannot be read, no map of integers, a number that
      is no class, or a result with other classes.
  """
  if hasattr(mask, 'segmentation'):
    _check_result(mask, categories)
    return mask.semantic('classes').astype(np.int32)
  is_image = isinstance(mask, str | os.PathLike) or hasattr(mask, 'getbands')
  values = values or ('ids' if is_image else 'classes')
  if isinstance(mask, str | os.PathLike):
    mask = label_maps.read(mask)
  if hasattr(mask, 'getbands') and len(mask.getbands()) > 1:
    raise ValueError(
      f'mask is an image of mode {mask.mode}; give a label map: one number, '
      'the class, for each pixel.'
    )
  found = np.asarray(mask)
  if found.dtype == bool:
    found = found.astype(np.int32)
  if found.dtype.kind not in 'iu' or found.ndim != 2 or not found.size:
    raise ValueError(
      f'mask is {found.dtype} {found.shape}; give integers [h, w]: the class '
      'of each pixel, 0 where there is none.'
    )
  written = label_maps.label_values(categories, values).tolist()
  known = {number: c for c, number in enumerate(written)}
  if values == 'ids' and numbers:
    known = numbers()
  present, which = np.unique(found, return_inverse=True)
  unknown = [number for number in present.tolist() if number not in known]
  if unknown:
    void = [n for n in known if not known[n]]
    raise ValueError(
      f'mask holds {", ".join(map(str, unknown[:5]))} but values={values!r} '
      f'of this model are {_span(known)}; map them to its {len(categories)} '
      f'classes, {f"or to void ({min(void)}), " if void else ""}or give '
      "values='classes' (0 = void, 1, 2, ...) or 'ids' (of the data set)."
    )
  classes = np.array([known[number] for number in present.tolist()], np.int32)
  return classes[which].reshape(found.shape)


def _check_result(result, categories):
  theirs = [category.name for category in result.categories]
  ours = [category.name for category in categories]
  if theirs != ours:
    raise ValueError(
      f'mask is a result with {len(theirs)} classes, {_some(theirs)}, but this '
      f'model draws {len(ours)}, {_some(ours)}, which are not the same; give '
      "the map of classes itself, in this model's numbers."
    )


def _some(names):
  return ', '.join(names[:3]) + (', ...' if len(names) > 3 else '')


def _span(known):
  numbers = sorted(known)
  if numbers == list(range(numbers[0], numbers[-1] + 1)):
    return f'{numbers[0]}..{numbers[-1]}'
  shown = ', '.join(map(str, numbers[:12]))
  return shown + (', ...' if len(numbers) > 12 else '')
