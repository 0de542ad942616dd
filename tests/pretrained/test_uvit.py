"""U-ViT's names at full size, sizes told by shapes, and the way back."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pix2seqd_jax.architectures.uvit import UViT
from pix2seqd_jax.pretrained import part, save, torch_files, uvit


def linear(name, shape):
  return {f'{name}.weight': shape, f'{name}.bias': shape[:1]}


def block(name, width, has_skip=False):
  table = {
    **linear(f'{name}.norm1', (width,)),
    f'{name}.attn.qkv.weight': (3 * width, width),
    **linear(f'{name}.attn.proj', (width, width)),
    **linear(f'{name}.norm2', (width,)),
    **linear(f'{name}.mlp.fc1', (4 * width, width)),
    **linear(f'{name}.mlp.fc2', (width, 4 * width)),
  }
  if has_skip:
    table |= linear(f'{name}.skip_linear', (width, 2 * width))
  return table


def table(width, depth, positions, patch=2, channels=4, conv=True):
  """The authors' names of what all forms have."""
  found = {
    'pos_embed': (1, positions, width),
    **linear('patch_embed.proj', (width, channels, patch, patch)),
    **block('mid_block', width),
    **linear('norm', (width,)),
    **linear('decoder_pred', (patch * patch * channels, width)),
  }
  for i in range(depth // 2):
    found |= block(f'in_blocks.{i}', width)
    found |= block(f'out_blocks.{i}', width, has_skip=True)
  if conv:
    found |= linear('final_layer', (channels, channels, 3, 3))
  return found


def text(width, depth):
  return table(width, depth, 334) | linear('context_embed', (width, 768))


# The authors' checkpoints: our module, the arrays in the file, how many.
FULL = {
  'mscoco small': (UViT(), text(512, 12), 166),
  'mscoco deep': (UViT(depth=16), text(512, 16), 214),
  'cifar10': (
    UViT(in_channels=3, context_tokens=0),
    table(512, 12, 257, channels=3),
    164,
  ),
  'imagenet64 large': (
    UViT(
      image_size=64,
      patch_size=4,
      in_channels=3,
      width=1024,
      depth=20,
      num_heads=16,
      context_tokens=0,
      num_classes=1000,
    ),
    table(1024, 20, 258, 4, 3) | {'label_emb.weight': (1000, 1024)},
    261,
  ),
  'imagenet512 huge': (
    UViT(
      image_size=64,
      patch_size=4,
      width=1152,
      depth=28,
      num_heads=16,
      context_tokens=0,
      num_classes=1001,
      conv=False,
    ),
    table(1152, 28, 258, 4, conv=False) | {'label_emb.weight': (1001, 1152)},
    355,
  ),
}


@pytest.mark.parametrize('name', FULL)
def test_the_authors_checkpoints_are_told_by_their_shapes(name):
  expected, names, number = FULL[name]
  structs = {k: jax.ShapeDtypeStruct(v, jnp.float32) for k, v in names.items()}
  module, plan = part.plan(uvit.PART, structs)
  assert module == expected
  assert len(plan.rows) == len(names) == number
  found = {e.name: e.shape for e in part.entries(uvit.PART, module)}
  assert found == names


def test_the_originals_own_table(shared):
  path = shared / 'oracles' / 'uvit' / 'meta.json'
  meta = json.loads(path.read_text())['t2i_a']
  expected = {k: tuple(v) for k, v in meta['param_shapes'].items()}
  module = uvit.module(expected, meta['config'])
  found = {e.name: e.shape for e in part.entries(uvit.PART, module)}
  assert found == expected
  # Their config and ours say the same.
  ours = uvit.config(module)
  assert ours.pop('name') == 'uvit_t2i'
  assert ours == {k: meta['config'][k] for k in ours}


SMALL = {'image_size': 4, 'in_channels': 3, 'width': 8, 'depth': 4}
MODULES = {
  'text': UViT(**SMALL, num_heads=2, context_tokens=3, context_dim=5),
  'classes': UViT(**SMALL, num_heads=4, context_tokens=0, num_classes=6),
  'none': UViT(
    image_size=(4, 6),
    in_channels=3,
    out_channels=2,
    width=8,
    depth=6,
    num_heads=1,
    mlp_ratio=1.5,
    context_tokens=0,
    qkv_bias=True,
    mlp_time_embed=True,
    conv=False,
    skip=False,
  ),
}


def variables(module):
  rng = np.random.default_rng(0)
  return jax.tree.map(
    lambda leaf: np.float32(rng.normal(size=leaf.shape)), uvit.shapes(module)
  )


def same(ours, other):
  jax.tree.map(np.testing.assert_array_equal, dict(ours), dict(other))


@pytest.mark.parametrize('name', MODULES)
def test_there_and_back(tmp_path, name):
  module = MODULES[name]
  ours = variables(module)
  path = save.save(uvit.PART, module, ours, tmp_path / 'a')
  config = json.loads((tmp_path / 'a' / 'config.json').read_text())
  found = torch_files.read(path)
  wrapped = {f'module._orig_mod.{k}': v for k, v in found.items()}
  made, plan = part.plan(uvit.PART, wrapped, config)
  assert made == module
  again = plan.tree(wrapped)
  same(again, ours)
  other = save.save(uvit.PART, made, again, tmp_path / 'b')
  assert other.read_bytes() == path.read_bytes()
  # The config adds what shapes do not show, and repeats what they do.
  shapes = {k: tuple(v.shape) for k, v in found.items()}
  hidden = {
    k: v for k, v in config.items() if k in ('img_size', 'num_heads')
  } | {'num_clip_token': config.get('num_clip_token', 0)}
  if name != 'text':
    del hidden['num_clip_token']
  assert uvit.module(shapes, hidden) == module


def test_a_layer_of_ours_is_a_block_of_theirs():
  ours = variables(MODULES['text'])
  theirs = {
    entry.name: make()
    for entry, _, make in part.to_theirs(uvit.PART, MODULES['text'], ours)
  }
  params = ours['params']
  for i in range(2):
    np.testing.assert_array_equal(
      theirs[f'out_blocks.{i}.skip_linear.weight'],
      params['out_blocks']['skip_linear']['kernel'][i].T,
    )
  np.testing.assert_array_equal(
    theirs['patch_embed.proj.weight'][5, 2, 0, 1],
    params['patch_embed']['proj']['kernel'][0, 1, 2, 5],
  )
  np.testing.assert_array_equal(theirs['pos_embed'], params['pos_embed'])


def test_a_config_goes_before_the_shapes():
  small = text(512, 12)
  assert uvit.module(small, {'num_heads': 4}) == UViT(num_heads=4)
  with pytest.raises(ValueError, match=r'missing: in_blocks\.6\.') as error:
    part.plan(uvit.PART, _structs(small), {'depth': 14})
  assert str(error.value).count('missing: ') == 11 + 13


def _structs(names):
  return {k: jax.ShapeDtypeStruct(v, jnp.float32) for k, v in names.items()}


def test_what_is_missing_extra_or_misshapen_is_listed():
  names = text(512, 12)
  del names['mid_block.norm1.bias'], names['context_embed.weight']
  names |= {'in_blocks.3.attn.proj.bias': (513,), 'zero_convs.1.bias': (2,)}
  with pytest.raises(ValueError) as error:
    part.plan(uvit.PART, _structs(names))
  lines = str(error.value).split('\n  ')
  assert lines[0].startswith('4 names do not fit UViT')
  assert lines[1:] == [
    'extra: zero_convs.1.bias',
    'misshapen: in_blocks.3.attn.proj.bias is (513,), the model has (512,)',
    'missing: context_embed.weight (512, 768)',
    'missing: mid_block.norm1.bias (512,)',
  ]


@pytest.mark.parametrize(
  ('names', 'match'),
  [
    (table(96, 2, 5), 'width of 96 the number of heads cannot be told'),
    (table(64, 2, 8), '7 are left for patches .* make no square'),
    (text(64, 2) | {'pos_embed': (1, 25, 64)}, '-53 are left for patches'),
  ],
  ids=['heads', 'square', 'text'],
)
def test_what_cannot_be_told(names, match):
  with pytest.raises(ValueError, match=match):
    part.plan(uvit.PART, _structs(names))


def test_no_shapes_are_the_standard_model():
  assert uvit.module({}) == UViT()
