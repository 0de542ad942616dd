"""The paper's numbers are the sheet's, and every variant is a valid config."""

import re

import pytest

from benchmarks import common, ldmseg_tables, paper_tables
from pix2seqd_jax.experiment import build


def numbers(text):
  return [float(number) for number in re.findall(r'\d*\.?\d+', text)]


@pytest.fixture(scope='module')
def sheet(shared):
  text = (shared / 'methods' / 'pix2seqd.md').read_text()
  return text[text.index('- Ablations [P]:') :]


@pytest.mark.parametrize(
  'name, letter', [('input_scaling', 'b'), ('loss_weight', 'p')]
)
def test_ablations_over_numbers(sheet, name, letter):
  found = re.search(rf' {letter} ([\d./]+) -> (?:PQ )?([\d./]+)', sheet)
  rows = paper_tables.TRAINED[name].rows
  assert [float(row.label) for row in rows] == numbers(found[1])
  assert [row.paper_pq for row in rows] == numbers(found[2].rstrip('.'))


def test_ablation_of_the_loss(sheet):
  found = re.search(r'L2 ([\d.]+) vs CE ([\d.]+);', sheet)
  rows = {row.label: row.paper_pq for row in paper_tables.TRAINED['loss'].rows}
  assert rows['L2'] == float(found[1])
  assert rows['softmax cross-entropy'] == float(found[2])


def test_final_numbers(sheet):
  line = sheet[sheet.index('- Final [P]:') :].split('\n')[0]
  line = line[: line.index('DAVIS')]
  assert line.count('/') >= 9
  for steps, final in paper_tables.FINAL.items():
    found = re.search(rf'(?:T=| ){steps} ([\d.]+)/([\d.]+)/([\d.]+)', line)
    assert final == tuple(float(text.rstrip('.')) for text in found.groups())


@pytest.mark.parametrize('name', paper_tables.TRAINED)
@pytest.mark.parametrize(
  'spec', ['configs/pix2seq_d_shapes.py', 'configs/pix2seq_d_coco.py:ablation']
)
def test_every_variant_builds(name, spec):
  config = common.load_config(spec)
  rows = paper_tables.TRAINED[name].rows
  assert len({row.label for row in rows}) == len(rows) > 1
  for row in rows:
    experiment = build.Experiment(common.override(config, row.overrides))
    for key, value in row.overrides.items():
      section, field = key.split('.')
      assert experiment.config[section][field] == value
      if section == 'model':
        assert getattr(experiment.model, field) == value


@pytest.mark.parametrize('name', ldmseg_tables.TRAINED)
def test_every_variant_of_ldmseg_builds(name):
  table = ldmseg_tables.TRAINED[name]
  config = common.load_config(table.config)
  assert len({row.label for row in table.rows}) == len(table.rows) > 1
  for row in table.rows:
    experiment = build.Experiment(common.override(config, row.overrides))
    assert experiment.abstract_state.params['net']


def test_numbers_of_ldmseg_are_the_sheets(shared):
  sheet = (shared / 'methods' / 'ldmseg.md').read_text()
  found = re.search(
    r'bits ([\d.]+) / colour ([\d.]+) / positional ([\d.]+)', sheet
  )
  rows = ldmseg_tables.TRAINED['ldmseg_encodings'].rows
  expected = [float(text.rstrip('.')) for text in found.groups()]
  assert [row.paper_pq for row in rows] == [*expected, None]
  line = next(line for line in sheet.split('\n') if '| P1 table 1 |' in line)
  rows = ldmseg_tables.TRAINED['ldmseg_kind'].rows
  assert [f'{row.paper_pq}' in line for row in rows] == [True, True]
