import jax
import jax.numpy as jnp
import numpy as np
import parity
import pytest

from pix2seqd_jax.diffusion import loss_weights

POWERS = [0.0, 0.2, 0.4, 0.6, 1.0]


def ids(shape=(3, 7, 9), num=6, seed=0):
  return np.random.default_rng(seed).integers(0, num, shape).astype(np.int32)


@pytest.mark.parametrize('p', POWERS)
def test_the_mean_of_an_example_is_one(p):
  w = loss_weights.instance_weight(jnp.asarray(ids()), 101, p)
  assert w.dtype == jnp.float32
  np.testing.assert_allclose(w.mean((1, 2)), 1, rtol=1e-5)


def test_power_zero_is_no_weight():
  w = loss_weights.instance_weight(jnp.asarray(ids()), 101, 0.0)
  np.testing.assert_allclose(w, 1, rtol=1e-6)


def test_weights_ignore_numbering_and_neighbours():
  instance = ids()
  w = loss_weights.instance_weight(jnp.asarray(instance), 101, 0.2)
  order = np.random.default_rng(1).permutation(101).astype(np.int32)
  other = loss_weights.instance_weight(jnp.asarray(order[instance]), 101, 0.2)
  np.testing.assert_allclose(w, other, rtol=1e-6)
  alone = loss_weights.instance_weight(jnp.asarray(instance[1:2]), 101, 0.2)
  np.testing.assert_allclose(w[1:2], alone, rtol=1e-6)


def test_ratios_are_those_of_the_areas():
  instance = np.zeros((1, 4, 4), np.int32)
  instance[0, 0, :3] = 2
  w = loss_weights.instance_weight(jnp.asarray(instance), 3, 0.5)
  assert float(w[0, 0, 0] / w[0, 3, 3]) == pytest.approx((14 / 4) ** 0.5)


def test_the_references_example():
  # Section 4.4 of the method's sheet: id 3 once, 7 twice, 200 out of range.
  instance = np.zeros((1, 4, 4), np.int32)
  instance[0, 0] = [3, 7, 7, 200]
  w = loss_weights.instance_weight(jnp.asarray(instance), 101, 0.2)[0]
  assert float(w.sum()) == pytest.approx(16, rel=1e-6)
  expected = [1.441836, 1.329528, 1.329528, 0]
  np.testing.assert_allclose(w[0], expected, atol=2e-6)
  np.testing.assert_allclose(w[1:], 0.991592, atol=2e-6)


def test_nothing_in_range_weighs_nothing():
  w = loss_weights.instance_weight(jnp.full((1, 2, 2), 7, jnp.int32), 5, 0.2)
  np.testing.assert_array_equal(w, 0)


def test_no_array_grows_with_the_number_of_instances():
  shape = jax.ShapeDtypeStruct((2, 64, 64), jnp.int32)
  jaxpr = jax.make_jaxpr(lambda x: loss_weights.instance_weight(x, 1000, 0.2))(
    shape
  )
  # Pixels + bins, never pixels x bins; scatter indices take up to 2 columns.
  assert _largest(jaxpr.jaxpr) <= 4 * 2 * 64 * 64


def _largest(jaxpr):
  size = 0
  for eqn in jaxpr.eqns:
    size = max([size, *(v.aval.size for v in eqn.outvars)])
    for value in eqn.params.values():
      inner = getattr(value, 'jaxpr', None)
      if inner is not None:
        size = max(size, _largest(inner))
  return size


def test_impossible_numbers():
  x = jnp.zeros((1, 2, 2), jnp.int32)
  with pytest.raises(ValueError, match='num_ids=0'):
    loss_weights.instance_weight(x, 0, 0.2)
  with pytest.raises(ValueError, match='p=-1'):
    loss_weights.instance_weight(x, 5, -1.0)


@pytest.mark.parametrize('p', POWERS)
def test_parity(shared, p):
  name = 'pix2seq/pure/loss_weights.npz'
  oracle = np.load(shared / 'oracles' / name)
  ours = jax.jit(loss_weights.instance_weight, static_argnums=(1, 2))(
    oracle['ids'], int(oracle['total']), p
  )
  parity.check(name, f'w_p{p}', ours, oracle[f'w_p{p}'])
