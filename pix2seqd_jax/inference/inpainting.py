"""Partial masks of one image -> whole ones: what Pipeline.inpaint does."""

import copy
from typing import Any

import jax
import numpy as np

from pix2seqd_jax.experiment import build
from pix2seqd_jax.inference import partial_masks, results
from pix2seqd_jax.tasks import inpainting as inpainting_task
from pix2seqd_jax.types import Params


class Completer:
  """A trained model that is told a part of the mask.

  Args:
    experiment: the parts, from a work directory's config.
    params: as from the checkpoint.
  """

  def __init__(self, experiment: build.Experiment, params: Params):
    self.experiment = experiment
    self.params = params
    self._variants: dict[tuple, build.Experiment] = {}

  def check(self, strength: Any, inpainting: Any) -> None:
    """Raises ValueError for settings of sampling that cannot be."""
    self._variant(strength, inpainting).sampling_options()

  def read(
    self, partial: Any, valid: Any, batch: Any, meta: Any, strength: Any
  ) -> partial_masks.Partial:
    """What is given, checked; see Pipeline.inpaint.

    Raises:
      ValueError: a mask that does not fit the image or the model, a model
        that cannot complete, a strength without a mask.
    """
    most = self.experiment.config['data']['num_ids']
    given = partial_masks.read(partial, valid, tuple(meta['size']), most)
    self._check(batch)
    if strength not in (None, 1) and not given.known.any():
      raise ValueError(
        f'strength={strength} starts from a given mask, but partial is empty.'
      )
    return given

  def _check(self, batch):
    """Raises ValueError for a model to which nothing can be told."""
    config = self.experiment.config
    known = getattr(self.experiment.model, 'known', None)
    shape = (1, *config['data']['mask_size'])
    blank = {
      'instance': np.zeros(shape, np.int32),
      'known': np.zeros(shape, bool),
    }
    told = {**batch, 'given': blank}
    if known is None:
      raise ValueError(
        f'a model {config["model"]["name"]!r} cannot complete masks; use one '
        "that diffuses what a mask is encoded to (model.name='ldmseg')."
      )
    jax.eval_shape(known, self.params, told)

  def draw(
    self,
    given: partial_masks.Partial,
    batch: Any,
    meta: Any,
    seed: int,
    key: Any,
    *,
    steps: int | None,
    num_samples: int,
    strength: float | None,
    inpainting: str | None,
    keep_given: bool,
  ) -> results.Drawn:
    """The mask, or the one of several that agrees best with the others.

    Args:
      given: of which something is known.
      batch, meta: of the image; see build_data.DataParts.single.
      seed: of the names of segments.
      key: of the sampler.
      steps, num_samples, strength, inpainting, keep_given: as in
        Pipeline.inpaint.
    """
    sampler = self._variant(strength, inpainting).sample_fn(
      steps, None, num_samples
    )
    config = self.experiment.config['sample']
    strength = config['strength'] if strength is None else strength
    names = self._names(given, batch, meta, steps, seed, key)
    ids, known = partial_masks.at_mask_size(
      given,
      names,
      unpadded=tuple(meta['unpadded']),
      padded=tuple(batch['image'].shape[1:3]),
      mask_size=tuple(self.experiment.config['data']['mask_size']),
    )
    if strength < 1 and not keep_given:
      known = np.zeros_like(known)  # it is only where sampling starts
    told = {'instance': ids[None], 'known': known[None]}
    raw = jax.device_get(
      sampler(self.params, {**batch, 'given': told}, key[None])
    )
    return results.agreed(
      [
        self._read(
          jax.tree.map(lambda leaf, i=i: leaf[i], raw),
          meta,
          given,
          names,
          keep_given,
        )
        for i in range(num_samples)
      ]
    )

  def _read(self, raw, meta, given, names, keep_given):
    """(ids, segments) of one sample, by the user's names."""
    task = copy.copy(self.experiment.task)
    # Segments that were given are neither cut nor joined.
    named = getattr(self.experiment.model, 'names_classes', True)
    merges = task.merge_stuff and named
    task.split_things = task.merge_stuff = False
    found = task.refine(self.experiment.model.postprocess(raw, meta))
    if merges:
      found = task.merge(found, kept=names)
    if keep_given:
      told = np.array([0, *names], np.int32)[given.ranks]
      found = inpainting_task.paste(found, told, given.known)
    return partial_masks.named_back(
      *task.segments(found), found.instance, given, names
    )

  def _names(self, given, batch, meta, steps, seed, key) -> np.ndarray:
    """The network's ids for the given segments, [n]."""
    data = self.experiment.config['data']
    most = data['num_ids']
    if data['id_order'] == 'random' and not data['name_stuff']:
      return partial_masks.named_at_random(len(given.names), most, seed)
    # Its ids follow from the image: it is asked which they are.
    sampler = self._variant(1.0, None).sample_fn(steps)
    raw = jax.device_get(sampler(self.params, batch, key[None]))
    one = jax.tree.map(lambda leaf: leaf[0], raw)
    seen = self.experiment.model.postprocess(one, meta).instance
    return partial_masks.named_as_seen(given, seen, most)

  def _variant(self, strength, inpainting) -> build.Experiment:
    """The experiment, with other settings of sampling where they are given."""
    told = {'strength': strength, 'inpainting': inpainting}
    old = self.experiment.config['sample']
    told = {k: v for k, v in told.items() if v not in (None, old[k])}
    if not told:
      return self.experiment
    key = tuple(told.items())
    if key not in self._variants:
      config = self.experiment.config
      sample = {**config['sample'], **told}
      variant = build.Experiment(
        {**config, 'sample': sample}, self.experiment.categories
      )
      variant.model = self.experiment.model
      self._variants[key] = variant
    return self._variants[key]
