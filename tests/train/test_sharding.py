"""Meshes, rules, batches."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec
from toy import make_batch

from pix2seqd_jax.train import sharding

CUBE = (('data', 2), ('fsdp', 2), ('tensor', 2))


def test_mesh_takes_what_is_left_and_is_auto():
  mesh = sharding.make_mesh((('data', -1), ('fsdp', 2), ('tensor', 1)))
  assert dict(mesh.shape) == {'data': 4, 'fsdp': 2, 'tensor': 1}
  assert set(mesh.axis_types) == {AxisType.Auto}
  assert sharding.make_mesh().shape['data'] == 8


@pytest.mark.parametrize(
  'axes, message',
  [
    ((('data', -1), ('fsdp', -1)), 'at most one'),
    ((('data', 3), ('fsdp', 1)), 'multiple of 3'),
    ((('data', 2), ('fsdp', 2)), 'exactly'),
    ((('data', 0), ('fsdp', 1)), 'at least 1'),
    ((('data', 8),), 'among them'),
  ],
)
def test_bad_meshes_are_refused(axes, message):
  with pytest.raises(ValueError, match=message):
    sharding.make_mesh(axes)


def test_the_first_rule_wins_and_the_rest_is_replicated():
  mesh = sharding.make_mesh(CUBE)
  tree = {
    'net': {'one': {'kernel': jnp.zeros((4, 8)), 'bias': jnp.zeros(8)}},
    'mu': {'one': {'kernel': jnp.zeros((4, 8))}},
  }
  rules = (
    ('one/kernel$', ('fsdp', 'tensor')),
    ('kernel$', ('data',)),
  )
  specs = jax.tree.map(lambda s: s.spec, sharding.shardings(tree, mesh, rules))
  expected = PartitionSpec('fsdp', 'tensor')
  assert specs['net']['one']['kernel'] == expected
  assert specs['mu']['one']['kernel'] == expected
  assert specs['net']['one']['bias'] == PartitionSpec()


def test_one_axis_name_shards_what_divides():
  mesh = sharding.make_mesh(CUBE)

  def spec(*shape):
    return sharding.spec_for('kernel', shape, mesh, (('.', 'fsdp'),))

  assert spec(3, 8) == PartitionSpec(None, 'fsdp')
  assert spec(8, 8) == PartitionSpec(None, 'fsdp')
  assert spec(16, 8) == PartitionSpec('fsdp', None)
  assert spec(3, 5) == spec(8) == spec() == PartitionSpec()


@pytest.mark.parametrize(
  'spec, message',
  [
    (('fsdp',), 'must divide'),
    ((None, None, 'fsdp'), 'must divide'),
    (('model',), 'not in the mesh'),
  ],
)
def test_specs_that_do_not_fit_are_refused(spec, message):
  mesh = sharding.make_mesh(CUBE)
  with pytest.raises(ValueError, match=message):
    sharding.shardings({'kernel': jnp.zeros((3, 8))}, mesh, (('.', spec),))


def test_batches_are_split_narrowed_and_rid_of_host_keys():
  mesh = sharding.make_mesh(CUBE)
  host = make_batch(0)
  host['file'] = np.array(['a'] * 8)
  host['given'] = {'semantic': np.ones((8, 3))}
  batch = sharding.put_batch(host, mesh)
  assert set(batch) == {'image', 'semantic', 'index', 'is_real', 'given'}
  assert batch['index'].dtype == jnp.int32
  assert batch['given']['semantic'].dtype == jnp.float32
  assert batch['is_real'].dtype == jnp.bool_
  np.testing.assert_array_equal(batch['image'], host['image'])
  assert {s.data.shape for s in batch['image'].addressable_shards} == {(2, 4)}


def test_a_batch_that_does_not_divide_is_refused():
  with pytest.raises(ValueError, match='batch_size=6'):
    sharding.put_batch(make_batch(0, size=6), sharding.make_mesh(CUBE))


def test_an_index_beyond_int32_is_refused():
  with pytest.raises(ValueError, match='int32'):
    sharding.device_part({'index': np.array([2**31])})
