"""Host side: readers, transforms, batches, writers. NumPy, Pillow and grain.

Importing the room registers every data set.
"""

from pix2seqd_jax.data.readers import (
  array_record,
  cityscapes_panoptic,
  coco_instances,
  coco_panoptic,
  semantic_folder,
  shapes,
)
from pix2seqd_jax.data.readers import tfds as tfds_reader
