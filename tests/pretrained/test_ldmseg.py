"""LDMSeg's released file of three networks: there, and back."""

import functools
import json
import sys

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from configs import ldmseg_coco
from pix2seqd_jax.architectures.mask_autoencoder import MaskAutoencoder
from pix2seqd_jax.architectures.sd_unet import SDUNet
from pix2seqd_jax.architectures.sd_vae import SDVAE
from pix2seqd_jax.cli import weights_import as command
from pix2seqd_jax.experiment import workdir
from pix2seqd_jax.pretrained import ldmseg, part, sources
from pix2seqd_jax.train.checkpoints import weights

# No config lies in the file: 8 heads and groups of 32 channels are the rule.
TINY = {
  'unet': SDUNet(
    in_channels=12,
    channels=(32, 32),
    has_attention=(True, False),
    num_layers=1,
    context_dim=None,
  ),
  'vae_image': SDVAE(
    block_out_channels=(32, 32, 32), layers_per_block=1, parts=('encoder',)
  ),
  'vae_semseg': MaskAutoencoder(
    widths=(32, 32, 32), hidden=32, upscale_channels=32
  ),
}


# To trace a network takes seconds; many tests ask for the same.
def traced(parts):
  return {
    name: one._replace(shapes=functools.cache(one.shapes))
    for name, one in parts.items()
  }


PARTS = traced(ldmseg.PARTS)
KIN = ('ldmseg-start', 'sd15')


@pytest.fixture(autouse=True, scope='module')
def traced_once():
  with pytest.MonkeyPatch.context() as patch:
    parts = {'ldmseg': PARTS}
    parts |= {k: traced(sources.SOURCES[k].parts) for k in KIN}
    for name, some in parts.items():
      family = sources.SOURCES[name]._replace(parts=some)
      patch.setitem(sources.SOURCES, name, family)
    yield


@functools.cache
def theirs():
  """{name: array} of a file that is not nested, as the release names them."""
  rng, found = np.random.default_rng(0), {}
  for name, module in TINY.items():
    one = PARTS[name]
    kind = np.float16 if name == 'vae_image' else np.float32
    for entry in part.entries(one, module):
      value = rng.normal(size=entry.shape).astype(kind)
      for spelling in one.spellings(entry.name):
        found[f'{name}.{spelling}'] = value
  found['vae_image.post_quant_conv.weight'] = np.ones((4, 4, 1, 1), np.float16)
  found['vae_image.post_quant_conv.bias'] = np.ones(4, np.float16)
  return found


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  return tmp_path_factory.mktemp('ldmseg')


@pytest.fixture(scope='module')
def file(folder):
  save_file(theirs(), folder / 'ldmseg.safetensors')
  return folder / 'ldmseg.safetensors'


def run(*arguments):
  command.main([str(a) for a in arguments])


@pytest.fixture(scope='module')
def ours(folder, file):
  run('--from', 'ldmseg', '--checkpoint', file, '--out', folder / 'ours')
  return folder / 'ours'


def test_the_names_of_the_release():
  names = theirs().keys()
  assert {n for n in names if 'new_conv' in n} == {
    'unet.new_conv.weight',
    'unet.new_conv.bias',
  }
  blocks = [n for n in names if '.transformer_blocks.0.' in n]
  assert blocks and not any('attn2' in n or 'norm2' in n for n in blocks)
  at = 'vae_image.encoder.mid_block.attentions.0.'
  assert {n.removeprefix(at).split('.')[0] for n in names if at in n} == {
    'group_norm',
    'query',
    'key',
    'value',
    'proj_attn',
  }


def test_one_command_makes_what_the_model_starts_from(ours):
  found = weights.load_params(ours)
  assert set(found['net']) == {'unet'}
  assert set(found['frozen']) == {'image', 'mask'}
  kinds = {leaf.dtype.name for leaf in jax.tree.leaves(found)}
  assert kinds == {'float32'}
  given = theirs()
  np.testing.assert_array_equal(
    found['net']['unet']['conv_in']['kernel'],
    given['unet.conv_in.weight'].transpose(2, 3, 1, 0),
  )
  name = 'vae_image.encoder.mid_block.attentions.0.query.weight'
  image = found['frozen']['image']
  np.testing.assert_array_equal(
    image['encoder']['mid_block']['attentions_0']['to_q']['kernel'],
    given[name].T.astype(np.float32),
  )
  assert 'post_quant_conv' not in image
  np.testing.assert_array_equal(
    found['frozen']['mask']['encoder']['0']['kernel'],
    given['vae_semseg.encoder.0.weight'].transpose(2, 3, 1, 0),
  )
  told = json.loads((ours / 'pretrained.json').read_text())['networks']
  assert {name: one['module'] for name, one in told.items()} == {
    'unet': 'SDUNet',
    'vae_image': 'SDVAE',
    'vae_semseg': 'MaskAutoencoder',
  }


