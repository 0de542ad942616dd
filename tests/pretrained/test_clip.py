"""CLIP's names in every spelling, its configs, and the way back."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from pix2seqd_jax.architectures.clip_image import CLIP
from pix2seqd_jax.architectures.clip_text import CLIPText
from pix2seqd_jax.pretrained import clip, part, save, torch_files

TEXT = CLIPText(
  vocab_size=20,
  width=16,
  num_layers=2,
  num_heads=4,
  mlp_dim=24,
  num_positions=6,
  activation='gelu',
  eos_id=19,
)
BOTH = CLIP(
  text={
    'vocab_size': 20,
    'width': 16,
    'num_layers': 2,
    'num_heads': 4,
    'mlp_dim': 24,
    'num_positions': 6,
    'activation': 'gelu',
    'eos_id': None,
  },
  image={
    'image_size': 12,
    'patch_size': 5,
    'width': 8,
    'num_layers': 3,
    'num_heads': 2,
    'mlp_dim': 20,
    'activation': 'quick_gelu',
  },
  embedding_dim=10,
)
PARTS = {'text': (clip.TEXT, TEXT), 'both': (clip.CLIP, BOTH)}


def variables(one, module):
  rng = np.random.default_rng(0)
  return jax.tree.map(
    lambda leaf: np.float32(rng.normal(size=leaf.shape)), one.shapes(module)
  )


def theirs(one, module):
  found = part.to_theirs(one, module, variables(one, module))
  return {entry.name: make() for entry, _, make in found}


def same(ours, other):
  jax.tree.map(np.testing.assert_array_equal, dict(ours), dict(other))


# transformers' tables, built by its rules.
def tower_table(prefix, width, mlp, depth):
  table = {}
  for i in range(depth):
    layer = f'{prefix}.encoder.layers.{i}.'
    for name in ('q_proj', 'k_proj', 'v_proj', 'out_proj'):
      table[f'{layer}self_attn.{name}.weight'] = (width, width)
      table[f'{layer}self_attn.{name}.bias'] = (width,)
    table[f'{layer}mlp.fc1.weight'] = (mlp, width)
    table[f'{layer}mlp.fc1.bias'] = (mlp,)
    table[f'{layer}mlp.fc2.weight'] = (width, mlp)
    table[f'{layer}mlp.fc2.bias'] = (width,)
    table |= norm_table(f'{layer}layer_norm1', width)
    table |= norm_table(f'{layer}layer_norm2', width)
  return table


def norm_table(name, width):
  return {f'{name}.weight': (width,), f'{name}.bias': (width,)}


def text_table(width, mlp, depth=12, vocab=49408, positions=77):
  name = 'text_model.embeddings.'
  return {
    f'{name}token_embedding.weight': (vocab, width),
    f'{name}position_embedding.weight': (positions, width),
    **tower_table('text_model', width, mlp, depth),
    **norm_table('text_model.final_layer_norm', width),
  }


def both_table(text, width, mlp, depth, patch, dim, size=224):
  name = 'vision_model.embeddings.'
  (text_width,) = text['text_model.final_layer_norm.weight']
  return text | {
    f'{name}class_embedding': (width,),
    f'{name}patch_embedding.weight': (width, 3, patch, patch),
    f'{name}position_embedding.weight': (1 + (size // patch) ** 2, width),
    **norm_table('vision_model.pre_layrnorm', width),
    **tower_table('vision_model', width, mlp, depth),
    **norm_table('vision_model.post_layernorm', width),
    'visual_projection.weight': (dim, width),
    'text_projection.weight': (dim, text_width),
    'logit_scale': (),
  }


TABLES = {
  'text': (clip.TEXT, CLIPText(eos_id=None), text_table(768, 3072)),
  'B/32': (
    clip.CLIP,
    CLIP(
      text={
        'vocab_size': 49408,
        'width': 512,
        'num_layers': 12,
        'num_heads': 8,
        'mlp_dim': 2048,
        'num_positions': 77,
        'eos_id': None,
      },
      image={
        'image_size': 224,
        'patch_size': 32,
        'width': 768,
        'num_layers': 12,
        'num_heads': 12,
        'mlp_dim': 3072,
      },
    ),
    both_table(text_table(512, 2048), 768, 3072, 12, 32, 512),
  ),
}


@pytest.mark.parametrize('name', TABLES)
def test_the_standard_models_tables(name):
  one, expected, table = TABLES[name]
  shapes = {k: jax.ShapeDtypeStruct(v, jnp.float32) for k, v in table.items()}
  module, plan = part.plan(one, shapes)
  assert module == expected
  assert len(plan.rows) == len(table) == {'text': 196, 'B/32': 398}[name]
  found = {entry.name: entry.shape for entry in part.entries(one, module)}
  assert found == table


def test_the_large_model_is_told_by_its_shapes():
  table = both_table(text_table(768, 3072), 1024, 4096, 24, 14, 768)
  module = clip.module(table)
  leaves = jax.tree.leaves(clip.shapes(module))
  assert sum(leaf.size for leaf in leaves) == 427_616_513
  assert module.image['num_heads'] == 16
  assert len(leaves) < len(table) == 590


@pytest.mark.parametrize(
  'rename',
  [
    lambda name: name,
    lambda name: name.removeprefix('text_model.'),
    lambda name: f'module.{name}',
    lambda name: f'cond_stage_model.transformer.{name}',
    lambda name: f'transformer.{name}',
  ],
  ids=['transformers-4', 'transformers-5', 'wrapped', 'compvis', 'ldm'],
)
def test_spellings_of_the_text_tower(rename):
  found = {rename(k): v for k, v in theirs(clip.TEXT, TEXT).items()}
  ids = rename('text_model.embeddings.position_ids')
  found[ids] = np.arange(6)[None]
  if ids.startswith('cond'):
    found |= {'betas': np.zeros(1), 'first_stage_model.x': np.zeros(1)}
  module, plan = part.plan(clip.TEXT, found, clip.text_config(TEXT))
  assert module == TEXT
  same(plan.tree(found), variables(clip.TEXT, TEXT))


def test_the_text_tower_out_of_a_whole_clip():
  found = theirs(clip.CLIP, BOTH)
  config = clip.config(BOTH)
  module, plan = part.plan(clip.TEXT, found, config)
  assert module == CLIPText(**BOTH.text)
  expected = variables(clip.CLIP, BOTH)['params']['text_model']
  same(plan.tree(found)['params'], expected)
  with pytest.raises(ValueError, match=r'missing: vision_model\.embeddings'):
    part.plan(clip.CLIP, theirs(clip.TEXT, TEXT), config)


@pytest.mark.parametrize('name', PARTS)
def test_there_and_back(tmp_path, name):
  one, module = PARTS[name]
  path = save.save(one, module, variables(one, module), tmp_path / 'a')
  config = json.loads((tmp_path / 'a' / 'config.json').read_text())
  found = torch_files.read(path)
  made, plan = part.plan(one, found, config)
  same(plan.tree(found), variables(one, module))
  assert made == module
  again = save.save(one, made, plan.tree(found), tmp_path / 'b')
  assert again.read_bytes() == path.read_bytes()
  same(load_file(path), theirs(one, module))


def test_a_config_may_be_nested_doubled_or_say_little():
  shapes = {k: v.shape for k, v in theirs(clip.TEXT, TEXT).items()}
  flat = clip.text_config(TEXT)
  assert clip.text_module(shapes, flat) == TEXT
  assert clip.text_module(shapes, {'text_config': flat}) == TEXT
  doubled = {
    'model_type': 'clip',
    'text_config': flat | {'num_attention_heads': 1},
    'text_config_dict': {'num_attention_heads': 4},
  }
  assert clip.text_module(shapes, doubled) == TEXT
  # What is not in a config has transformers' value; sizes are the weights'.
  little = clip.text_module(shapes, {'text_config': {'projection_dim': 3}})
  assert little == TEXT.clone(
    num_heads=8, eos_id=49407, activation='quick_gelu', parent=None
  )
  # A config goes before the weights, which then do not fit it.
  with pytest.raises(ValueError, match=r'misshapen: .*mlp.fc1'):
    part.plan(
      clip.TEXT, theirs(clip.TEXT, TEXT), flat | {'intermediate_size': 25}
    )


@pytest.mark.parametrize(
  ('config', 'match'),
  [
    (None, 'width of 16 the number of heads cannot be told'),
    ({'model_type': 'siglip'}, "model_type='siglip', which is none of clip"),
    ({'layer_norm_eps': 1e-6}, 'layer_norm_eps=1e-06, but CLIP has 1e-05'),
    ({'eos_token_id': [2]}, r'eos_token_id=\[2\]; it must be a number'),
  ],
  ids=str,
)
def test_what_cannot_be_read(config, match):
  with pytest.raises(ValueError, match=match):
    part.plan(clip.TEXT, theirs(clip.TEXT, TEXT), config)


@pytest.mark.parametrize('one', [clip.TEXT, clip.CLIP], ids=['text', 'both'])
def test_openais_own_names_are_refused_by_what_they_are(one):
  name = 'cond_stage_model.model.transformer.resblocks.{}.attn.in_proj_weight'
  found = {name.format(i): np.zeros((48, 16)) for i in range(2)}
  with pytest.raises(ValueError, match='as one array: these are OpenAI'):
    part.plan(one, found)
