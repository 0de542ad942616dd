"""Losses at points: the original's numbers, and laws of the sampling."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import parity
import pytest

from pix2seqd_jax.models import mask_losses
from pix2seqd_jax.models.mask_losses import PointSampling

SMALL = PointSampling(num_points=112)


@pytest.fixture(scope='module')
def theirs(shared):
  folder = shared / 'oracles' / 'ldmseg_ae'
  names = ('point_sample', 'loss_primitives', 'loss_default', 'loss_logits')
  return {n: oracles.load_npz(folder / f'{n}.npz') for n in names}


def nhwc(x):
  return jnp.asarray(np.moveaxis(x, 1, -1))


def test_sampling_is_grid_sample(theirs):
  z = theirs['point_sample']
  points = jnp.asarray(z['point_coords'])
  ours = mask_losses.sample_bilinear(nhwc(z['input']), points)
  ours = np.moveaxis(ours, -1, 1)
  parity.check('ldmseg_ae', 'bilinear', ours, z['bilinear'], bound=1e-6)
  ids = jnp.asarray(z['nearest_input'][:, 0]).astype(jnp.int32)
  np.testing.assert_array_equal(ids, z['nearest_input'][:, 0])
  np.testing.assert_array_equal(
    mask_losses.sample_nearest(ids, points), z['nearest'][:, 0]
  )


def oracle_inputs(z, dtype):
  """(ids, draws of images, i -> draws of their i-th ids)."""
  ids = np.asarray(z['targets'])
  num_examples = len(ids)
  present = [len(np.unique(one[one > 0])) for one in ids]
  # The original lists masks image by image, ids rising.
  slots = np.full((127, num_examples), 0)
  first = 0
  for b, count in enumerate(present):
    slots[:count, b] = first + np.arange(count)
    first += count
  draws = {
    'candidates': jnp.asarray(z['rng/02_rand'], dtype),
    'fresh': jnp.asarray(z['rng/03_rand'], dtype),
  }
  assert len(draws['fresh']) == first
  slots = jnp.asarray(slots)
  images = {
    'candidates': jnp.asarray(z['rng/00_rand'], dtype),
    'fresh': jnp.asarray(z['rng/01_rand'], dtype),
  }
  return (
    jnp.asarray(ids, jnp.int32),
    images,
    lambda i: jax.tree.map(lambda x: x[slots[i]], draws),
  )


@pytest.mark.parametrize('dtype', ['float32', 'float64'])
def test_the_originals_losses_and_gradient(theirs, dtype):
  z = theirs['loss_default']
  with jax.enable_x64(dtype == 'float64'):
    logits = nhwc(theirs['loss_logits']['logits']).astype(dtype)
    ids, images, draw_fn = oracle_inputs(z, dtype)

    def total(logits):
      found = mask_losses.point_losses(logits, ids, images, draw_fn, SMALL)
      return found.total, found

    gradient, found = jax.jit(jax.grad(total, has_aux=True))(logits)
    for key, ours, bound in (
      ('ce', found.ce, 1e-6),
      ('mask', found.total - found.ce, 1e-6),
      ('mask_terms/bce', found.bce, 1e-6),
      ('mask_terms/dice', found.dice, 1e-6),
      ('mask_terms/num_masks', found.num_masks, 0),
      ('grad_logits', np.moveaxis(gradient, -1, 1), 1e-5),
    ):
      parity.check(f'ldmseg_ae/{dtype}', key, ours, z[key], bound=bound)


def test_the_gradient_is_that_of_the_value():
  """The custom gradient against differences, of each weight by itself."""
  logits = jax.random.normal(jax.random.key(0), (2, 8, 8, 9))
  way = jax.random.normal(jax.random.key(1), logits.shape)
  # All points count: which are least certain jumps.
  sampling = PointSampling(60, 0)
  keys = jax.random.split(jax.random.key(2), 9)

  @functools.partial(jax.jit, static_argnums=1)
  @jax.value_and_grad
  def loss(logits, weights):
    def draw(i):
      return sampling.draw(keys[i], 2, logits.dtype)

    return mask_losses.point_losses(
      logits,
      stripes(),
      draw(8),
      draw,
      sampling,
      ce_weight=weights[0],
      mask_weight=weights[1],
    ).total

  with jax.enable_x64():
    logits, way = logits.astype('float64'), way.astype('float64')
    for weights in ((2.0, 0), (0, 3), (2, 3)):
      _, gradient = loss(logits, weights)
      above, below = (loss(logits + d * way, weights)[0] for d in (1e-5, -1e-5))
      slope = jnp.sum(gradient * way)
      np.testing.assert_allclose(slope, (above - below) / 2e-5, rtol=1e-6)


@pytest.mark.parametrize('k', [0, 1, 3, 7, 20, 25])
def test_largest_is_a_sort(k):
  rng = np.random.default_rng(0)
  values = rng.normal(size=(4, 20)).astype(np.float32)
  values[0] *= 1e-30
  values[1] = -abs(values[1])
  values[2, 5] = -0.0
  expected = np.zeros_like(values)
  rows = np.argsort(-values, axis=-1)[:, :k]
  np.put_along_axis(expected, rows, 1, -1)
  found = mask_losses.largest(jnp.asarray(values), k)
  np.testing.assert_array_equal(found, expected)


def test_ties_share_what_is_left():
  values = jnp.array([[3.0, 1, 1, 1, 1, 0, -0.0]])
  found = mask_losses.largest(values, 3)
  np.testing.assert_allclose(found, [[1, 0.5, 0.5, 0.5, 0.5, 0, 0]])
  zeros = mask_losses.largest(jnp.array([[0.0, -0.0, 0.0, -1.0]]), 1)
  np.testing.assert_allclose(zeros, [[1 / 3, 1 / 3, 1 / 3, 0]], rtol=1e-6)


def test_numbers_of_points():
  draws = PointSampling(100, 0).draw(jax.random.key(0), 2, jnp.float32)
  assert [x.shape for x in draws.values()] == [(2, 0, 2), (2, 100, 2)]
  draws = PointSampling(64, 4, 1.0).draw(jax.random.key(0), 2, jnp.float32)
  assert [x.shape for x in draws.values()] == [(2, 256, 2), (2, 0, 2)]
  assert PointSampling().num_uncertain == 9408


@functools.partial(jax.jit, static_argnames='max_segments')
def losses(logits, ids, max_segments=None):
  """(the losses, the gradient of their sum)."""
  sampling = PointSampling(200)
  keys = jax.random.split(jax.random.key(0), 20)
  draws = sampling.draw(keys[0], len(ids), jnp.float32)

  def draw_fn(i):
    return sampling.draw(keys[i], len(ids), jnp.float32)

  def total(logits):
    found = mask_losses.point_losses(
      logits, ids, draws, draw_fn, sampling, max_segments=max_segments
    )
    return found.total, found

  gradient, found = jax.grad(total, has_aux=True)(logits)
  return found, gradient


def stripes():
  """Ids 0, 0, 1, 1, ... in rows: [2, 16, 16]."""
  return jnp.asarray(np.tile(np.arange(16)[:, None] // 2, (2, 1, 16)))


def test_the_truth_has_no_loss():
  ids = stripes()
  logits = 100.0 * (2 * jax.nn.one_hot(ids, 9) - 1)
  found, _ = losses(logits, ids)
  assert found.ce < 1
  assert found.num_masks == 14
  # At borders both are interpolated, yet a sigmoid is not linear.
  assert found.dice < 0.3
  wrong, _ = losses(jnp.roll(logits, 1, -1), ids)
  assert wrong.ce > 50 and wrong.dice > 0.5


def test_void_and_nothing_but_void():
  logits = jax.random.normal(jax.random.key(0), (2, 16, 16, 9))
  found, gradient = losses(logits, jnp.zeros_like(stripes()))
  assert found.total == found.ce == found.num_masks == 0
  assert not gradient.any()


def test_ids_beyond_max_segments_do_not_count():
  logits = jax.random.normal(jax.random.key(0), (2, 16, 16, 9))
  mask, _ = losses(logits, stripes())
  few, _ = losses(logits, stripes(), max_segments=3)
  assert few.num_masks == 6 and mask.num_masks == 14
  least = jnp.where(stripes() > 3, 0, stripes())
  same, _ = losses(logits, least, max_segments=3)
  # Each slot has its own points, so the first three are those of before.
  np.testing.assert_allclose(few.bce, same.bce, rtol=1e-6)
