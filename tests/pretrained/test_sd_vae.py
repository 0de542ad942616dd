"""The autoencoder's weights in everyone's names."""

import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest

from pix2seqd_jax.architectures.sd_vae import SDVAE
from pix2seqd_jax.pretrained import part, save, torch_files
from pix2seqd_jax.pretrained.sd_vae import PART

WIDTHS = (128, 256, 512, 512)
OLD = {
  'to_q': 'query',
  'to_k': 'key',
  'to_v': 'value',
  'to_out.0': 'proj_attn',
}


def table(widths=WIDTHS, depth=2):
  """[(diffusers' name, CompVis' name, diffusers' shape)], of three channels.

  As the two constructors go, whose levels of the decoder count in opposite
  directions.
  """
  found = []

  def layer(new, compvis, *shape):
    found.append((f'{new}.weight', f'{compvis}.weight', shape))
    found.append((f'{new}.bias', f'{compvis}.bias', shape[:1]))

  def resnet(new, compvis, a, b):
    layer(f'{new}.norm1', f'{compvis}.norm1', a)
    layer(f'{new}.conv1', f'{compvis}.conv1', b, a, 3, 3)
    layer(f'{new}.norm2', f'{compvis}.norm2', b)
    layer(f'{new}.conv2', f'{compvis}.conv2', b, b, 3, 3)
    if a != b:
      layer(f'{new}.conv_shortcut', f'{compvis}.nin_shortcut', b, a, 1, 1)

  def middle(half, a):
    new, compvis = f'{half}.mid_block', f'{half}.mid'
    resnet(f'{new}.resnets.0', f'{compvis}.block_1', a, a)
    new_attention, attention = f'{new}.attentions.0', f'{compvis}.attn_1'
    layer(f'{new_attention}.group_norm', f'{attention}.norm', a)
    for ours, theirs in (
      ('to_q', 'q'),
      ('to_k', 'k'),
      ('to_v', 'v'),
      ('to_out.0', 'proj_out'),
    ):
      layer(f'{new_attention}.{ours}', f'{attention}.{theirs}', a, a)
    resnet(f'{new}.resnets.1', f'{compvis}.block_2', a, a)

  def end(half, a, out):
    layer(f'{half}.conv_norm_out', f'{half}.norm_out', a)
    layer(f'{half}.conv_out', f'{half}.conv_out', out, a, 3, 3)

  width, last = widths[0], len(widths) - 1
  layer('encoder.conv_in', 'encoder.conv_in', width, 3, 3, 3)
  for i, wide in enumerate(widths):
    new, compvis = f'encoder.down_blocks.{i}', f'encoder.down.{i}'
    for j in range(depth):
      resnet(f'{new}.resnets.{j}', f'{compvis}.block.{j}', width, wide)
      width = wide
    if i < last:
      new, compvis = f'{new}.downsamplers.0.conv', f'{compvis}.downsample.conv'
      layer(new, compvis, wide, wide, 3, 3)
  middle('encoder', width)
  end('encoder', width, 8)
  layer('quant_conv', 'quant_conv', 8, 8, 1, 1)
  layer('post_quant_conv', 'post_quant_conv', 4, 4, 1, 1)
  layer('decoder.conv_in', 'decoder.conv_in', width, 4, 3, 3)
  middle('decoder', width)
  for i, wide in enumerate(widths[::-1]):
    new, compvis = f'decoder.up_blocks.{i}', f'decoder.up.{last - i}'
    for j in range(depth + 1):
      resnet(f'{new}.resnets.{j}', f'{compvis}.block.{j}', width, wide)
      width = wide
    if i < last:
      new, compvis = f'{new}.upsamplers.0.conv', f'{compvis}.upsample.conv'
      layer(new, compvis, wide, wide, 3, 3)
  end('decoder', width, 3)
  return found


def diffusers(rows):
  return {new: shape for new, _, shape in rows}


def old(rows):
  """Before 0.17."""
  found = {}
  for name, shape in diffusers(rows).items():
    for new, past in OLD.items():
      name = name.replace(f'.attentions.0.{new}.', f'.attentions.0.{past}.')
    found[name] = shape
  return found


def compvis(rows, prefix=''):
  """Where attention is a convolution."""
  return {
    prefix + name: (*shape, 1, 1) if len(shape) == 2 else shape
    for _, name, shape in rows
  }


def arrays(shapes):
  return {k: jax.ShapeDtypeStruct(v, jnp.float32) for k, v in shapes.items()}


def plan(shapes, config=None):
  """(module, {their name: our path}, how many are passed over)."""
  module, made = part.plan(PART, arrays(shapes), config)
  names = {row.theirs: '/'.join(row.path) for row in made.rows}
  return module, names, sum(made.passed_over.values())


def test_the_tables_are_the_originals(shared):
  def theirs(file, key):
    meta = json.loads((shared / 'oracles' / file).read_text())[key]
    shapes = meta['param_shapes']
    return {name: tuple(shape) for name, shape in shapes.items()}

  assert diffusers(table((32, 64), 1)) == theirs('diffusers/meta.json', 'vae_b')
  found = compvis(table((32, 64, 64), 1))
  assert found == theirs('uvit/meta.json', 'compvis_ae')
  found = {
    name: shape
    for name, shape in old(table((16, 16, 32, 32), 1)).items()
    if not name.startswith('decoder.')
  }
  assert found == theirs('ldmseg_ldm/meta.json', 'vae_image')


