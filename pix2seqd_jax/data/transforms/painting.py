"""Label maps as images, painted before they are resized (SemFlow).

The release of SemFlow (Wang et al. 2024, https://arxiv.org/abs/2405.20282)
paints the label map as it is in its file and resizes the image bilinearly,
which makes colours of no class along borders. Without this transform a model
paints the map that the nearest pixel has resized.
"""

import dataclasses
import functools

import numpy as np


@dataclasses.dataclass(frozen=True)
class Paint:
  """Adds `colors` uint8 [h, w, 3]: each class its anchor, void white.

  What follows changes it as it changes the image, but resizes it
  bilinearly. It comes behind all that changes the class of a pixel.

  Attributes:
    num_classes: of the data set; a config's data.num_classes.
    levels, spacing: see encoding.anchors; a config's model.anchors.
  """

  num_classes: int
  levels: int = 6
  spacing: int = 50

  def __post_init__(self):
    _ = self.anchors

  @functools.cached_property
  def anchors(self):
    from pix2seqd_jax.encoding.anchors import Anchors  # which imports JAX

    return Anchors(self.num_classes, self.levels, self.spacing)

  def __call__(self, example, rng):
    del rng
    ids = example['ids']
    classes = np.zeros(int(ids.max(initial=0)) + 1, np.int32)
    for segment in example['segments']:
      if segment.id < len(classes) and not segment.is_crowd:
        classes[segment.id] = segment.class_id
    colors = self.anchors.paint(classes)
    return example | {'colors': np.take(colors, ids, axis=0)}
