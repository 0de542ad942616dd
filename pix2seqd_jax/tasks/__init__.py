"""What is asked of a Segmentation. Importing it registers the tasks."""

from pix2seqd_jax.tasks import (
  inpainting,
  panoptic,
  reconstruction,
  semantic,
  synthesis,
)

__all__ = [
  'inpainting',
  'panoptic',
  'reconstruction',
  'semantic',
  'synthesis',
]
