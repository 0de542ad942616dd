import functools

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest

from pix2seqd_jax.architectures.resnet_transformer import Encoder

SMALL = {
  'dim': 16,
  'num_layers': 2,
  'num_heads': 2,
  'mlp_dim': 32,
  'blocks': (1, 1, 1),
  'width_multiplier': 1 / 16,
}
KEY = jax.random.key(0)


@pytest.fixture(scope='module')
def image():
  return jax.random.uniform(jax.random.key(1), (2, 32, 48, 3))


@pytest.fixture(scope='module')
def variables(image):
  return oracles.random_variables(Encoder(**SMALL), image, train=False)


def test_shapes(image, variables):
  hidden, tokens = jax.eval_shape(
    lambda: Encoder(**SMALL).apply(variables, image, train=False)
  )
  assert [h.shape for h in hidden] == [(2, 8, 12, 16), (2, 4, 6, 32)]
  assert tokens.shape == (2, 2 * 3, 16)


def test_other_resolutions_use_the_same_weights(image, variables):
  larger = jnp.zeros((1, 64, 64, 3))
  _, tokens = jax.eval_shape(
    lambda: Encoder(**SMALL).apply(variables, larger, train=False)
  )
  assert tokens.shape == (1, 16, 16)


def test_remat_changes_nothing(image, variables):
  def gradient(remat):
    module = Encoder(**SMALL, remat=remat)

    def loss(params):
      (_, tokens), updated = module.apply(
        variables | {'params': params},
        image,
        train=True,
        mutable=['batch_stats'],
        rngs={'dropout': KEY},
      )
      return jnp.sum(jnp.sin(tokens)), updated

    # As users compile it: the tests' own little optimisation rounds otherwise.
    options = {'xla_backend_optimization_level': 3}
    gradient = jax.grad(loss, has_aux=True)
    return jax.jit(gradient, compiler_options=options)(variables['params'])

  for a, b in zip(*map(jax.tree.leaves, (gradient(False), gradient(True)))):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_bfloat16_keeps_parameters_in_float32(image, variables):
  module = Encoder(**SMALL, dtype=jnp.bfloat16)
  shapes = jax.eval_shape(lambda: module.init(KEY, image, train=False))
  assert {x.dtype for x in jax.tree.leaves(shapes)} == {jnp.dtype('float32')}
  _, tokens = jax.jit(lambda: module.apply(variables, image, train=False))()
  assert tokens.dtype == jnp.bfloat16
  _, wide = jax.jit(
    lambda: Encoder(**SMALL).apply(variables, image, train=False)
  )()
  np.testing.assert_allclose(tokens.astype(jnp.float32), wide, atol=0.1)


def test_dropout_needs_training(image, variables):
  module = Encoder(**(SMALL | {'dropout': 0.5, 'drop_path': 0.5}))

  @functools.partial(jax.jit, static_argnums=1)
  def run(key, train):
    (_, tokens), _ = module.apply(
      variables,
      image,
      train=train,
      mutable=['batch_stats'],
      rngs={'dropout': jax.random.key(key)},
    )
    return tokens

  assert (run(0, True) == run(0, True)).all()
  assert (run(0, True) != run(1, True)).any()
  assert (run(0, False) == run(1, False)).all()


@pytest.mark.parametrize(
  ('size', 'override', 'message'),
  [
    ((32, 40), {}, r'image_size=\(32, 40\).*multiples of 16'),
    ((32, 32), {'dim': 18, 'num_heads': 3}, 'dim=18 must be a multiple of 4'),
    ((32, 32), {'num_heads': 3}, 'num_heads=3'),
    ((32, 32), {'attention': 'flash'}, "attention='flash' is unknown"),
  ],
)
def test_wrong_sizes(size, override, message):
  module = Encoder(**(SMALL | override))
  with pytest.raises(ValueError, match=message):
    module.init(KEY, jnp.zeros((1, *size, 3)), train=False)
