"""Host side: readers, transforms, batches, writers. NumPy, Pillow and grain.

Importing the package registers every data set.
"""

from pix2seqd_jax.data.readers import array_record as array_record
from pix2seqd_jax.data.readers import cityscapes_panoptic as cityscapes_panoptic
from pix2seqd_jax.data.readers import coco_instances as coco_instances
from pix2seqd_jax.data.readers import coco_panoptic as coco_panoptic
from pix2seqd_jax.data.readers import semantic_folder as semantic_folder
from pix2seqd_jax.data.readers import shapes as shapes
from pix2seqd_jax.data.readers import tfds as tfds
