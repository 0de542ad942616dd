"""Mergeable metric states. Importing the room registers them all."""

from pix2seqd_jax.metrics import (
  collection,
  mean_iou,
  panoptic_quality,
  picture_error,
  wire,
)

__all__ = [
  'collection',
  'mean_iou',
  'panoptic_quality',
  'picture_error',
  'wire',
]
