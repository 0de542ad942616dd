"""Host side: readers, transforms, batches, writers. NumPy, Pillow and grain.

Importing the room registers every data set.
"""

from pix2seqd_jax.data import coco_panoptic as coco_panoptic
from pix2seqd_jax.data import shapes as shapes
