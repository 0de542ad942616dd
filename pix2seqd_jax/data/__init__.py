"""Host side: readers, transforms, batches, writers. NumPy, Pillow and grain.

Importing the room registers every data set.
"""

from pix2seqd_jax.data import array_record as array_record
from pix2seqd_jax.data import cityscapes_panoptic as cityscapes_panoptic
from pix2seqd_jax.data import coco_instances as coco_instances
from pix2seqd_jax.data import coco_panoptic as coco_panoptic
from pix2seqd_jax.data import semantic_folder as semantic_folder
from pix2seqd_jax.data import shapes as shapes
from pix2seqd_jax.data import tfds_reader as tfds_reader
