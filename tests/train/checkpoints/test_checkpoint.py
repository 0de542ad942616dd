"""Saving and restoring: other meshes, damage, the best, the frozen."""

import errno
import shutil

import jax
import numpy as np
import pytest
from toy import Toy, make_batch

from pix2seqd_jax.train import optimizer, sharding, state
from pix2seqd_jax.train.checkpoints import (
  archive,
  checkpoint,
  manifest,
  retention,
  weights,
)

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


def test_the_metric_that_was_named_last_says_which_is_best(tmp_path, cube):
  made, path = create(cube), tmp_path / 'checkpoints'
  for step, fid, mode in ((1, 90, 'max'), (2, 20, 'min'), (3, 50, 'min')):
    with checkpoint.Checkpointer(
      path, keep=3, best_metric='fid', best_mode=mode
    ) as saved:
      saved.save(step, made, metrics={'fid': fid, 'pq': 0.1})
  assert archive.best_step_in(path) == 2


def test_what_cannot_be_read_now_is_not_removed(tmp_path, cube, monkeypatch):
  made, path = create(cube), tmp_path / 'checkpoints'
  with checkpoint.Checkpointer(path, keep=9, best_metric='pq') as saved:
    for step, pq in ((1, 0.9), (2, 0.1), (3, 0.2)):
      saved.save(step, made, metrics={'pq': pq})
  real = manifest.read

  def read(folder):
    if folder.name == '1':
      raise OSError(errno.EIO, 'a disk that stutters')
    return real(folder)

  monkeypatch.setattr(manifest, 'read', read)
  with pytest.raises(OSError, match='stutters'):
    retention.prune(path, 1, 0, best=True)
  monkeypatch.undo()
  retention.prune(path, 1, 0, best=True)
  assert archive.steps_in(path) == [1, 3]


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


@pytest.fixture(scope='module')
def two_steps(tmp_path_factory, cube):
  """A run with checkpoints 1 and 2, and the state of 1."""
  path = tmp_path_factory.mktemp('run')
  made = create(cube, frozen=True)
  with checkpoint.Checkpointer(path / 'checkpoints') as saved:
    saved.save(1, made)
    saved.save(2, jax.tree.map(lambda x: x + 1, made))
  return path, made


@pytest.fixture
def copy(two_steps, tmp_path):
  """A copy of it, to be damaged: its checkpoints folder."""
  shutil.copytree(two_steps[0], tmp_path / 'run')
  return tmp_path / 'run' / 'checkpoints'


def some_file(folder, item='params'):
  """The largest file of numbers of an item."""
  files = [p for p in (folder / item).rglob('d/*') if p.is_file()]
  return max(files, key=lambda path: path.stat().st_size)


