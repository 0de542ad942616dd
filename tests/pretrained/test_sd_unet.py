"""The UNet's weights in diffusers' and in CompVis' names."""

import functools
import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sd_unets import LDMSEG, ODD, SD1, SD2, SMALL

from pix2seqd_jax.pretrained import part, save, sd_unet, torch_files

# To trace a network takes seconds; many tests ask for the same.
PART = sd_unet.PART._replace(shapes=functools.cache(sd_unet.PART.shapes))


def table(unet):
  """[(diffusers' name, CompVis' name, shape)].

  As the two constructors go: diffusers has blocks of resnets, attentions and
  what changes the size; CompVis puts all in one list for each direction, and
  counts.
  """
  rows = []

  def layer(ours, theirs, *shape, bias=True):
    rows.append((f'{ours}.weight', f'{theirs}.weight', shape))
    if bias:
      rows.append((f'{ours}.bias', f'{theirs}.bias', shape[:1]))

  def resnet(ours, theirs, a, b):
    layer(f'{ours}.norm1', f'{theirs}.in_layers.0', a)
    layer(f'{ours}.conv1', f'{theirs}.in_layers.2', b, a, 3, 3)
    layer(f'{ours}.time_emb_proj', f'{theirs}.emb_layers.1', b, 4 * widths[0])
    layer(f'{ours}.norm2', f'{theirs}.out_layers.0', b)
    layer(f'{ours}.conv2', f'{theirs}.out_layers.3', b, b, 3, 3)
    if a != b:
      layer(f'{ours}.conv_shortcut', f'{theirs}.skip_connection', b, a, 1, 1)

  def attention(ours, theirs, a):
    one = () if unet.linear else (1, 1)
    layer(f'{ours}.norm', f'{theirs}.norm', a)
    layer(f'{ours}.proj_in', f'{theirs}.proj_in', a, a, *one)
    inner = [f'{name}.transformer_blocks.0' for name in (ours, theirs)]
    sources = {'attn1': a, 'attn2': unet.context_dim}
    for number, (name, source) in enumerate(sources.items(), 1):
      if source is not None:
        layer(*(f'{block}.norm{number}' for block in inner), a)
        for matrix, width in (('q', a), ('k', source), ('v', source)):
          names = (f'{block}.{name}.to_{matrix}' for block in inner)
          layer(*names, a, width, bias=False)
        layer(*(f'{block}.{name}.to_out.0' for block in inner), a, a)
    layer(*(f'{block}.norm3' for block in inner), a)
    layer(*(f'{block}.ff.net.0.proj' for block in inner), 8 * a, a)
    layer(*(f'{block}.ff.net.2' for block in inner), a, 4 * a)
    layer(f'{ours}.proj_out', f'{theirs}.proj_out', a, a, *one)

  widths, last = unet.channels, len(unet.channels) - 1
  width = widths[0]
  layer('conv_in', 'input_blocks.0.0', width, unet.in_channels, 3, 3)
  kept, number = [width], 1
  for i, wide in enumerate(widths):
    block = f'down_blocks.{i}'
    for j in range(unet.num_layers):
      resnet(f'{block}.resnets.{j}', f'input_blocks.{number}.0', width, wide)
      if unet.has_attention[i]:
        ours = f'{block}.attentions.{j}'
        attention(ours, f'input_blocks.{number}.1', wide)
      width, number = wide, number + 1
      kept.append(width)
    if i < last:
      ours, theirs = f'{block}.downsamplers.0.conv', f'input_blocks.{number}.0'
      layer(ours, f'{theirs}.op', width, width, 3, 3)
      number += 1
      kept.append(width)
  resnet('mid_block.resnets.0', 'middle_block.0', width, width)
  attention('mid_block.attentions.0', 'middle_block.1', width)
  resnet('mid_block.resnets.1', 'middle_block.2', width, width)
  number = 0
  for i in reversed(range(len(widths))):
    block, wide = f'up_blocks.{last - i}', widths[i]
    for j in range(unet.num_layers + 1):
      theirs, k = f'output_blocks.{number}', 1
      resnet(f'{block}.resnets.{j}', f'{theirs}.0', width + kept.pop(), wide)
      if unet.has_attention[i]:
        attention(f'{block}.attentions.{j}', f'{theirs}.{k}', wide)
        k += 1
      if i and j == unet.num_layers:
        ours = f'{block}.upsamplers.0.conv'
        layer(ours, f'{theirs}.{k}.conv', wide, wide, 3, 3)
      width, number = wide, number + 1
  temb = 4 * widths[0]
  layer('time_embedding.linear_1', 'time_embed.0', temb, widths[0])
  layer('time_embedding.linear_2', 'time_embed.2', temb, temb)
  layer('conv_norm_out', 'out.0', widths[0])
  layer('conv_out', 'out.2', unet.out_channels, widths[0], 3, 3)
  return rows


