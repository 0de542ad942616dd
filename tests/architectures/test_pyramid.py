import jax
import jax.numpy as jnp
import pytest

from pix2seqd_jax.architectures.pyramid import TopDownMerge

# Of an image of 64 x 96.
HIDDEN = (jnp.ones((1, 16, 24, 8)), jnp.ones((1, 8, 12, 12)))
TOKENS = jnp.ones((1, 4 * 6, 20))


# The width is out_dim only where the mask is finer than the finest level.
@pytest.mark.parametrize(
  ('mask_size', 'width', 'blocks'),
  [
    ((4, 6), 20, set()),
    ((8, 12), 12, {'block_2'}),
    ((16, 24), 8, {'block_2', 'block_1'}),
    ((32, 48), 5, {'block_2', 'block_1', 'block_0'}),
    ((64, 96), 5, {'block_2', 'block_1', 'block_0'}),
  ],
)
def test_levels(mask_size, width, blocks):
  module = TopDownMerge(out_dim=5)
  y, variables = jax.eval_shape(
    lambda: module.init_with_output(
      jax.random.key(0), HIDDEN, TOKENS, mask_size=mask_size
    )
  )
  assert y.shape == (1, *mask_size, width)
  assert set(variables.get('params', {})) == blocks


@pytest.mark.parametrize('mask_size', [(24, 36), (32, 96), (12, 18), (2, 3)])
def test_wrong_mask_size(mask_size):
  with pytest.raises(ValueError, match='must be 1/16, 1/8 or 1/4'):
    TopDownMerge().init(jax.random.key(0), HIDDEN, TOKENS, mask_size=mask_size)