def flip(path):
  data = bytearray(path.read_bytes())
  data[len(data) // 2] ^= 4
  path.write_bytes(bytes(data))


DAMAGE = {
  'truncated': lambda step: some_file(step).write_bytes(b'123'),
  'emptied': lambda step: (step / 'optimizer' / '_METADATA').write_bytes(b''),
  'missing': lambda step: some_file(step, 'ema').unlink(),
  'a folder missing': lambda step: shutil.rmtree(step / 'ema'),
  'extra': lambda step: (step / 'params' / 'd' / 'more').write_text('x'),
  'flipped': lambda step: flip(some_file(step, 'optimizer')),
  'flipped meta': lambda step: flip(step / 'meta' / 'metadata'),
  'flipped manifest': lambda step: flip(step / 'manifest.json'),
}


@pytest.mark.parametrize('kind', DAMAGE)
def test_a_damaged_newest_step_is_passed_over(
  two_steps, copy, cube, kind, capfd
):
  DAMAGE[kind](copy / '2')
  with checkpoint.Checkpointer(copy) as saved:
    with pytest.warns(UserWarning, match='checkpoint 2 .* quarantined') as told:
      found = saved.restore(abstract(cube, frozen=True))
    assert saved.latest_step() == 1
  assert len(told) == 1 and len(str(told[0].message)) < 400
  assert not any(capfd.readouterr())  # no pages of tensorstore's
  jax.tree.map(np.testing.assert_array_equal, found, two_steps[1])
  assert (copy / 'unreadable-2').is_dir()


def test_an_older_damaged_step_is_nobodys_business(copy, cube, capfd):
  (copy / '1' / '_CHECKPOINT_METADATA').write_text('[1]')
  with checkpoint.Checkpointer(copy) as saved:
    found = saved.restore(abstract(cube, frozen=True))
    assert int(found.step) == 1 and saved.save(3, found)  # 2's was one more
  assert archive.steps_in(copy) == [1, 2, 3]
  assert not any(capfd.readouterr())


def test_a_damaged_step_stays_until_the_run_is_there_again(copy, cube):
  flip(some_file(copy / '2'))
  with checkpoint.Checkpointer(copy) as saved:
    with pytest.warns(UserWarning, match='quarantined'):
      found = saved.restore(abstract(cube, frozen=True))
    assert (copy / 'unreadable-2').is_dir()
    assert saved.save(2, found)
    saved.wait()
    assert saved.steps() == [1, 2] and not (copy / 'unreadable-2').exists()


def test_a_damaged_step_is_refused_where_it_was_named(copy, cube):
  path = some_file(copy / '2')
  flip(path)
  with checkpoint.Checkpointer(copy) as saved:
    with pytest.raises(ValueError, match=r'is damaged; 2: params/.*copy'):
      saved.restore(abstract(cube, frozen=True), step=2)
    flip(path)
    flip(copy.parent / 'frozen' / '_METADATA')  # which all steps need
    with pytest.raises(ValueError, match=r'every .* frozen/_METADATA: other'):
      saved.restore(abstract(cube, frozen=True))
    assert saved.steps() == [1, 2]


def test_frozen_weights_of_another_run_are_refused(copy, cube, tmp_path):
  with checkpoint.Checkpointer(tmp_path / 'other' / 'checkpoints') as saved:
    made = create(cube, frozen=True)
    frozen = {'scale': made.params['frozen']['scale'] + 1}
    saved.save(1, made._replace(params={**made.params, 'frozen': frozen}))
  shutil.rmtree(copy.parent / 'frozen')
  shutil.copytree(tmp_path / 'other' / 'frozen', copy.parent / 'frozen')
  with checkpoint.Checkpointer(copy) as saved:
    with pytest.raises(ValueError, match='frozen: of another run'):
      saved.restore(abstract(cube, frozen=True))


def test_what_a_kill_leaves_is_cleared_at_the_next_start(two_steps, copy, cube):
  shutil.copytree(copy / '2', copy / '3')  # committed, no manifest
  (copy / '3' / 'manifest.json').rename(copy / '3' / 'manifest.json.part')
  (copy / '4.orbax-checkpoint-tmp' / 'params').mkdir(parents=True)
  (copy / '0.deleting').mkdir()
  (copy.parent / 'config.json.part').write_text('{')
  assert archive.steps_in(copy) == [1, 2]
  with pytest.raises(ValueError, match=r'no checkpoint 3; .* \[1, 2\]'):
    weights.load_params(copy, 3)
  with pytest.warns(UserWarning, match='removed what was not') as told:
    saved = checkpoint.Checkpointer(copy)
  assert len(told) == 1
  with saved:
    found = saved.restore(abstract(cube, frozen=True))
    assert saved.save(3, found)
  assert {p.name for p in copy.iterdir()} == {'1', '2', '3'}
  assert {p.name for p in copy.parent.iterdir()} == {'checkpoints', 'frozen'}


def test_frozen_weights_without_a_step_are_not_those_of_the_next_run(copy):
  for step in (1, 2):
    (copy / str(step) / 'manifest.json').unlink()
  with pytest.warns(UserWarning, match='removed .*frozen'):
    checkpoint.Checkpointer(copy).close()
  assert not (copy.parent / 'frozen').exists() and not archive.folders_in(copy)


def test_a_lost_manifest_of_an_older_step_is_damage(copy):
  (copy / '1' / 'manifest.json').unlink()
  with pytest.warns(
    UserWarning, match=r'1 .*manifest.json: missing.* quarantined'
  ):
    checkpoint.Checkpointer(copy).close()
  assert (copy / 'unreadable-1').is_dir() and archive.steps_in(copy) == [2]


def test_steps_of_before_there_were_manifests_are_read(two_steps, copy, cube):
  for folder in (copy / '1', copy / '2', copy.parent / 'frozen'):
    (folder / 'manifest.json').unlink()
  for step in (1, 2):
    path = copy / str(step) / 'meta' / 'metadata'
    path.write_text('{"metrics": null, "best_metric": null}')
  with checkpoint.Checkpointer(copy) as saved:
    with pytest.warns(UserWarning, match='cannot be checked'):
      found = saved.restore(abstract(cube, frozen=True), step=1)
    saved.save(3, found)
  jax.tree.map(np.testing.assert_array_equal, found, two_steps[1])
  assert archive.damage(copy / '3') == []


def test_multiples_are_kept(tmp_path, cube):
  made = create(cube)
  directory = tmp_path / 'checkpoints'
  with checkpoint.Checkpointer(directory, keep=1, keep_every=3) as saved:
    for step in range(1, 8):
      saved.save(step, made)
    saved.wait()
    assert saved.steps() == [3, 6, 7]
  assert {p.name for p in directory.iterdir()} == {'3', '6', '7'}


def test_the_old_step_goes_only_when_the_new_one_has_its_manifest(
  tmp_path, cube, monkeypatch
):
  made = create(cube)
  directory = tmp_path / 'checkpoints'
  write, seen = manifest.write, []

  def spy(folder, *args):
    seen.append((folder.name, archive.steps_in(directory)))
    return write(folder, *args)

  monkeypatch.setattr(manifest, 'write', spy)
  with checkpoint.Checkpointer(directory, keep=1) as saved:
    for step in (1, 2, 3):
      saved.save(step, made)
      saved.wait()
  assert seen == [('1', []), ('2', [1]), ('3', [2])]


def test_an_error_of_the_background_is_raised(tmp_path, cube, monkeypatch):
  def full(*_):
    raise OSError('No space left on device')

  monkeypatch.setattr(manifest, 'write_text', full)
  saved = checkpoint.Checkpointer(tmp_path / 'checkpoints')
  saved.save(1, create(cube))
  with pytest.raises(OSError, match='No space left'):
    saved.wait()
  saved.close()


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
  with pytest.raises(ValueError, match='keep_every=-1'):
    checkpoint.Checkpointer(tmp_path, keep_every=-1)
  with pytest.raises(ValueError, match="best_mode='highest'"):
    checkpoint.Checkpointer(tmp_path, best_mode='highest')


def test_weights_alone_are_no_run_to_go_on_with(tmp_path, cube):
  weights.save_params(tmp_path, 3, create(cube).params)
  with checkpoint.Checkpointer(tmp_path / 'checkpoints') as saved:
    with pytest.raises(ValueError, match=r'no optimizer.*config\.init_from'):
      saved.restore(abstract(cube))


def test_clearing_may_be_killed_as_well(copy, monkeypatch):
  (copy / '2' / 'manifest.json').unlink()

  def killed(path):
    shutil.move(path / 'meta', copy.parent / 'gone')  # some of it is removed
    raise KeyboardInterrupt

  with monkeypatch.context() as patch:
    patch.setattr(retention.shutil, 'rmtree', killed)
    with pytest.raises(KeyboardInterrupt):
      retention.clear(copy)
  with pytest.warns(UserWarning, match='removed') as told:
    retention.clear(copy)
  assert len(told) == 1 and {p.name for p in copy.iterdir()} == {'1'}
