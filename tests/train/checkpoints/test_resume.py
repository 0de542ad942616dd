"""What a resumed run may change."""

import pytest

from pix2seqd_jax.train.checkpoints import resume

CONFIG = {
  'model': {'name': 'toy', 'widths': (1, 2)},
  'data': {'name': 'shapes', 'num_threads': 4},
  'optimizer': {'learning_rate': 1e-3},
  'seed': 0,
  'train': {'num_steps': 100, 'log_every': 10},
}


def changed(**parts):
  return {
    k: {**v, **parts[k]}
    if isinstance(v, dict) and k in parts
    else parts.get(k, v)
    for k, v in CONFIG.items()
  }


def test_a_fresh_directory_is_no_resume(tmp_path):
  assert not resume.check_resume(tmp_path / 'new', CONFIG)


def test_lengths_may_change(tmp_path):
  resume.save_config(tmp_path, CONFIG)
  assert resume.check_resume(tmp_path, CONFIG)  # tuples are lists in JSON
  longer = changed(train={'num_steps': 200, 'new': 1})
  assert resume.check_resume(tmp_path, longer)


@pytest.mark.parametrize(
  'parts, text',
  [
    ({'model': {'widths': (1, 3)}}, 'model.widths: [1, 2] in config.json'),
    ({'data': {'name': 'coco'}}, "data.name: 'shapes'"),
    ({'optimizer': {'b1': 0.9}}, 'optimizer.b1: absent'),
    ({'seed': 1}, 'seed: 0 in config.json, 1 now; set it back to 0'),
  ],
)
def test_the_rest_may_not(tmp_path, parts, text):
  resume.save_config(tmp_path, CONFIG)
  with pytest.raises(ValueError) as error:
    resume.check_resume(tmp_path, changed(**parts))
  assert text in str(error.value)
  assert 'new workdir' in str(error.value)


def test_all_changes_are_named_but_the_free(tmp_path):
  resume.save_config(tmp_path, CONFIG)
  new = changed(data={'num_threads': 8, 'name': 'coco'}, seed=2)
  with pytest.raises(ValueError) as error:
    resume.check_resume(tmp_path, new, free=('data.num_threads',))
  text = str(error.value)
  assert 'data.name' in text and 'seed' in text
  assert 'num_threads' not in text


def test_a_config_that_is_too_old_for_a_key_has_its_default(tmp_path):
  resume.save_config(tmp_path, CONFIG)
  defaults = {'data': {'backend': 'pillow'}, 'optimizer': {}}
  same = changed(data={'backend': 'pillow'})
  assert resume.check_resume(tmp_path, same, defaults=defaults)
  with pytest.raises(ValueError, match=r"data\.backend: 'pillow' in"):
    other = changed(data={'backend': 'opencv'})
    resume.check_resume(tmp_path, other, defaults=defaults)


def test_a_broken_config_is_named(tmp_path):
  (tmp_path / 'config.json').write_text('{')
  with pytest.raises(ValueError, match='is not JSON'):
    resume.check_resume(tmp_path, CONFIG)
