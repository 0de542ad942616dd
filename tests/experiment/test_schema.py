"""Names with arguments on the command line."""

import pytest

from configs import pix2seq_d_shapes
from pix2seqd_jax.diffusion import dpm_solver
from pix2seqd_jax.experiment import build, schema


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
