"""The face for users: a trained directory, an image, a panoptic mask.

pipe = Pipeline.from_pretrained('runs/shapes')
result = pipe.segment('street.jpg', steps=20, seed=0)
result.segmentation     # int32 [h, w]: 0 = void, else the id of a segment
result.segments_info    # [{'id', 'label_id', 'label', 'score', 'area'}, ...]
result.overlay()        # uint8 [h', w', 3], with a legend

pipe.segment('city.tif', tile=1024)           # a large image
pipe.segment('street.jpg', num_samples=8).agreement     # float32 [h, w]

pipe.inpaint('street.jpg', partial)          # ids [h, w], 0 where unknown
pipe.synthesize(mask, num_samples=4).images   # of classes [h, w]; SemFlow
"""

import copy
import os
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from pix2seqd_jax.data.formats import decode, files
from pix2seqd_jax.experiment import build, workdir
from pix2seqd_jax.inference import inpainting, results, synthesis, tiling
from pix2seqd_jax.train import log
from pix2seqd_jax.types import FIRST_TILE, Category, Params

FORMATS = results.FORMATS
PanopticResult = results.PanopticResult
SynthesisResult = synthesis.SynthesisResult


class Pipeline:
  """A trained model and all that its images need.

  Args:
    experiment: the parts, from a work directory's config.
    params: as from the checkpoint.
  """

  def __init__(self, experiment: build.Experiment, params: Params):
    self.experiment = experiment
    self.params = params
    self._completer = inpainting.Completer(experiment, params)
    self._synthesizer = synthesis.Synthesizer(experiment, params)

  @classmethod
  def from_pretrained(
    cls,
    directory: str | os.PathLike,
    *,
    step: int | str | None = None,
    ema: bool | None = None,
    config: Any = None,
  ) -> 'Pipeline':
    """Loads a work directory.

    Args:
      directory: holds config.json, categories.json and checkpoints/.
      step: of the checkpoint; None is the newest, 'best' the best.
      ema: the averaged parameters; None is what config.eval.use_ema says.
      config: in place of the directory's, with the same model.

    Raises:
      ValueError: the directory lacks a part, or its checkpoint does not fit
        its config.
    """
    folder = pathlib.Path(directory)
    experiment = workdir.load(folder, config)
    found = workdir.find_step(folder, '' if step is None else step)
    return cls(experiment, workdir.load_params(experiment, folder, found, ema))

  @property
  def categories(self) -> tuple[Category, ...]:
    return self.experiment.answer_categories

  def segment(
    self,
    image: Any,
    *,
    steps: int | None = None,
    seed: int = 0,
    td: float | None = None,
    tile: int | tuple[int, int] | None = None,
    overlap: int | tuple[int, int] | None = None,
    num_samples: int = 1,
    callback: Callable[[int, int, Any, Any], None] | None = None,
  ) -> PanopticResult:
    """One image -> its panoptic segments, at the image's size.

    Args:
      image: a path, a PIL image, or uint8 [h, w, 3].
      steps: calls of the denoiser; None is the config's.
      seed: the same seed gives the same mask.
      td: the time difference of asymmetric steps; None is the config's.
      tile: for images that lose too much when they are shrunk to what the
        network sees: a side or (height, width) in pixels. Each tile is taken
        as an image of its own, and ids are stitched; see tiles.
      overlap: of neighbouring tiles; None is a quarter of a tile.
      num_samples: draws several masks (of each tile) and keeps the one that
        agrees best with the others; `agreement` and `entropy` say where they
        do, and segments_info how far in each segment (`confidence`).
      callback: called after each step of sampling as (step, num_steps, the
        sample, the estimate of the analog bits), the last two [n, h, w, k].
        Every other function is compiled anew: keep one.

    Raises:
      ValueError: an image that cannot be read, an argument out of range, or a
        run that answers with something else than segments.
    """
    _check_samples(num_samples)
    if not hasattr(self.experiment.task, 'segments'):
      raise ValueError(
        f'task.name={self.experiment.config["task"]["name"]!r} reads no '
        'segments out of what the model answers; name the run of a model that '
        'segments.'
      )
    image = as_rgb(image)
    told = {'callback': callback} if callback else {}
    sample_fn = self.experiment.sample_fn(steps, td, num_samples, **told)
    key = _key(seed)

    def draw(part, key, task):
      return self._draw(part, key, sample_fn, num_samples, task)

    if tile is None:
      found = draw(image, key, self.experiment.task)
    else:
      windows = tiling.windows(image.shape[:2], tile, overlap)
      found = self._stitch(image, key, draw, windows)
    return self._result(image, found)

  def inpaint(
    self,
    image: Any,
    partial: Any,
    valid: Any = None,
    *,
    steps: int | None = None,
    seed: int = 0,
    num_samples: int = 1,
    strength: float | None = None,
    inpainting: str | None = None,
    keep_given: bool = True,
  ) -> PanopticResult:
    """An image and a part of its mask -> the whole mask.

    A segment that grew from a given one has its id in the result; new ones get
    ids that are free. With nothing given this is `segment`.

    Args:
      image: as in `segment`.
      partial: what is known, at the image's size: ids [h, w], 0 = unknown;
        or a list of disjoint bool masks, the i-th of which has the id i + 1.
        Scattered pixels will do.
      valid: bool [h, w], which pixels are given, those of id 0 as void; None:
        those with an id.
      steps, seed, num_samples: as in `segment`.
      strength: in (0, 1]. Below 1 sampling starts with the given mask, noised
        so far: what is poor is refined, the better the mask the lower. None is
        the config's.
      inpainting: how the sample keeps to what is given, of diffusion.
        inpainting.VARIANTS; None is the config's.
      keep_given: given pixels come back as they are. Otherwise they are drawn
        by the model too, and with a strength nothing but the start is given.

    Raises:
      ValueError: a mask that does not fit the image or the model, or a model
        that cannot complete masks.
    """
    _check_samples(num_samples)
    image = as_rgb(image)
    batch, meta = self._batch(image)
    self._completer.check(strength, inpainting)
    given = self._completer.read(partial, valid, batch, meta, strength)
    if not given.known.any():
      return self.segment(
        image, steps=steps, seed=seed, num_samples=num_samples
      )
    drawn = self._completer.draw(
      given,
      batch,
      meta,
      seed,
      _key(seed),
      steps=steps,
      num_samples=num_samples,
      strength=strength,
      inpainting=inpainting,
      keep_given=keep_given,
    )
    return self._result(image, drawn)

  def synthesize(
    self,
    mask: Any,
    *,
    steps: int | None = None,
    num_samples: int = 1,
    seed: int = 0,
    perturbation: float | int | None = None,
    values: str | None = None,
    callback: Callable[[int, int, Any, Any], None] | None = None,
  ) -> SynthesisResult:
    """A mask of classes -> images of it.

    Args:
      mask: integers [h, w], 0 = void; the file of a label map, or a PIL
        image of one; or what `segment` returned.
      steps: calls of the network; None is the config's.
      num_samples: images of the mask, which differ by the noise on it.
      seed: the same seed gives the same images.
      perturbation: half the width of that noise, in levels of 0..255; None is
        what the model was trained with. Less makes images dull, more glaring
        (SemFlow, section 3.4); with 0 all samples are equal.
      values: 'classes' 1..C, or the data set's own 'ids'. None: 'ids' of files
        and PIL images, which `predict` writes so too, 'classes' of arrays.
      callback: as in `segment`; x and its estimate are latents.

    Raises:
      ValueError: a mask that cannot be read or holds other numbers, a model
        that makes no images, or an argument out of range.
    """
    _check_samples(num_samples)
    return self._synthesizer.draw(
      self._synthesizer.read(mask, values),
      _key(seed),
      steps=steps,
      num_samples=num_samples,
      perturbation=perturbation,
      callback=callback,
    )

  def _result(self, image, drawn: results.Drawn) -> PanopticResult:
    ids, segments, agreed, entropy = drawn
    return PanopticResult(
      image, ids, segments, self.categories, agreed, entropy
    )

  def _draw(self, image, key, sample_fn, num_samples, task) -> results.Drawn:
    """The answer for an image or a tile."""
    batch, meta = self._batch(image)
    raw = jax.device_get(sample_fn(self.params, batch, key[None]))

    def read(i):
      one = jax.tree.map(lambda leaf: leaf[i], raw)
      return task.segments(
        task.refine(self.experiment.model.postprocess(one, meta))
      )

    return results.agreed([read(i) for i in range(num_samples)])

  def _stitch(self, image, key, draw, windows) -> results.Drawn:
    """The same of an image, from its windows."""
    task = copy.copy(self.experiment.task)
    task.min_pixels = 0  # a small part may belong to a large segment
    stitcher = tiling.Stitcher(image.shape[:2], self.categories)
    maps = None  # agreement and entropy
    for i, window in enumerate(windows):
      k_tile = jax.random.fold_in(key, FIRST_TILE + i) if i else key
      ids, segments, *here = draw(image[window.box], k_tile, task)
      stitcher.add(window, ids, segments)
      if here[0] is not None:
        if maps is None:
          maps = [np.zeros(image.shape[:2], np.float32) for _ in here]
        for whole, part in zip(maps, here, strict=True):
          whole[window.core] = part[window.inner]
    least = getattr(self.experiment.task, 'min_pixels', 0)
    found = stitcher.finish(least)
    return results.Drawn(*found, *(maps or ()))

  def predict(
    self,
    inputs: Sequence[str | os.PathLike],
    output: str | os.PathLike,
    *,
    formats: Sequence[str] = ('panoptic', 'overlay'),
    palette: str | None = None,
    values: str = 'ids',
    seed: int | None = None,
    progress: bool = True,
    **kwargs,
  ) -> pathlib.Path:
    """Images and folders of images -> files; see data/writers for formats.

    Args:
      inputs: files and folders.
      output: a folder: panoptic/NAME.png, panoptic.json, overlays/NAME.png,
        and so on; with several samples agreement/NAME.png, 255 where all
        agree. Where all names are numbers, as in COCO, they are the image_id.
      formats: of FORMATS.
      palette: of overlays and 'palette'; None for the categories' own colours.
      values: of 'labels': the data set's own 'ids', or 'classes' 1..C.
      seed: None for the config's; an image's mask does not depend on the
        other images.
      progress: shows a bar on a terminal, plain lines elsewhere.
      **kwargs: as in `segment`: steps, td, tile, overlap, num_samples.

    Returns:
      The output folder.
    """
    paths = files.list_images(*inputs)
    names = results.unique([path.name for path in paths])
    numbers = results.numbers(names)
    seed = self.experiment.sample_seed if seed is None else seed
    folder = pathlib.Path(output)
    writer = results.Output(folder, self.categories, formats, palette, values)
    with (
      writer,
      log.Progress(len(paths), unit='image', enabled=progress) as bar,
    ):
      for path, name, number in zip(paths, names, numbers, strict=True):
        try:
          result = self.segment(path, seed=seed, **kwargs)
        except ValueError:
          writer.close()  # what was done stays readable
          raise
        writer.add(name, result, number)
        bar.update()
    return folder

  def _batch(self, image):
    """One image -> the device's inputs and its meta."""
    example = {
      'image': image,
      'ids': np.zeros(image.shape[:2], np.int32),
      'segments': (),
      'index': 0,
      'file': '',
    }
    return self.experiment.single(example)


def _check_samples(num_samples):
  if num_samples < 1:
    raise ValueError(f'num_samples={num_samples} must be at least 1.')


def _key(seed: int):
  """The key of an image."""
  return jax.random.split(jax.random.key(seed), 1)[0]


def as_rgb(image: Any) -> np.ndarray:
  """A path, a PIL image or an array -> uint8 [h, w, 3].

  Raises:
    ValueError: a file that cannot be read, or an array that is no 8-bit RGB.
  """
  if isinstance(image, str | os.PathLike):
    return files.read_image(image)
  if hasattr(image, 'convert'):  # PIL; turned as its EXIF says, as a file is
    image = decode.to_rgb(image)
  array = np.asarray(image)
  if array.dtype != np.uint8 or array.ndim != 3 or array.shape[-1] != 3:
    raise ValueError(
      f'image is {array.dtype} {array.shape}; give uint8 [h, w, 3] RGB, a path '
      'or a PIL image.'
    )
  if not array.size:
    raise ValueError(f'image {array.shape} has no pixels.')
  return array