@pytest.mark.parametrize('name', list(TINY))
def test_the_way_back_gives_the_same_bytes(ours, tmp_path, name):
  arguments = ('--to', 'ldmseg', '--part', name, '--out', tmp_path / 'back')
  run(*arguments, '--checkpoint', ours)
  back = load_file(tmp_path / 'back' / PARTS[name].file)
  # It was not kept: their own code does not read this part.
  left_out = {'post_quant_conv.weight', 'post_quant_conv.bias'}
  expected = {
    k.removeprefix(f'{name}.'): v
    for k, v in theirs().items()
    if k.startswith(f'{name}.')
  }
  expected = {k: v for k, v in expected.items() if k not in left_out}
  assert back.keys() == expected.keys()
  for key, value in expected.items():
    assert back[key].dtype == value.dtype
    assert back[key].tobytes() == value.tobytes()


def test_a_trained_encoder_is_not_rounded_on_the_way_back():
  exact = {'params': {'a': np.float32([1.5, 0]), 'b': np.float32([2.0])}}
  assert ldmseg.halved(exact)['params']['a'].dtype == np.float16
  for value in (0.1, 1e30):
    trained = {'params': {**exact['params'], 'b': np.float32([value])}}
    assert ldmseg.halved(trained) is trained


def test_all_that_is_wrong_is_told_at_once(file, tmp_path):
  arrays = load_file(file)
  arrays = {k: v for k, v in arrays.items() if not k.startswith('vae_image.')}
  del arrays['unet.conv_out.bias']
  arrays['unet.conv_out.strange'] = np.zeros(3, np.float32)
  arrays['vae_semseg.encoder.0.bias'] = np.zeros(5, np.float32)
  save_file(arrays, tmp_path / 'wrong.safetensors')
  arguments = ('--from', 'ldmseg', '--out', tmp_path / 'out')
  with pytest.raises(ValueError) as error:
    run(*arguments, '--checkpoint', tmp_path / 'wrong.safetensors')
  for words in (
    'has no vae_image; if that is right, name the part',
    'missing: conv_out.bias (4,)',
    'extra: unet.conv_out.strange',
    'misshapen: vae_semseg.encoder.0.bias is (5,), the model has (32,)',
  ):
    assert words in str(error.value)
  assert not (tmp_path / 'out').exists()


def test_a_part_can_be_all_there_is(file, tmp_path):
  arrays = load_file(file)
  alone = {k: v for k, v in arrays.items() if k.startswith('vae_semseg.')}
  # As stage 1 saves it: a wrapper's name before each.
  alone = {
    k.replace('vae_semseg.', 'module.'): np.array(v) for k, v in alone.items()
  }
  save_file(alone, tmp_path / 'ae.safetensors')
  found = sources.find('ldmseg', tmp_path / 'ae.safetensors', only='vae_semseg')
  assert found['vae_semseg'].module == TINY['vae_semseg']
  with pytest.raises(ValueError, match='say which with --part'):
    sources.find('ldmseg', tmp_path / 'ae.safetensors')


def test_a_whole_file_needs_torch(ours, tmp_path, monkeypatch):
  monkeypatch.setitem(sys.modules, 'torch', None)
  arguments = ('--to', 'ldmseg', '--checkpoint', ours)
  with pytest.raises(ValueError, match='pip install torch, or name with --par'):
    run(*arguments, '--out', tmp_path / 'back')
  assert not (tmp_path / 'back').exists()
  with pytest.raises(ValueError, match='--prefix and --like go with --part'):
    run(*arguments, '--out', tmp_path / 'back', '--prefix', 'net/unet')


# Stage 2's start from Stable Diffusion.


def test_the_first_convolution_grows_as_in_the_original(shared, tmp_path):
  """The rule 'grow' of init_from, against their modify_encoder."""
  folder = shared / 'oracles' / 'ldmseg_ldm'
  arrays = np.load(folder / 'modify_encoder_init.npz')
  how = 'seg_copy/img_zero/cond_zero/conv_in'

  def layer(name):
    return {
      'kernel': arrays[f'{name}.weight'].transpose(2, 3, 1, 0),
      'bias': arrays[f'{name}.bias'],
    }

  before, expected = layer('conv_in_before'), layer(how)
  weights.save_params(tmp_path, 0, {'net': {'unet': {'conv_in': before}}})
  blank = jax.tree.map(np.zeros_like, {'net': {'unet': {'conv_in': expected}}})
  blank |= {'stats': {}, 'frozen': {}}
  entry = (str(tmp_path), 'net/unet', 'net/unet', 'grow')
  found, report = weights.init_from(blank, (entry,))
  jax.tree.map(
    np.testing.assert_array_equal, found['net']['unet']['conv_in'], expected
  )
  assert 'grown: net/unet/conv_in/kernel' in report


