"""LPIPS: the formula in NumPy, laws of a distance, names of both files."""

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest

from pix2seqd_jax.architectures.lpips_vgg import LPIPS
from pix2seqd_jax.pretrained import lpips_vgg as pretrained
from pix2seqd_jax.pretrained import part


@pytest.fixture(scope='module')
def net():
  """(variables, jitted distance)."""
  x = jnp.zeros((1, 16, 16, 3))
  variables = oracles.random_variables(LPIPS(), x, x)
  params = variables['params']
  for i in range(5):  # trained ones are not negative
    params[f'lin{i}'] = jax.tree.map(jnp.abs, params[f'lin{i}'])
  return variables, jax.jit(LPIPS().apply)


def signed_images():
  x, y = jax.random.uniform(jax.random.key(0), (2, 2, 20, 16, 3)) * 2 - 1
  return x, y


def by_hand(variables, x, y):
  """One pair, convolution by convolution, in float64."""
  params = jax.tree.map(np.float64, variables['params'])
  total = 0
  maps = [
    (np.float64(one) - [-0.030, -0.088, -0.188]) / [0.458, 0.448, 0.450]
    for one in (x, y)
  ]
  index = 0
  for stage, depth in enumerate((2, 2, 3, 3, 3)):
    if stage:
      index += 1
      h, w = (n // 2 * 2 for n in maps[0].shape[:2])
      maps = [
        m[:h, :w].reshape(h // 2, 2, w // 2, 2, -1).max((1, 3)) for m in maps
      ]
    for _ in range(depth):
      layer = params['features'][str(index)]
      maps = [_relu_of_convolution(m, layer) for m in maps]
      index += 2
    a, b = (
      m / (np.linalg.norm(m, axis=-1, keepdims=True) + 1e-10) for m in maps
    )
    kernel = params[f'lin{stage}']['kernel']
    total += ((a - b) ** 2 @ kernel).mean()
  return total


def _relu_of_convolution(x, layer):
  h, w = x.shape[:2]
  padded = np.pad(x, ((1, 1), (1, 1), (0, 0)))
  out = sum(
    padded[i : i + h, j : j + w] @ layer['kernel'][i, j]
    for i in range(3)
    for j in range(3)
  )
  return np.maximum(out + layer['bias'], 0)


def test_the_formula(net):
  variables, distance = net
  x, y = signed_images()
  with jax.default_matmul_precision('highest'):
    ours = distance(variables, x, y)
  expected = [by_hand(variables, a, b) for a, b in zip(x, y, strict=True)]
  np.testing.assert_allclose(ours, expected, rtol=1e-5)


def test_a_distance(net):
  variables, distance = net
  x, y = signed_images()
  there, back = distance(variables, x, y), distance(variables, y, x)
  assert (distance(variables, x, x) < 1e-9 * there).all()
  np.testing.assert_allclose(there, back, rtol=1e-5)
  assert (there > 0).all()


def test_the_gradient_is_finite_where_features_are_off(net):
  variables, _ = net
  off = jax.tree.map(lambda leaf: leaf, variables)
  bias = off['params']['features']['0']['bias']
  off['params']['features']['0']['bias'] = jnp.full_like(bias, -100)
  x, y = signed_images()

  @jax.jit
  def gradient(variables, x):
    return jax.grad(lambda x: LPIPS().apply(variables, x, y).sum())(x)

  assert np.isfinite(gradient(off, x)).all()
  assert np.abs(gradient(variables, x)).max() > 0


def test_too_small():
  with pytest.raises(ValueError, match='8x16 are too small for LPIPS'):
    x = jnp.zeros((1, 8, 16, 3))
    jax.eval_shape(lambda: LPIPS().init(jax.random.key(0), x, x))


def files():
  """{name: shape} of torchvision's file and of LPIPS'."""
  found, before = {}, 3
  numbers = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)
  widths = (64,) * 2 + (128,) * 2 + (256,) * 3 + (512,) * 6
  for number, width in zip(numbers, widths, strict=True):
    found[f'features.{number}.weight'] = (width, before, 3, 3)
    found[f'features.{number}.bias'] = (width,)
    before = width
  for i, width in enumerate((64, 128, 256, 512, 512)):
    found[f'lin{i}.model.1.weight'] = (1, width, 1, 1)
  return found


def test_both_spellings():
  plain = files()
  # torchvision: 14,714,688 in the features; 1,472 in the linear layers.
  slices = {}
  for name, shape in plain.items():
    words = name.split('.')
    if words[0] == 'features':
      number = int(words[1])
      i = next(k for k, last in enumerate((4, 9, 16, 23, 30)) if number < last)
      name = f'net.slice{i + 1}.{number}.{words[2]}'
    slices[name] = shape
  others = {
    'scaling_layer.shift': (1, 3, 1, 1),
    'lins.0.model.1.weight': (1, 64, 1, 1),
  }
  for names, extra in ((plain, {}), (slices, others)):
    tensors = {
      name: jax.ShapeDtypeStruct(shape, np.float32)
      for name, shape in (names | extra).items()
    }
    _, plan = part.plan(pretrained.PART, tensors)
    count = sum(int(np.prod(row.shape)) for row in plan.rows)
    assert count == 14_714_688 + 1_472
    assert len(plan.rows) == 31
