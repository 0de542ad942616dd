"""Alone, a session is nothing; settings fail early; lines name the process."""

import io

import pytest

from pix2seqd_jax.experiment import schema
from pix2seqd_jax.train.processes import distributed


def test_alone_a_session_is_nothing(monkeypatch, tmp_path):
  for names in distributed.places.VARIABLES.values():
    for name in names:
      monkeypatch.delenv(name, raising=False)
  settings = schema.DEFAULTS['distributed']
  with (
    pytest.raises(KeyError, match='its own'),
    distributed.session(tmp_path, **settings),
  ):
    raise KeyError('its own')
  assert not distributed.start(mode='off')
  assert not distributed.preempted()
  assert distributed.all_true(True) and not distributed.all_true(False)
  assert distributed.of_first(7) == 7 and distributed.of_first(None) is None


@pytest.mark.parametrize(
  'settings, message',
  [
    ({'timeout_s': 0}, r'distributed\.timeout_s=0 must be above 0'),
    ({'num_processes': 2}, 'is given but not coordinator and process_id'),
  ],
)
def test_wrong_settings_fail_before_anything_starts(settings, message):
  with pytest.raises(ValueError, match=message):
    distributed.start(**settings)


def test_a_stream_says_whose_it_is():
  stream = io.StringIO()
  prefixed = distributed._Prefixed(stream, '[process 3] ')
  for text in ('one', ' line\n', '\n', 'two\nthree'):
    assert prefixed.write(text) == len(text)
  assert stream.getvalue() == (
    '[process 3] one line\n[process 3] \n[process 3] two\n[process 3] three'
  )
  assert prefixed.isatty() is False


def test_preempted_ends_like_sigterm():
  assert distributed.Preempted().code == 143


def test_how_to_go_on_names_the_newest_whole_checkpoint(smoke_run, tmp_path):
  said = distributed._how_to_go_on(smoke_run.workdir)
  assert 'the checkpoint of step 6 ' in said
  assert 'no checkpoint was saved yet' in distributed._how_to_go_on(tmp_path)
