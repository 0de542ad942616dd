"""Mergeable metric states. Importing the room registers them all."""

from pix2seqd_jax.metrics import (
  collection,
  fid,
  image_error,
  lpips,
  mean_iou,
  panoptic_quality,
  wire,
)

__all__ = [
  'collection',
  'fid',
  'lpips',
  'mean_iou',
  'panoptic_quality',
  'image_error',
  'wire',
]
