"""Sections of a config, and names with arguments on the command line."""

import os
import pathlib

import pytest

from configs import pix2seq_d_shapes
from pix2seqd_jax import checking
from pix2seqd_jax.diffusion import dpm_solver
from pix2seqd_jax.experiment import build, schema, sections


@pytest.mark.parametrize(
  'text, found',
  [
    ('heun', ('heun', {})),
    ('ddim(eta=0.5)', ('ddim', {'eta': 0.5})),
    (" rk45(rtol=1e-3, name='x') ", ('rk45', {'rtol': 1e-3, 'name': 'x'})),
    ('dpm(blocks=(3, 2))', ('dpm', {'blocks': (3, 2)})),
  ],
)
def test_parse_call(text, found):
  assert schema.parse_call('sample.sampler', text) == found


@pytest.mark.parametrize(
  'text',
  ['', 'a b', 'a(1)', 'a(**{})', 'a(x=print(1))', 'a.b(x=1)', '3', 'f(']
  + ['a(x={[]: 1})', 'a(x=' + '-' * 5000 + '1)'],
)
def test_what_is_no_call(text):
  with pytest.raises(ValueError, match=r'sample\.sampler=.*must be a name'):
    schema.parse_call('sample.sampler', text)


def test_the_sampler_of_a_config():
  config = pix2seq_d_shapes.get_config('smoke')
  config.sample.sampler = 'dpm_multistep(order=3)'
  config.sample.timestep_spacing = 'uniform(end=0.001)'
  config.sample.td = 0.0
  experiment = build.Experiment(config)
  assert experiment.sampler == dpm_solver.Multistep(3)
  assert experiment.timesteps(4).next[-1] == 0.001
  config.sample.sampler = 'dpm_multistep(ordre=3)'
  with pytest.raises(ValueError, match="Did you mean 'order'"):
    _ = build.Experiment(config).sampler


def test_the_reference_has_each_key_once_with_what_it_may_be():
  text = schema.reference()
  rows = text.splitlines()
  for name, section in schema.SECTIONS.items():
    assert text.count(f'## `{name}`\n') == 1
    for key, told in schema.keys(section).items():
      (row,) = [r for r in rows if r.startswith(f'| `{name}.{key}`')]
      assert told.doc.endswith('.') and told.doc in row
      for choice in told.choices:
        assert f'`{choice}`' in row
      if told.default is not schema.MISSING:
        assert f'`{told.default!r}`' in row
      assert (r'\*' in row) == (f'{name}.{key}' in schema.FREE)
  assert '`int` from 1 to 65536' in text and '`float` in [0, 1)' in text
  names = (*schema.keys(sections.Config), *schema.SECTIONS)
  assert set(names) == set(schema.plain(pix2seq_d_shapes.get_config()))


def test_the_page_holds_the_reference():
  """UPDATE_DOCS=1 python -m pytest tests/experiment/test_schema.py"""
  page = pathlib.Path(__file__).parents[2] / 'docs' / 'configuration.md'
  written = page.read_text(encoding='utf-8')
  head, mark, _ = written.partition('<!-- The rest is generated')
  found = (
    f'{head}{mark}: UPDATE_DOCS=1 python -m pytest '
    f'tests/experiment/test_schema.py -->\n\n{schema.reference()}'
  )
  if os.environ.get('UPDATE_DOCS'):
    page.write_text(found, encoding='utf-8')
    written = found
  assert mark and written == found, (
    f'{page} lags behind experiment/sections.py; run UPDATE_DOCS=1 python -m '
    'pytest tests/experiment/test_schema.py'
  )


def test_defaults_fit_their_own_rules():
  for section in schema.SECTIONS.values():
    for key, told in schema.keys(section).items():
      if told.default is not schema.MISSING:
        assert checking.fits(told.default, told.hint), key
        assert all(rule.holds(told.default) for rule in told.ranges), key


@pytest.mark.parametrize(
  'rule, value, message',
  [
    (sections.Range(1, 9), 0, 'x=0 must be an integer from 1 to 9.'),
    (sections.Range(0), -0.5, 'x=-0.5 must be >= 0.'),
    (sections.Range(0, above=True), 0, 'x=0 must be above 0.'),
    (sections.Range(0, 2, above=True), 0, 'x=0 must be above 0, at most 2.'),
    (
      sections.Range(0, 1, below=True, note='0: none.'),
      1.0,
      'x=1.0 must lie in [0, 1). 0: none.',
    ),
    (
      sections.Range(1, 9, what='a pair, each'),
      (3, 10),
      'x=(3, 10) must be a pair, each from 1 to 9.',
    ),
  ],
)
def test_a_range_says_its_rule(rule, value, message):
  with pytest.raises(ValueError) as error:
    rule.check('x', value)
  assert str(error.value) == message
  rule.check('x', 1 if rule.most > 1 else 0.5)
