"""The FID Inception: the original's features, and what it refuses."""

import json
import math
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import parity
import pytest

from pix2seqd_jax.architectures import inception_fid
from pix2seqd_jax.architectures.inception_fid import InceptionFID
from pix2seqd_jax.pretrained import inception_fid as pretrained
from pix2seqd_jax.pretrained import part

# Compiled without LLVM's optimisation, which takes most of the time.
QUICK = {'xla_backend_optimization_level': 0}


# Where the oracle's pieces of the blocks' maps begin, both ways.
_CORNERS = ((10, 10), (10, 10), (4, 4))


def _cut(x, corner, like):
  rows, columns = (slice(a, a + n) for a, n in zip(corner, like.shape[1:3]))
  return np.asarray(x)[:, rows, columns]


def weight(name, told):
  """An array of the oracle, by its config."""
  shape = told['shape']
  rng = np.random.Generator(np.random.PCG64(zlib.crc32(name.encode())))
  z = rng.standard_normal(shape)
  kind = name.split('.', 3)[-1].rpartition('.')[2]
  if name.endswith('conv.weight'):
    z *= np.sqrt(2 / np.prod(shape[1:]))
  elif kind == 'weight':
    z = 1 + 0.1 * z
  elif kind == 'running_var':
    z = np.exp(0.2 * z)
  else:
    z *= 0.1
  return z.astype(np.float32)


@pytest.fixture(scope='module')
def original(shared):
  """(variables with the original's weights, the oracle)."""
  folder = shared / 'oracles' / 'inception_fid'
  config = json.loads((folder / 'inception_weights_recipe.json').read_text())
  tensors = {}
  for name, told in config['tensors'].items():
    if name.endswith('num_batches_tracked'):
      tensors[name] = np.zeros((), np.int64)
      continue
    tensors[name] = weight(name, told)
    total = np.float64(tensors[name]).sum()
    assert math.isclose(total, told['sum'], rel_tol=1e-4, abs_tol=1e-3), name
  module, plan = part.plan(pretrained.PART, tensors)
  assert module == InceptionFID()
  return plan.tree(tensors), oracles.load_npz(folder / 'inception.npz')


@pytest.mark.parametrize('dtype, bound', [('float32', 8e-6), ('float64', 2e-6)])
def test_the_original(original, dtype, bound):
  variables, z = original
  with jax.enable_x64(dtype == 'float64'):
    module = InceptionFID(dtype=jnp.dtype(dtype))
    variables = jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), variables)
    x = jnp.asarray(np.moveaxis(z['x'], 1, -1), dtype)

    blocks = jax.jit(
      lambda v, x: module.apply(v, x, method='blocks'), compiler_options=QUICK
    )
    with jax.default_matmul_precision('highest'):
      found = blocks(variables, x)
      image = jax.jit(inception_fid.resize)(x)
  name = f'inception_fid/{dtype}'
  assert image.shape == (2, 299, 299, 3)
  expected = np.moveaxis(z['resized_crop'], 1, -1)
  crop = _cut(image, (100, 200), expected)
  parity.check(name, 'resized_crop', crop, expected, bound=bound)
  parity.check(name, 'pool2048', found.pool3, z['pool2048'], bound=bound)
  for i in range(3):
    block = np.asarray(found[i])
    average = block.mean((1, 2))
    parity.check(
      name, f'block{i}_avg', average, z[f'block{i}_avg'], bound=bound
    )
    expected = np.moveaxis(z[f'block{i}_crop'], 1, -1)
    crop = _cut(block, _CORNERS[i], expected)
    parity.check(name, f'block{i}_crop', crop, expected, bound=bound)


def test_the_published_file():
  """Its size, and its names with layers in place of numbers."""
  module = InceptionFID()
  entries = part.entries(pretrained.PART, module)
  # torchvision's, 23,834,568 without the auxiliary head, less 1000 classes.
  count = sum(math.prod(e.shape) for e in entries if 'running' not in e.name)
  assert count == 23_834_568 - 2049 * 1000
  names = [e.name for e in entries] + [
    'fc.weight',
    'fc.bias',
    'Mixed_5b.branch1x1.bn.num_batches_tracked',
  ]
  spelled = part.spell(pretrained.PART, names)
  assert [n for n, known in spelled.items() if known is None] == names[-3:]
  assert all(spelled[e.name] == e.name for e in entries)
  assert 'Mixed_7c.branch3x3dbl_3b.conv.weight' in names


def test_only_colours():
  with pytest.raises(ValueError, match='image has 1 channels'):
    jax.eval_shape(
      lambda: InceptionFID().init(jax.random.key(0), jnp.zeros((1, 32, 32, 1)))
    )