@pytest.mark.parametrize('has_config', [True, False])
def test_stable_diffusion_without_its_text(tmp_path, has_config):
  """Cross-attention, its norms and the decoder of images stay behind."""
  unet = TINY['unet'].clone(in_channels=4, context_dim=768)
  vae = TINY['vae_image'].clone(parts=('encoder', 'decoder'))
  family = sources.named('sd15')
  rng = np.random.default_rng(0)
  given = {}
  for name, module in (('unet', unet), ('vae', vae)):
    one = family.parts[name]
    given[name] = {
      e.name: rng.normal(size=e.shape).astype(np.float32)
      for e in part.entries(one, module)
    }
    (tmp_path / 'sd' / name).mkdir(parents=True)
    save_file(given[name], tmp_path / 'sd' / name / one.file)
    if has_config:
      config = json.dumps(one.config(module))
      (tmp_path / 'sd' / name / 'config.json').write_text(config)
  out = tmp_path / 'out'
  checkpoint = ('--checkpoint', tmp_path / 'sd', '--out', out)
  run('--from', 'ldmseg-start', *checkpoint)

  shapes = {
    'net': {'unet': PARTS['unet'].shapes(TINY['unet'])['params']},
    'frozen': {'image': PARTS['vae_image'].shapes(TINY['vae_image'])['params']},
    'stats': {},
  }
  entries = tuple(
    (str(out), place, place, 'grow') for place in ('net/unet', 'frozen/image')
  )
  found, _ = weights.init_from(shapes, entries)
  assert not any(
    isinstance(x, jax.ShapeDtypeStruct) for x in jax.tree.leaves(found)
  )
  kernel = found['net']['unet']['conv_in']['kernel']
  first = given['unet']['conv_in.weight'].transpose(2, 3, 1, 0)
  np.testing.assert_array_equal(kernel[:, :, :4], first)
  assert kernel.shape[2] == 12 and not kernel[:, :, 4:].any()


def test_full_size():
  """The numbers that the release is known by."""
  for name, module, tensors, count in (
    ('unet', SDUNet(in_channels=12, context_dim=None), 576, 815_556_484),
    ('vae_semseg', MaskAutoencoder(), 34, 2_023_208),
    ('vae_image', SDVAE(parts=('encoder',)), 108, 34_163_664),
  ):
    one = PARTS[name]
    entries = part.entries(one, module)
    assert sum(np.prod(e.shape) for e in entries) == count
    names = [s for e in entries for s in one.spellings(e.name)]
    assert len(names) == tensors
    inside = {f'{name}.{n}' for n in names}
    shapes = {
      f'{name}.{n}': jax.ShapeDtypeStruct(e.shape, np.float32)
      for e in entries
      for n in one.spellings(e.name)
    }
    assert inside == shapes.keys()
    assert part.plan(one, shapes)[0] == module


def recipe_of():
  """configs/ldmseg_coco.py with TINY's sizes and two classes."""
  config = ldmseg_coco.get_config('smoke')
  config.data.update({'num_classes': 2, 'image_size': (8, 8)})
  config.data.mask_size = (8, 8)
  config.model.unet = {
    'channels': (32, 32),
    'has_attention': (True, False),
    'num_layers': 1,
  }
  config.model.image_autoencoder = {
    'block_out_channels': (32, 32, 32),
    'layers_per_block': 1,
  }
  config.model.mask_autoencoder.network = {
    'widths': (32, 32, 32),
    'hidden': 32,
    'upscale_channels': 32,
  }
  return config


def test_with_a_recipe_it_is_a_work_directory(file, ours, tmp_path):
  classes = [
    {'id': i, 'name': name, 'isthing': 1, 'color': [i, 0, 0]}
    for i, name in enumerate(('cat', 'dog'), 1)
  ]
  (tmp_path / 'classes.json').write_text(json.dumps({'categories': classes}))
  with_recipe = {
    'config': recipe_of(),
    'classes': str(tmp_path / 'classes.json'),
  }
  out = str(tmp_path / 'out')
  command.convert_parts('ldmseg', file, out, **with_recipe)
  experiment = workdir.load(out)
  assert [c.name for c in experiment.categories] == ['cat', 'dog']
  expected = weights.load_params(ours)
  found = weights.load_params(out)
  jax.tree.map(np.testing.assert_array_equal, found, expected)
  params = jax.eval_shape(experiment.model.init, jax.random.key(0), None)
  assert jax.tree.map(np.shape, found) == jax.tree.map(
    lambda leaf: leaf.shape, params
  )
  other = recipe_of()
  other.model.unet.update({'channels': (32, 64), 'num_layers': 2})
  with_recipe['config'] = other
  with pytest.raises(ValueError, match='not those of the model of --config'):
    command.convert_parts('ldmseg', file, out + '2', **with_recipe)
  assert not (tmp_path / 'out2').exists()
