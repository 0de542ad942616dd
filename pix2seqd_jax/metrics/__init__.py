"""Mergeable metric states. Importing the package registers them all."""

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
  'image_error',
  'lpips',
  'mean_iou',
  'panoptic_quality',
  'wire',
]
