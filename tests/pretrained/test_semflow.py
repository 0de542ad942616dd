"""SemFlow's UNet by its original names: released, as training saves it, back.

What PyTorch writes is read in tests/pytorch.
"""

import functools
import json

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

from configs import semflow_shapes
from pix2seqd_jax.cli import weights_export, weights_whole
from pix2seqd_jax.cli import weights_import as command
from pix2seqd_jax.experiment import build, workdir
from pix2seqd_jax.pretrained import part, sd_unet, sources
from pix2seqd_jax.train import sharding
from pix2seqd_jax.train.checkpoints import weights

TOKENS = 3
PART = sd_unet.PART._replace(shapes=functools.cache(sd_unet.PART.shapes))


@pytest.fixture(autouse=True, scope='module')
def traced_once():
  family = sources.SOURCES['semflow']._replace(parts={'unet': PART})
  with pytest.MonkeyPatch.context() as patch:
    patch.setitem(sources.SOURCES, 'semflow', family)
    yield


def recipe_of(folder):
  """The small config, attending to a prompt; its start is in `folder`."""
  config = semflow_shapes.get_config('smoke')
  config.model.prompt_tokens = TOKENS
  config.model.unet = {**config.model.unet, 'context_dim': 6}
  config.init_from = (
    (str(folder / 'nowhere'), 'net/unet', 'net/unet', 'exact'),
    (str(folder / 'sd'), 'net/vae', 'frozen/image', 'exact'),
    (str(folder / 'prompt'), 'frozen/prompt', 'frozen/prompt', 'exact'),
  )
  return config


@pytest.fixture(scope='module')
def made(tmp_path_factory):
  """(folder, the whole model's parameters); checkpoint/ is accelerate's."""
  folder = tmp_path_factory.mktemp('semflow')
  experiment = build.Experiment(recipe_of(folder))
  shapes = jax.eval_shape(experiment.model.init, jax.random.key(0), None)
  rng = np.random.default_rng(0)
  params = jax.tree.map(
    lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), shapes
  )
  frozen = params['frozen']
  weights.save_params(folder / 'sd', 0, {'net': {'vae': frozen['image']}})
  prompt = {'net': {}, 'frozen': {'prompt': frozen['prompt']}}
  weights.save_params(folder / 'prompt', 0, prompt)
  module = experiment.model.unet_net
  arrays = {
    entry.name: make()
    for entry, _, make in part.to_theirs(
      PART, module, {'params': params['net']['unet']}
    )
  }
  checkpoint = folder / 'checkpoint'
  checkpoint.mkdir()
  save_file(arrays, checkpoint / 'model.safetensors')
  config = sd_unet.config_of(module)
  (checkpoint / 'config.json').write_text(json.dumps(config))
  return folder, params


def test_the_unet_the_recipe_s_start_and_back(made, tmp_path):
  folder, params = made
  out = tmp_path / 'out'
  lines = command.convert_parts(
    'semflow', folder / 'checkpoint', out, config=recipe_of(folder)
  )
  assert f"(('{out}','net/unet','net/unet','exact'),)" in lines[-1]
  found = weights.load_params(out)
  assert sharding.flat_paths(found).keys() == sharding.flat_paths(params).keys()
  jax.tree.map(np.testing.assert_array_equal, found['net'], params['net'])
  jax.tree.map(np.testing.assert_array_equal, found['frozen'], params['frozen'])
  assert workdir.load(out).model.prompt_tokens == TOKENS
  back = tmp_path / 'back'
  weights_export.export('semflow', out, back, part='unet')
  theirs = (folder / 'checkpoint' / 'model.safetensors').read_bytes()
  ours = (back / 'diffusion_pytorch_model.safetensors').read_bytes()
  assert sorted(parsed(theirs)) == sorted(parsed(ours))
  assert all(parsed(ours)[k] == v for k, v in parsed(theirs).items())


def parsed(data):
  """{name: (shape, bytes)} of a safetensors file."""
  size = int.from_bytes(data[:8], 'little')
  body = data[8 + size :]
  found = {}
  for name, entry in json.loads(data[8 : 8 + size]).items():
    if name != '__metadata__':
      begin, end = entry['data_offsets']
      found[name] = entry['shape'], body[begin:end]
  return found


def test_nothing_stays_random(made, tmp_path):
  folder, _ = made
  config = recipe_of(folder)
  args = ('semflow', folder / 'checkpoint', tmp_path / 'out')
  config.init_from = config.init_from[:2]
  with pytest.raises(ValueError, match='missing: frozen/prompt/tokens'):
    command.convert_parts(*args, config=config)
  config.init_from = ((str(folder / 'x'), '', 'frozen/image', 'exact'),)
  with pytest.raises(ValueError, match='x has no checkpoint'):
    command.convert_parts(*args, config=config)
  assert not (tmp_path / 'out').exists()


def test_wrappers_of_training_are_taken_off(made):
  """As torch.compile and data parallelism name a model."""
  folder, _ = made
  found = sources.find('semflow', folder / 'checkpoint')['unet']
  tensors = {f'module._orig_mod.{k}': v for k, v in found.tensors.items()}
  module, plan = part.plan(PART, tensors, found.config)
  assert module == found.module
  assert len(plan.rows) == len(found.plan.rows)
  del tensors['module._orig_mod.conv_in.bias']
  tensors['module._orig_mod.conv_in.bia'] = found.tensors['conv_in.bias']
  with pytest.raises(ValueError, match=r'extra: .*\n.*missing: conv_in.bias'):
    part.plan(PART, tensors, found.config)


def test_a_recipe_goes_with_a_model_of_ours():
  with pytest.raises(ValueError, match='that are a model of ours'):
    weights_whole.rest(None, sources.named('clip'), {})
