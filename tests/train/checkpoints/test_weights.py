"""Weights out of other runs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy import Toy, make_batch

from pix2seqd_jax.train import optimizer, sharding, state
from pix2seqd_jax.train.checkpoints import (
  archive,
  checkpoint,
  manifest,
  weights,
)


@pytest.fixture(scope='module')
def workdir(tmp_path_factory):
  """A run on eight devices: steps 1 (the best) and 2, EMA = params + 1."""
  path = tmp_path_factory.mktemp('run')
  mesh = sharding.make_mesh((('data', 2), ('fsdp', 2), ('tensor', 2)))
  made = state.create_state(
    Toy(frozen=True),
    optimizer.make_optimizer('adamw', 0.1),
    jax.random.key(0),
    make_batch(0),
    mesh,
    (('kernel$', 'fsdp'),),
  )
  made = made._replace(ema=jax.tree.map(lambda x: x + 1, made.ema))
  with checkpoint.Checkpointer(path / 'checkpoints', best_metric='pq') as saved:
    saved.save(1, made, metrics={'pq': 0.5})
    later = jax.tree.map(lambda x: x * 2, made)
    saved.save(2, later, metrics={'pq': 0.4})
  return path, jax.device_get(made)


def test_params_come_back_as_numpy_without_knowing_the_tree(workdir):
  path, made = workdir
  for directory in (path, str(path / 'checkpoints')):
    found = weights.load_params(directory, step=1)
    jax.tree.map(np.testing.assert_array_equal, found['net'], made.ema['net'])
    jax.tree.map(
      np.testing.assert_array_equal, found['stats'], made.ema['stats']
    )
    np.testing.assert_array_equal(found['frozen']['scale'], 2)
    assert all(isinstance(x, np.ndarray) for x in jax.tree.leaves(found))


def test_raw_newest_and_best(workdir):
  path, made = workdir
  kernel = made.params['net']['one']['kernel']

  def load(**kwargs):
    return weights.load_params(path, **kwargs)['net']['one']['kernel']

  np.testing.assert_array_equal(load(step=1, ema=False), kernel)
  np.testing.assert_array_equal(load(ema=False), 2 * kernel)
  np.testing.assert_array_equal(load(step='best', ema=False), kernel)
  assert archive.best_step_in(path) == 1
  assert archive.steps_in(path) == [1, 2]


def test_missing_checkpoints_are_named(workdir, tmp_path):
  with pytest.raises(ValueError, match=r'no checkpoint 9; .*\[1, 2\]'):
    weights.load_params(workdir[0], step=9)
  with pytest.raises(ValueError, match=r'the steps there are \[\]'):
    weights.load_params(tmp_path)


def fresh(**toy):
  params = Toy(**toy).init(jax.random.key(9), {})
  return state.collections(params)


def test_exact_copies_a_part_with_its_statistics(workdir):
  path, made = workdir
  params = fresh()
  new, report = weights.init_from(
    params, ((str(path), 'one', 'one', 'exact'),), step=1
  )
  np.testing.assert_array_equal(
    new['net']['one']['kernel'], made.ema['net']['one']['kernel']
  )
  np.testing.assert_array_equal(
    new['stats']['one']['mean'], made.ema['stats']['one']['mean']
  )
  assert new['net']['two']['kernel'] is params['net']['two']['kernel']
  assert '3 arrays, 48 numbers' in report


def test_everything_and_other_collections(workdir):
  path, _ = workdir
  new, _ = weights.init_from(
    fresh(frozen=True), ((str(path), '', '', 'exact'),), step=1
  )
  jax.tree.map(
    np.testing.assert_array_equal,
    {k: new[k] for k in ('net', 'stats')},
    {k: v for k, v in weights.load_params(path, 1).items() if k != 'frozen'},
  )
  target = fresh()
  target['frozen'] = {'encoder': jax.tree.map(jnp.zeros_like, target['net'])}
  new, _ = weights.init_from(
    target, ((str(path), 'net', 'frozen/encoder', 'exact'),), step=1
  )
  np.testing.assert_array_equal(
    new['frozen']['encoder']['one']['kernel'],
    weights.load_params(path, 1)['net']['one']['kernel'],
  )


@pytest.mark.parametrize(
  ('source', 'target'), [('one', 'one/'), ('net/one/', 'net/one/')]
)
def test_a_prefix_may_end_with_a_slash(workdir, source, target):
  path, _ = workdir
  new, _ = weights.init_from(
    fresh(), ((str(path), source, target, 'exact'),), step=1
  )
  np.testing.assert_array_equal(
    new['net']['one']['kernel'],
    weights.load_params(path, 1)['net']['one']['kernel'],
  )


def test_grow_keeps_the_function(workdir):
  path, made = workdir
  wide = Toy(features=6)
  new, report = weights.init_from(
    fresh(features=6), ((str(path), '', '', 'grow'),), step=1
  )
  assert 'grown: net/one/kernel: (4, 8) -> (6, 8)' in report
  x = jnp.asarray(make_batch(3)['image'])
  more = jnp.concatenate([x, jnp.full((8, 2), 5.0)], -1)
  np.testing.assert_allclose(
    wide._forward(new, more)[0], Toy()._forward(made.ema, x)[0], rtol=1e-6
  )
  with pytest.raises(ValueError, match='misshapen'):
    weights.init_from(
      fresh(features=6), ((str(path), '', '', 'exact'),), step=1
    )
  with pytest.raises(ValueError, match='misshapen'):  # never fewer inputs
    weights.init_from(fresh(features=3), ((str(path), '', '', 'grow'),), step=1)


def test_partial_leaves_new_parts_as_they_were(workdir):
  path, made = workdir
  params = fresh(features=6)
  params['net']['two']['scale'] = jnp.full(3, 7.0)
  entries = ((str(path), '', '', 'partial'),)
  new, report = weights.init_from(params, entries, step=1)
  assert 'new: net/two/scale' in report
  assert 'grown: net/one/kernel: (4, 8) -> (6, 8)' in report
  np.testing.assert_array_equal(new['net']['two']['scale'], 7)
  np.testing.assert_array_equal(
    new['net']['two']['kernel'], made.ema['net']['two']['kernel']
  )
  del params['net']['two']['bias']
  with pytest.raises(ValueError, match='extra there: two/bias'):
    weights.init_from(params, entries, step=1)


def test_errors_list_all_names(workdir):
  path, _ = workdir
  params = fresh(hidden=16)
  params['net']['one']['scale'] = jnp.ones(3)
  del params['net']['two']['bias']
  with pytest.raises(ValueError) as error:
    weights.init_from(params, ((str(path), '', '', 'exact'),), step=1)
  text = str(error.value)
  assert 'missing there: one/scale' in text
  assert 'extra there: two/bias' in text
  assert 'misshapen: net/one/kernel: (4, 16) here, (4, 8) there' in text
  assert 'misshapen: net/two/kernel: (16, 2) here, (8, 2) there' in text


@pytest.mark.parametrize(
  'entry, message',
  [
    (('one', 'one', 'copy'), 'with a rule of'),
    (('one', 'net/one', 'exact'), 'either both prefixes'),
    (('three', 'three', 'exact'), "named 'three'"),
  ],
)
def test_bad_entries_are_refused(workdir, entry, message):
  with pytest.raises(ValueError, match=message):
    weights.init_from(fresh(), ((str(workdir[0]), *entry),))


def test_parameters_alone_make_a_folder_to_load(tmp_path):
  params = fresh(frozen=True)
  ema = {k: jax.tree.map(lambda x: x + 1, params[k]) for k in ('net', 'stats')}
  weights.save_params(tmp_path / 'both', 5, params, ema)
  weights.save_params(tmp_path / 'one', 0, {'net': params['net']})
  for directory, averaged, expected in (
    ('both', True, {**ema, 'frozen': params['frozen']}),
    ('both', False, params),
    ('one', True, {'net': params['net'], 'stats': {}, 'frozen': {}}),
  ):
    found = weights.load_params(tmp_path / directory, ema=averaged)
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    jax.tree.map(np.testing.assert_array_equal, found, expected)
  with pytest.raises(ValueError, match=r'step=5: .* exist already'):
    weights.save_params(tmp_path / 'both', 5, params)
  new, _ = weights.init_from(
    fresh(), ((str(tmp_path / 'both'), 'one', 'one', 'exact'),)
  )
  np.testing.assert_array_equal(
    new['net']['one']['kernel'], ema['net']['one']['kernel']
  )


def test_weights_that_changed_on_the_disk_are_not_loaded(tmp_path):
  params = fresh(frozen=True)
  ema = {k: params[k] for k in ('net', 'stats')}
  weights.save_params(tmp_path, 1, {k: params[k] for k in ema})
  weights.save_params(tmp_path, 2, params, ema)
  flip(next((tmp_path / 'checkpoints' / '2' / 'ema').rglob('d/*')))
  weights.load_params(tmp_path, 2, ema=False)  # not what is read
  with pytest.raises(ValueError, match=r'checkpoint 2 .* damaged \(ema/.*'):
    weights.load_params(tmp_path, 2)
  with pytest.warns(UserWarning, match='checkpoint 2 .* passed over'):
    found = weights.load_params(tmp_path)
  jax.tree.map(np.testing.assert_array_equal, found['net'], params['net'])
  flip(tmp_path / 'frozen' / '_METADATA')
  with pytest.raises(ValueError, match='frozen/_METADATA: other content'):
    weights.load_params(tmp_path, 2, ema=False)


def flip(path, bit=3):
  data = bytearray(path.read_bytes())
  data[len(data) // 2] ^= 1 << bit
  path.write_bytes(bytes(data))


def test_a_config_that_changed_on_the_disk_is_refused(tmp_path):
  archive.check_told(tmp_path)  # nothing was told
  for name in archive.TOLD:
    (tmp_path / name).write_text('{"a": 1}')
  manifest.write(tmp_path, only=archive.TOLD)
  (tmp_path / 'other').write_text('1')
  archive.check_told(tmp_path)
  (tmp_path / 'config.json').write_text('{"a": 3}')
  with pytest.raises(ValueError, match=r'config\.json: other content.* remove'):
    archive.check_told(tmp_path)
  (tmp_path / 'config.json').unlink()
  with pytest.raises(ValueError, match=r'config\.json: missing'):
    archive.check_told(tmp_path)