def diffusers(rows):
  return {name: shape for name, _, shape in rows}


def compvis(rows, prefix=''):
  return {prefix + name: shape for _, name, shape in rows}


def arrays(shapes):
  return {k: jax.ShapeDtypeStruct(v, jnp.float32) for k, v in shapes.items()}


def plan(shapes, config=None):
  """(module, {their name: our path}, how many are passed over)."""
  module, made = part.plan(PART, arrays(shapes), config)
  names = {row.theirs: '/'.join(row.path) for row in made.rows}
  return module, names, sum(made.passed_over.values())


@pytest.mark.parametrize(
  'folder, key, unet',
  [
    ('diffusers', 'unet_small_in4', SMALL),
    ('semflow', 'unet', SMALL),
    ('ldmseg_ldm', 'u12_small', SMALL.clone(in_channels=12, context_dim=None)),
  ],
)
def test_the_table_is_the_originals(shared, folder, key, unet):
  meta = json.loads((shared / 'oracles' / folder / 'meta.json').read_text())
  theirs = {k: tuple(v) for k, v in meta[key]['param_shapes'].items()}
  # LDMSeg's surgery leaves the new conv_in under two names.
  theirs = {k: v for k, v in theirs.items() if not k.startswith('new_conv.')}
  assert diffusers(table(unet)) == theirs


def test_the_numbers_of_compvis():
  """A few that the published v1 checkpoints are known by."""
  rows = {name: (other, shape) for name, other, shape in table(SD1)}
  for name, theirs, *shape in (
    ('down_blocks.0.downsamplers.0.conv', 'input_blocks.3.0.op', 320, 320),
    ('down_blocks.2.attentions.1.proj_in', 'input_blocks.8.1.proj_in', 1280),
    ('down_blocks.3.resnets.1.conv1', 'input_blocks.11.0.in_layers.2', 1280),
    ('up_blocks.0.upsamplers.0.conv', 'output_blocks.2.1.conv', 1280, 1280),
    ('up_blocks.1.upsamplers.0.conv', 'output_blocks.5.2.conv', 1280, 1280),
    ('up_blocks.2.upsamplers.0.conv', 'output_blocks.8.2.conv', 640, 640),
    (
      'up_blocks.1.resnets.2.conv1',
      'output_blocks.5.0.in_layers.2',
      1280,
      1920,
    ),
    ('up_blocks.3.attentions.2.norm', 'output_blocks.11.1.norm', 320),
  ):
    other, found = rows[f'{name}.weight']
    assert other == f'{theirs}.weight' and list(found[: len(shape)]) == shape


@pytest.mark.parametrize(
  'unet, count, tensors',
  [
    (SD1, 859_520_964, 686),
    (SD2, 865_910_724, 686),
    (LDMSEG, 815_556_484, 574),
  ],
  ids=['sd1', 'sd2', 'ldmseg'],
)
def test_full_size_in_every_spelling(unet, count, tensors):
  rows = table(unet)
  assert len(rows) == tensors
  assert sum(np.prod(shape) for _, _, shape in rows) == count
  names = [name for name, _, _ in rows]
  for shapes in (
    diffusers(rows),
    compvis(rows),
    compvis(rows, 'model.diffusion_model.'),
    compvis(rows, 'module.'),
    compvis(rows[::-1]),
  ):
    spelled = part.spell(PART, shapes)
    assert sorted(spelled.values()) == sorted(names)
    if list(shapes) != [name for _, name, _ in rows[::-1]]:
      assert [spelled[name] for name in shapes] == names
    found = {spelled[name]: shape for name, shape in shapes.items()}
    assert PART.module(found, None) == unet
  # And nothing else is asked for: one place for each.
  found, places, passed = plan(compvis(rows))
  assert found == unet and passed == 0 and len(places) == tensors
  for name, other, shape in rows:
    path = 'params/' + re.sub(r'\.(?=\d)', '_', name).replace('.', '/')
    is_norm = len(shape) == 1
    leaf = 'scale' if is_norm else 'kernel'
    assert places[other] == path.replace('weight', leaf)


