"""Configs by name, overrides, tables, and what a result says of itself."""

import json
import re

import pytest

from benchmarks import common

SMOKE = 'configs/pix2seq_d_shapes.py:smoke'


def test_config_with_overrides():
  config = common.load_config(
    SMOKE, ['model.scale=0.1', 'data.id_order=area', 'data.mask_size=(16, 16)']
  )
  assert config.model.scale == 0.1
  assert config.data.id_order == 'area'
  assert config.data.mask_size == (16, 16)
  again = common.override(config, {'model.bits_kind': 'gray'})
  assert again.model.bits_kind == 'gray'
  assert config.model.bits_kind == 'binary'


def test_config_errors():
  with pytest.raises(ValueError, match=r'no file configs/nothing\.py'):
    common.load_config('configs/nothing.py')
  with pytest.raises(ValueError, match='key=value'):
    common.load_config(SMOKE, ['model.scale'])
  with pytest.raises(ValueError, match="no section 'nets'"):
    common.load_config(SMOKE, ['nets.dim=1'])


def test_table():
  text = common.table(['a', 'b'], [[1, None], [0.123456, True]])
  assert text.split('\n') == [
    '| a | b |',
    '| --- | --- |',
    '| 1 |  |',
    '| 0.1235 | yes |',
  ]


@pytest.fixture
def written(tmp_path, monkeypatch, capsys):
  """Reports once, appending to a file of its own."""
  monkeypatch.setattr(common, 'RESULTS', tmp_path / 'RESULTS.md')
  argv = ['--out', str(tmp_path / 'out'), '--append', '--config', 'a b.py']
  args = common.parser('name', 'About.', SMOKE).parse_args(argv)
  texts = [
    common.report(
      args,
      argv,
      name='name',
      title='A title',
      about=common.sizes(common.load_config(SMOKE)),
      parts=['| table |'],
      numbers={'pq': 0.5},
    )
    for _ in range(2)
  ]
  assert capsys.readouterr().out == ''.join(f'{text}\n' for text in texts)
  return tmp_path, texts


def test_report(written):
  folder, texts = written
  text = texts[-1]
  assert text.startswith('### A title\n\n`python -m benchmarks.name --out ')
  assert "--append --config 'a b.py'`" in text
  assert re.search(r'Commit ([0-9a-f]{7,}\+?|unknown), \d{4}-', text)
  assert 'shapes, images 64x64, masks 32x32, 4+4 bits' in text
  assert re.search(r'\d+ x .*, \d+ GiB', text)
  assert text.endswith('\n\n| table |\n')
  assert (folder / 'out' / 'results.md').read_text() == text
  assert (folder / 'RESULTS.md').read_text() == ''.join(
    f'\n{text}' for text in texts
  )
  numbers = json.loads((folder / 'out' / 'results.json').read_text())
  assert numbers['pq'] == 0.5 and numbers['header'] in text
