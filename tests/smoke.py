"""The smallest config, which the tests of whole runs share."""

from configs import pix2seq_d_shapes


def smoke_config():
  """`pix2seq_d_shapes:smoke`: a network of 249,000 numbers, six steps."""
  return pix2seq_d_shapes.get_config('smoke')