@pytest.mark.parametrize('prefix', ['', 'module.'])
def test_ldmseg_keeps_the_first_convolution_twice(prefix):
  unet = SMALL.clone(in_channels=12, context_dim=None)
  shapes = diffusers(table(unet))
  copies = {
    f'new_conv.{leaf}': shapes[f'conv_in.{leaf}'] for leaf in ('weight', 'bias')
  }
  shapes = {prefix + name: shape for name, shape in (shapes | copies).items()}
  found, places, passed = plan(
    shapes, {'attention_head_dim': 4, 'norm_num_groups': 8}
  )
  assert found == unet and passed == 2
  assert shapes.keys() - places.keys() == {prefix + name for name in copies}


@pytest.mark.parametrize(
  'change',
  [
    {},
    {'num_layers': 1, 'has_attention': (True, False, False)},
    {'num_layers': 3, 'channels': (4, 4, 4), 'num_heads': 2},
    {'channels': (8,), 'has_attention': (False,), 'num_heads': 4},
  ],
)
def test_other_sizes(change):
  unet = ODD.clone(**change)
  rows = table(unet)
  config = PART.config(unet)
  for shapes in (diffusers(rows), compvis(rows)):
    spelled = part.spell(PART, shapes)
    assert list(spelled.values()) == [name for name, _, _ in rows]
    # Of the sizes a config is not needed for; it tells the rest.
    told = ('norm_num_groups', 'norm_eps', 'attention_head_dim', 'dropout')
    told = {k: config[k] for k in (*told, 'flip_sin_to_cos', 'freq_shift')}
    found = {spelled[name]: shape for name, shape in shapes.items()}
    assert PART.module(found, told) == unet
  assert PART.module({}, config) == unet
  assert {e.name: e.shape for e in part.entries(PART, unet)} == diffusers(rows)


def test_what_does_not_fit_is_told():
  shapes = compvis(table(SMALL))
  del shapes['input_blocks.1.0.in_layers.2.bias']
  shapes |= {'input_blocks.1.2.norm.bias': (3,), 'label_emb.0.0.weight': (3, 3)}
  shapes['out.2.weight'] = (4, 16, 1, 1)
  with pytest.raises(ValueError) as error:
    plan(shapes, PART.config(SMALL))
  assert str(error.value).split('\n  ')[1:] == [
    'extra: input_blocks.1.2.norm.bias',
    'extra: label_emb.0.0.weight',
    'misshapen: out.2.weight is (4, 16, 1, 1), the model has (4, 16, 3, 3)',
    'missing: down_blocks.0.resnets.0.conv1.bias (16,)',
  ]
  # A config goes before the shapes.
  config = PART.config(SMALL) | {'layers_per_block': 2}
  missing = r'missing: down_blocks\.0\.resnets\.1\.conv1\.bias'
  with pytest.raises(ValueError, match=missing):
    plan(diffusers(table(SMALL)), config)


def variables(unet):
  rng = np.random.default_rng(0)
  return jax.tree.map(
    lambda leaf: rng.normal(size=leaf.shape).astype(np.float32),
    dict(PART.shapes(unet)),
  )


@pytest.mark.parametrize(
  'unet', [ODD, ODD.clone(linear=False, context_dim=None, num_layers=1)]
)
def test_there_and_back(unet, tmp_path):
  ours = variables(unet)
  tensors = torch_files.read(save.save(PART, unet, ours, tmp_path))
  config = json.loads((tmp_path / 'config.json').read_text())
  found, made = part.plan(PART, tensors, config)
  assert found == unet
  jax.tree.map(np.testing.assert_array_equal, made.tree(tensors), ours)

  # Dense layers of ours that are convolutions of size 1 in theirs.
  convs = {n for n, tensor in tensors.items() if tensor.shape[2:] == (1, 1)}
  around = set() if unet.linear else {'proj_in', 'proj_out'}
  assert {n.split('.')[-2] for n in convs} == {'conv_shortcut'} | around
  params = ours['params']
  kernel = params['conv_in']['kernel']  # [h, w, in, out]
  theirs = np.asarray(tensors['conv_in.weight'])
  assert theirs[3, 1, 0, 2] == kernel[0, 2, 1, 3]
  block = params['mid_block']['attentions_0']['transformer_blocks_0']
  kernel = block['ff']['net_0']['proj']['kernel']  # [in, out]
  name = 'mid_block.attentions.0.transformer_blocks.0.ff.net.0.proj.weight'
  assert np.asarray(tensors[name])[9, 2] == kernel[2, 9]
