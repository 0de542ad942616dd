"""U-ViT's names: the published models' whole tables, there and back."""

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

from pix2seqd_jax.architectures.uvit import UViT
from pix2seqd_jax.pretrained import part, save
from pix2seqd_jax.pretrained import uvit as pretrained


def published(dim=512, depth=12, extras=78, side=16, first=None):
  """{name: shape} by the table of its layers; `first` are those before."""

  def layer(name, *weight):
    return {f'{name}.weight': weight, f'{name}.bias': weight[:1]}

  def block(name):
    found = layer(f'{name}.norm1', dim) | layer(f'{name}.norm2', dim)
    found[f'{name}.attn.qkv.weight'] = (3 * dim, dim)
    found |= layer(f'{name}.attn.proj', dim, dim)
    found |= layer(f'{name}.mlp.fc1', 4 * dim, dim)
    return found | layer(f'{name}.mlp.fc2', dim, 4 * dim)

  found = {'pos_embed': (1, extras + side**2, dim)}
  found |= layer('patch_embed.proj', dim, 4, 2, 2)
  if first is None:
    first = layer('context_embed', dim, 768)
  found |= first | block('mid_block')
  for i in range(depth // 2):
    found |= block(f'in_blocks.{i}') | block(f'out_blocks.{i}')
    found |= layer(f'out_blocks.{i}.skip_linear', dim, 2 * dim)
  found |= layer('norm', dim) | layer('decoder_pred', 16, dim)
  return found | layer('final_layer', 4, 4, 3, 3)


def plan(shapes, config=None, prefix=''):
  tensors = {
    prefix + name: jax.ShapeDtypeStruct(shape, np.float32)
    for name, shape in shapes.items()
  }
  return part.plan(pretrained.PART, tensors, config)


def size(rows):
  return sum(int(np.prod(row.shape)) for row in rows)


@pytest.mark.parametrize('prefix', ['', 'module.'])
def test_of_texts(prefix):
  module, found = plan(published(), prefix=prefix)
  assert module == UViT()
  assert len(found.rows) == 166 and size(found.rows) == 44_692_644
  module, found = plan(published(depth=16))
  assert module == UViT(depth=16)
  assert size(found.rows) == 58_345_636
  module, found = plan(published(dim=768, depth=16))
  assert module == UViT(width=768, depth=16, num_heads=12)
  assert size(found.rows) == 130_772_132


def test_of_classes_and_of_nothing():
  """U-ViT-L/2 of ImageNet, and without labels."""
  labels = {'label_emb.weight': (1001, 1024)}
  module, found = plan(published(1024, 20, 2, first=labels))
  assert module == UViT(
    width=1024, depth=20, num_heads=16, context_tokens=0, num_classes=1001
  )
  # https://arxiv.org/abs/2209.12152, table 1: 287 million.
  assert round(size(found.rows) / 1e6) == 287
  module, _ = plan(published(extras=1, first={}))
  assert module.num_classes == module.context_tokens == 0


def test_there_and_back(tmp_path):
  module = UViT(
    image_size=(4, 8),
    width=32,
    depth=4,
    num_heads=4,
    mlp_ratio=1.5,
    qkv_bias=True,
    context_dim=6,
    context_tokens=3,
    mlp_time_embed=True,
    out_channels=6,
  )
  rng = np.random.default_rng(0)
  ours = jax.tree.map(
    lambda leaf: rng.normal(size=leaf.shape).astype(np.float32),
    dict(pretrained.shapes(module)),
  )
  path = save.save(pretrained.PART, module, ours, tmp_path)
  tensors = load_file(path)
  config = pretrained.config(module)
  found, rows = part.plan(pretrained.PART, tensors, config)
  assert found == module
  jax.tree.map(np.testing.assert_array_equal, rows.tree(tensors), ours)
  second = ours['params']['out_blocks']['skip_linear']['kernel'][1]
  theirs = tensors['out_blocks.1.skip_linear.weight']
  np.testing.assert_array_equal(theirs, second.T)


def test_what_the_arrays_leave_open():
  shapes = published()
  shapes['pos_embed'] = (1, 78 + 8 * 32, 512)
  module, _ = plan(shapes)  # 256 places: a square is taken for granted
  assert module.image_size == 32
  module, _ = plan(shapes, {'img_size': [16, 64], 'num_heads': 4})
  assert module.image_size == (16, 64) and module.num_heads == 4
  shapes['pos_embed'] = (1, 78 + 200, 512)
  with pytest.raises(ValueError, match='of 278 positions 200 are left'):
    plan(shapes)


def test_one_error_lists_what_is_missing():
  shapes = published()
  del shapes['out_blocks.3.skip_linear.bias']
  shapes['in_blocks.2.attn.proj.weight'] = (512, 511)
  with pytest.raises(ValueError, match='2 names do not fit UViT') as error:
    plan(shapes)
  assert 'missing: out_blocks.3.skip_linear.bias' in str(error.value)
  assert 'misshapen: in_blocks.2.attn.proj.weight' in str(error.value)
