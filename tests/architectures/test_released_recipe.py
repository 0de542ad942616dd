"""The defaults are the released config, parameter for parameter."""

import jax
import jax.numpy as jnp

from pix2seqd_jax.architectures.pyramid import TopDownMerge
from pix2seqd_jax.architectures.resnet_transformer import Encoder
from pix2seqd_jax.architectures.transunet import TransUNet


def _count(tree):
  return sum(leaf.size for leaf in jax.tree.leaves(tree))


def test_parameter_counts():
  key = jax.random.key(0)
  image = jnp.zeros((1, 64, 64, 3))
  encoder = jax.eval_shape(lambda: Encoder().init(key, image, train=False))
  hidden, tokens = jax.eval_shape(
    lambda v: Encoder().apply(v, image, train=False), encoder
  )
  merge = jax.eval_shape(
    lambda h, n: TopDownMerge().init(key, h, n, mask_size=(32, 32)),
    hidden,
    tokens,
  )
  # 16 noisy bits and 256 merged features.
  denoiser = jax.eval_shape(
    lambda n: TransUNet().init(
      key, jnp.zeros((1, 32, 32, 272)), jnp.zeros(1), n
    ),
    tokens,
  )
  assert _count(encoder['batch_stats']) == 30_592
  counts = [_count(tree['params']) for tree in (encoder, merge, denoiser)]
  assert counts == [46_898_752, 4_003_840, 43_589_888]
  assert sum(counts) == 94_492_480  # the paper's 94.5 M
