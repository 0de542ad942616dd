"""Saving and restoring: other meshes, damage, the best, the frozen."""

import gc

import jax
import numpy as np
import pytest
from toy import Toy, make_batch

from pix2seqd_jax.train import checkpoint, optimizer, sharding, state

RULES = (('one/kernel$', (None, ('fsdp', 'tensor'))), ('two/kernel$', 'fsdp'))
CUBE = (('data', 2), ('fsdp', 2), ('tensor', 2))


def optimizer_of(freeze=()):
  return optimizer.make_optimizer('adamw', 0.1, freeze=freeze)


def create(mesh, freeze=(), seed=0, **toy):
  return state.create_state(
    Toy(**toy),
    optimizer_of(freeze),
    jax.random.key(seed),
    make_batch(0),
    mesh,
    RULES,
  )


def abstract(mesh, freeze=(), use_ema=True, **toy):
  return state.abstract_state(
    Toy(**toy), optimizer_of(freeze), make_batch(0), mesh, RULES, use_ema
  )


@pytest.fixture(scope='module')
def cube():
  return sharding.make_mesh(CUBE)


def test_round_trip_onto_another_mesh(tmp_path, cube):
  made = create(cube, freeze=('^one/',), frozen=True)
  with checkpoint.Checkpointer(tmp_path / 'checkpoints') as saved:
    assert saved.latest_step() is None
    saved.save(7, made)
  assert (tmp_path / 'frozen').is_dir()
  assert not (tmp_path / 'checkpoints' / '7' / 'params' / 'frozen').exists()
  other = sharding.make_mesh(
    (('data', 1), ('fsdp', 2), ('tensor', 1)), jax.devices()[:2]
  )
  with checkpoint.Checkpointer(tmp_path / 'checkpoints') as saved:
    target = abstract(other, freeze=('^one/',), frozen=True)
    found = saved.restore(target)
  assert jax.tree.structure(found) == jax.tree.structure(made)
  jax.tree.map(np.testing.assert_array_equal, found, made)
  for x, like in zip(jax.tree.leaves(found), jax.tree.leaves(target)):
    assert x.sharding == like.sharding


def test_saving_is_safe_from_donation(tmp_path, cube):
  made = create(cube)
  expected = jax.device_get(made)
  with checkpoint.Checkpointer(tmp_path / 'checkpoints') as saved:
    saved.save(1, made)
    jax.jit(lambda s: jax.tree.map(lambda x: x * 0, s), donate_argnums=0)(made)
    found = saved.restore(abstract(cube))
  jax.tree.map(np.testing.assert_array_equal, found, expected)


@pytest.mark.parametrize('mode, best', [('max', 2), ('min', 1)])
def test_the_best_is_kept_beside_the_newest(tmp_path, cube, mode, best):
  made = create(cube)
  with checkpoint.Checkpointer(
    tmp_path / 'checkpoints', keep=2, best_metric='pq', best_mode=mode
  ) as saved:
    for i, pq in enumerate([0.1, 0.9, 0.5, 0.6, 0.4], 1):
      saved.save(i, made, metrics={'pq': pq, 'sq': 1.0})
    saved.save(6, made)  # without a measurement
    assert saved.best_step() == best
    assert saved.steps() == [best, 5, 6]
  with checkpoint.Checkpointer(
    tmp_path / 'checkpoints', keep=2, best_metric='pq', best_mode=mode
  ) as saved:  # a resumed run still knows it
    saved.save(7, made)
    assert saved.best_step() == best
    assert saved.steps() == [best, 6, 7]


def test_a_metric_that_is_not_there_is_refused(tmp_path, cube):
  with checkpoint.Checkpointer(
    tmp_path / 'checkpoints', best_metric='pq'
  ) as saved:
    with pytest.raises(ValueError, match="best_metric='pq'"):
      saved.save(1, create(cube), metrics={'miou': 0.1})


def test_a_step_is_written_once(tmp_path, cube):
  made = create(cube)
  with checkpoint.Checkpointer(tmp_path / 'checkpoints') as saved:
    assert saved.save(3, made)
    assert not saved.save(3, made)
    assert not saved.save(3, made, force=True)


@pytest.mark.filterwarnings('ignore::pytest.PytestUnraisableExceptionWarning')
def test_a_damaged_newest_step_is_passed_over(tmp_path, cube):
  made = create(cube)
  directory = tmp_path / 'checkpoints'
  with checkpoint.Checkpointer(directory) as saved:
    saved.save(1, made)
    saved.save(2, create(cube, seed=5))
  for path in (directory / '2' / 'params').rglob('*'):
    if path.is_file() and path.parent.name == 'd':
      path.write_bytes(path.read_bytes()[:10])  # the disk was full
  with checkpoint.Checkpointer(directory) as saved:
    with pytest.warns(UserWarning, match=r'checkpoint 2 .* set aside'):
      found = saved.restore(abstract(cube))
    assert saved.latest_step() == 1
    assert saved.save(2, made)  # the way on is free
  jax.tree.map(np.testing.assert_array_equal, found, made)
  assert (directory / 'unreadable-2').is_dir()
  gc.collect()  # tensorstore's own complaint belongs to this test


def test_a_checkpoint_of_another_model_is_refused_and_left_alone(
  tmp_path, cube
):
  with checkpoint.Checkpointer(tmp_path / 'checkpoints') as saved:
    saved.save(1, create(cube))
    saved.save(2, create(cube))
    with pytest.raises(ValueError, match=r'checkpoint 2 .* does not fit'):
      saved.restore(abstract(cube, hidden=16))
    assert saved.steps() == [1, 2]


def test_missing_checkpoints_are_named(tmp_path, cube):
  with checkpoint.Checkpointer(tmp_path / 'checkpoints') as saved:
    with pytest.raises(ValueError, match='has no checkpoint'):
      saved.restore(abstract(cube))
    saved.save(1, create(cube))
    with pytest.raises(ValueError, match=r'no checkpoint 4; .* \[1\]'):
      saved.restore(abstract(cube), step=4)


def test_bad_settings_are_refused(tmp_path):
  with pytest.raises(ValueError, match='keep=0'):
    checkpoint.Checkpointer(tmp_path, keep=0)
  with pytest.raises(ValueError, match="best_mode='highest'"):
    checkpoint.Checkpointer(tmp_path, best_mode='highest')