def test_full_size_in_every_spelling():
  rows = table()
  assert len(rows) == 248
  assert sum(np.prod(shape) for _, _, shape in rows) == 83_653_863
  names = [new for new, _, _ in rows]
  for shapes in (
    diffusers(rows),
    old(rows),
    compvis(rows),
    compvis(rows, 'first_stage_model.'),
    compvis(rows, 'module.'),
  ):
    # Rows are in the same order in all spellings.
    spelled = part.spell(PART, shapes)
    assert [spelled[name] for name in shapes] == names
    found = {spelled[name]: shape for name, shape in shapes.items()}
    assert PART.module(found, None) == SDVAE()


@pytest.mark.parametrize('spelling', [diffusers, compvis])
def test_full_size_has_a_place(spelling):
  rows = table()
  shapes = spelling(rows)
  _, places, passed = plan(shapes)
  assert len(places) == 248 and passed == 0
  for (new, _, _), name in zip(rows, shapes):
    path = 'params/' + re.sub(r'\.(?=\d)', '_', new).replace('.', '/')
    leaf = 'scale' if 'norm' in new else 'kernel'
    assert places[name] == path.replace('weight', leaf)


def test_what_else_is_in_files_of_training():
  rows = table((4,), 1)
  config = {'norm_num_groups': 4}
  shapes = compvis(rows) | {
    'loss.logvar': (),
    'loss.perceptual_loss.lin0.model.1.weight': (1, 64, 1, 1),
    'loss.discriminator.main.0.weight': (64, 3, 4, 4),
    'model_ema.decay': (),
  }
  _, places, passed = plan(shapes, config)
  assert len(places) == len(rows) and passed == 4

  whole = compvis(rows, 'first_stage_model.') | {
    'model.diffusion_model.out.2.weight': (4, 320, 3, 3),
    'cond_stage_model.transformer.text_model.final_layer_norm.bias': (768,),
    'betas': (1000,),
    'encoder.conv_in.bias': (7,),  # somebody else's
  }
  _, places, passed = plan(whole, config)
  assert len(places) == len(rows) and passed == 4

  with pytest.raises(ValueError, match=r'1 names(.|\n)*extra: lossy\.bias'):
    plan(compvis(rows) | {'lossy.bias': ()}, config)


@pytest.mark.parametrize('half', ['encoder', 'decoder'])
def test_halves(half):
  """LDMSeg keeps the other half's linear layer."""
  other = {'encoder': 'decoder', 'decoder': 'encoder'}[half]
  lone = {'encoder': 'post_quant_conv', 'decoder': 'quant_conv'}[half]
  for spelling in (diffusers, old, compvis):
    shapes = spelling(table((4, 4, 8)))
    shapes = {k: v for k, v in shapes.items() if not k.startswith(other)}
    module, places, passed = plan(shapes, {'norm_num_groups': 4})
    assert module == SDVAE(
      parts=(half,), block_out_channels=(4, 4, 8), groups=4
    )
    assert passed == 2
    assert shapes.keys() - places.keys() == {f'{lone}.weight', f'{lone}.bias'}


ODD = SDVAE(
  in_channels=5,
  out_channels=2,
  latent_channels=3,
  block_out_channels=(4, 8),
  layers_per_block=1,
  groups=2,
)


def test_sizes_come_from_shapes_and_the_config():
  shapes = {e.name: e.shape for e in part.entries(PART, ODD)}
  assert PART.module(shapes, {'norm_num_groups': 2}) == ODD
  assert PART.module({}, PART.config(ODD)) == ODD
  with pytest.raises(ValueError, match='norm_num_groups'):
    part.plan(PART, arrays(shapes))
  config = PART.config(ODD) | {'layers_per_block': 2}
  missing = r'encoder\.down_blocks\.0\.resnets\.1\.conv1\.bias'
  with pytest.raises(ValueError, match=f'missing: {missing}'):
    part.plan(PART, arrays(shapes), config)


@pytest.mark.parametrize(
  'change',
  [
    {'act_fn': 'relu'},
    {'mid_block_add_attention': False},
    {'use_quant_conv': False},
    {'use_post_quant_conv': False},
    {'down_block_types': ['AttnDownEncoderBlock2D', 'DownEncoderBlock2D']},
    {'up_block_types': ['UpDecoderBlock2D', 'AttnUpDecoderBlock2D']},
    {'_class_name': 'VQModel'},
  ],
)
def test_configs_of_other_autoencoders(change):
  with pytest.raises(ValueError, match=re.escape(f'has {change},')):
    PART.module({}, PART.config(ODD) | change)


@pytest.mark.parametrize('parts', [('encoder', 'decoder'), ('decoder',)])
def test_there_and_back(parts, tmp_path):
  module = ODD.clone(parts=parts)
  channels = 5 if 'encoder' in parts else 3
  ours = oracles.random_variables(module, jnp.zeros((1, 2, 2, channels)))
  path = save.save(PART, module, ours, tmp_path)
  tensors = torch_files.read(path)
  config = json.loads((tmp_path / 'config.json').read_text())
  found, made = part.plan(PART, tensors, config)
  assert PART.shapes(found) == PART.shapes(module)
  jax.tree.map(np.testing.assert_array_equal, made.tree(tensors), ours)

  # Linear layers of ours that are convolutions of size 1 in diffusers.
  convs = {n for n, tensor in tensors.items() if tensor.shape[2:] == (1, 1)}
  assert {name.split('.')[-2] for name in convs} == {
    'conv_shortcut',
    *(['quant_conv'] if 'encoder' in parts else []),
    'post_quant_conv',
  }
  kernel = ours['params']['decoder']['conv_in']['kernel']  # [h, w, in, out]
  theirs = np.asarray(tensors['decoder.conv_in.weight'])
  assert theirs[3, 1, 0, 2] == kernel[0, 2, 1, 3]
