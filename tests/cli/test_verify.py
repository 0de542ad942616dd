"""The command that reads every byte of a run's checkpoints."""

import json
import shutil

import numpy as np
import pytest

from pix2seqd_jax.cli import verify
from pix2seqd_jax.train.checkpoints import archive, manifest, weights


@pytest.fixture
def run(tmp_path):
  """Two steps, the second with frozen weights."""
  net = {'net': {'kernel': np.arange(500.0)}}
  weights.save_params(tmp_path, 1, net)
  weights.save_params(tmp_path, 2, {**net, 'frozen': {'scale': np.ones(3)}})
  return tmp_path


def states(run, capsys, code):
  assert verify.main(['--workdir', str(run), '--json']) == code
  found = json.loads(capsys.readouterr().out)
  assert found['ok'] == (not code)
  return {part['name']: part for part in found['folders']}


def test_a_whole_run(run, capsys):
  found = states(run, capsys, 0)
  assert list(found) == ['checkpoints/1', 'checkpoints/2', 'frozen']
  for part in found.values():
    assert part['state'] == 'ok' and part['bytes'] > 0
    assert set(part['files'].values()) == {'ok'}
  assert verify.main(['--workdir', str(run / 'checkpoints')]) == 0
  assert '3 folders, 0 of them' in capsys.readouterr().out


def test_every_file_that_is_not_as_written_is_named(run, capsys):
  one = run / 'checkpoints' / '1'
  (one / 'params' / '_METADATA').write_text('')
  (one / 'params' / 'new').write_text('1')
  (one / 'meta' / 'metadata').unlink()
  found = states(run, capsys, 1)
  wrong = found['checkpoints/1']
  assert wrong['state'] == 'damaged'
  assert wrong['files']['params/new'] == 'extra'
  assert wrong['files']['meta/metadata'] == 'missing'
  assert wrong['files']['params/_METADATA'].startswith('0 of ')
  assert wrong['files']['manifest.json'] == 'ok'
  assert found['checkpoints/2']['state'] == 'ok'
  assert verify.main(['--workdir', str(run)]) == 1
  assert '  params/new: extra' in capsys.readouterr().out


def test_a_step_stands_and_falls_with_the_frozen_weights(run, capsys):
  path = run / 'frozen' / '_METADATA'
  path.write_text(path.read_text().replace('3', '4', 1))
  found = states(run, capsys, 1)
  assert [part['state'] for part in found.values()] == [
    'ok',
    'damaged',
    'damaged',
  ]
  assert found['checkpoints/2']['files']['frozen/_METADATA'] == 'other content'


def test_what_is_no_checkpoint_is_named(run, capsys):
  folder = run / 'checkpoints'
  shutil.copytree(folder / '2', folder / '3')
  (folder / '3' / 'manifest.json').unlink()
  shutil.copytree(folder / '1', folder / 'unreadable-1')
  (folder / '4.orbax-checkpoint-tmp').mkdir()
  (folder / '1' / 'manifest.json').unlink()
  (folder / '1' / 'meta' / 'metadata').write_text('{}')
  found = states(run, capsys, 1)
  assert {name: part['state'] for name, part in found.items()} == {
    'checkpoints/1': 'unverified',
    'checkpoints/2': 'ok',
    'checkpoints/3': 'unfinished',
    'frozen': 'ok',
    'checkpoints/4.orbax-checkpoint-tmp': 'left over',
    'checkpoints/unreadable-1': 'quarantined',
  }


def test_a_folder_without_a_run(tmp_path, capsys):
  assert verify.main(['--workdir', str(tmp_path)]) == 2
  assert 'has no checkpoint; name the --workdir' in capsys.readouterr().err


def test_the_config_is_looked_at_too(run, capsys):
  (run / 'config.json').write_text('{"a": 1}')
  manifest.write(run, only=archive.TOLD)
  assert states(run, capsys, 0)['.']['files']['config.json'] == 'ok'
  (run / 'config.json').write_text('{"a": 3}')
  assert states(run, capsys, 1)['.']['state'] == 'damaged'
