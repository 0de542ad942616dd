"""The networks that images are judged by: FID's and LPIPS'.

Their weights come from files. Without files they are random, but always the
same: good for tests, and to compare runs of one data set with one another, as
distances of random features order images too (section 3 of LPIPS,
https://arxiv.org/abs/1801.03924). Such numbers are no paper's: the metrics say
so beside them (`fid_is_inception`, `lpips_is_trained`).
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array, Float, UInt8

from pix2seqd_jax.architectures import inception_fid, lpips_vgg
from pix2seqd_jax.pretrained import lpips_vgg as lpips_part
from pix2seqd_jax.pretrained import sources

_SEED = 0
# Of VGG-16 as a stand-in for Inception: the three depths of 64, 128 and 256
# channels. Few images of few pixels cannot fill more dimensions.
_DEPTHS = 3


class Features:
  """Features of images and distances of pairs, jitted.

  Nothing is read or drawn before it is asked for; whether files fit is found
  when this is made.

  Args:
    inception: pt_inception-2015-12-05 (a file; `--from inception-fid` of
      pix2seqd_jax.pretrained knows its spellings). Empty: FID compares the
      means over places of VGG-16's first three depths instead.
    lpips: torchvision's VGG-16 and LPIPS' own linear layers (a folder of both
      files). Empty: random weights.

  Raises:
    ValueError: no such file, or the weights of another network.
  """

  def __init__(self, inception: str = '', lpips: str = ''):
    self._found = {}
    for key, source, only, path in (
      ('inception', 'inception-fid', 'inception', inception),
      ('lpips', 'lpips-vgg', 'lpips', lpips),
    ):
      if path:
        try:
          self._found[key] = sources.find(source, path, only=only)[only]
        except (ValueError, OSError) as error:
          raise ValueError(f'synthesis.{key}={path!r}: {error}') from error
    self._placed = {}

  @property
  def network(self) -> str:
    """Whose features `embed` gives: 'inception', 'vgg' or 'random vgg'."""
    if 'inception' in self._found:
      return 'inception'
    return 'vgg' if self.is_trained else 'random vgg'

  @property
  def is_trained(self) -> bool:
    """Whether `distance` has LPIPS' own weights."""
    return 'lpips' in self._found

  def embed(self, images: UInt8[Array, 'b h w 3']) -> Float[Array, 'b d']:
    """Features of images of any size: 2048, or 448 of VGG."""
    if self.network == 'inception':
      return _inception(self._on('inception', images), images)
    return _pooled(self._on('lpips', images), images)

  def distance(
    self, x: UInt8[Array, 'b h w 3'], y: UInt8[Array, 'b h w 3']
  ) -> Float[Array, 'b']:
    """LPIPS of pairs of images, whose sides are 16 at least."""
    return _distance(self._on('lpips', x), x, y)

  def _on(self, key: str, images: Array) -> Mapping[str, Any]:
    """The weights, on every device that has a part of the images."""
    where = getattr(images, 'sharding', None)
    if isinstance(where, NamedSharding):
      where = NamedSharding(where.mesh, PartitionSpec())
    if (key, where) not in self._placed:
      self._placed[key, where] = jax.device_put(self._weights(key), where)
    return self._placed[key, where]

  def _weights(self, key: str) -> Mapping[str, Any]:
    if key in self._found:
      # Files in half precision do no harm here.
      return self._found[key].read('float32')
    return _random(lpips_part.shapes(lpips_vgg.LPIPS()))


def _exact(function: Callable[..., Array]) -> Callable[..., Array]:
  """Jitted, for images of 8 bits -> a function of images in [0, 1].

  Without the short products of some devices, which move FID.
  """

  @functools.wraps(function)
  def call(variables, *images):
    with jax.default_matmul_precision('highest'):
      return function(variables, *(image / 255 for image in images))

  return jax.jit(call)


@_exact
def _inception(variables, images):
  return inception_fid.InceptionFID().apply(variables, images)


@_exact
def _pooled(variables, images):
  weights = {'params': variables['params']['features']}
  maps = lpips_vgg.VGG().apply(weights, 2 * images - 1)[:_DEPTHS]
  return jnp.concatenate([found.mean(axis=(1, 2)) for found in maps], axis=-1)


@_exact
def _distance(variables, x, y):
  return lpips_vgg.LPIPS().apply(variables, 2 * x - 1, 2 * y - 1)


def _random(shapes: Mapping[str, Any]) -> Mapping[str, Any]:
  """Kernels of variance 2 / fan-in (He et al. 2015), no biases.

  LPIPS' linear layers weigh all channels alike. Drawn by NumPy, which keeps
  its streams over versions.
  """
  rng = np.random.default_rng(_SEED)

  def draw(path, leaf):
    names = [entry.key for entry in path]
    if any(name.startswith('lin') for name in names):
      return np.full(leaf.shape, 1 / leaf.shape[0], np.float32)
    if names[-1] != 'kernel':
      return np.zeros(leaf.shape, np.float32)
    scale = np.sqrt(2 / np.prod(leaf.shape[:-1]))
    return scale.astype(np.float32) * rng.standard_normal(
      leaf.shape, np.float32
    )

  return jax.tree_util.tree_map_with_path(draw, dict(shapes))
