import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest

from pix2seqd_jax.architectures.resnet import Bottleneck, ResNetC4


def _small(**kwargs):
  return ResNetC4(blocks=(1, 2, 1), width_multiplier=1 / 16, **kwargs)


@pytest.fixture(scope='module')
def image():
  return jax.random.uniform(jax.random.key(0), (2, 32, 48, 3))


@pytest.fixture(scope='module')
def variables(image):
  return oracles.random_variables(_small(), image, train=False)


def test_shapes(image, variables):
  features = jax.eval_shape(
    lambda: _small().apply(variables, image, train=False)
  )
  assert [f.shape[1:] for f in features] == [
    (8, 12, 16),
    (4, 6, 32),
    (2, 3, 64),
  ]


def test_running_statistics_move_a_tenth_of_the_way(image, variables):
  @jax.jit
  def step(variables):
    _, updated = _small().apply(
      variables, image, train=True, mutable=['batch_stats']
    )
    return updated

  updated = step(variables)
  again = step(variables | updated)
  # The batch's statistics s do not depend on the running ones r, so that
  # r' - r = .1 (s - r) and r'' - r' = .09 (s - r).
  for before, once, twice in zip(
    *map(
      jax.tree.leaves,
      (variables['batch_stats'], updated['batch_stats'], again['batch_stats']),
    )
  ):
    np.testing.assert_allclose(twice - once, 0.9 * (once - before), atol=1e-6)


def test_a_fresh_block_is_its_shortcut():
  x = jax.random.normal(jax.random.key(0), (1, 4, 4, 32))
  block = Bottleneck(width=8)
  y, _ = block.init_with_output(jax.random.key(1), x)
  np.testing.assert_array_equal(y, jnp.maximum(x, 0))


def test_in_evaluation_examples_are_apart(image, variables):
  run = jax.jit(lambda x: _small().apply(variables, x, train=False))
  both, one = run(image), run(image[1:])
  for b, o in zip(both, one):
    np.testing.assert_allclose(b[1:], o, atol=1e-5)


@pytest.mark.parametrize(
  'wrong',
  [{'blocks': (3, 4)}, {'blocks': (1, 0, 1)}, {'width_multiplier': 0.01}],
)
def test_wrong_sizes(image, wrong):
  with pytest.raises(ValueError, match='three groups of one block or more'):
    ResNetC4(**wrong).init(jax.random.key(0), image, train=False)
