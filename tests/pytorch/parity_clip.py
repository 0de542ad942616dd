"""CLIP's towers against transformers' CLIPTextModel and CLIPModel."""

import functools

import numpy as np
import pytest
import torch
import torch_models
from flax.core import FrozenDict
from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPTextModel

from pix2seqd_jax.pretrained import clip, part, sources

TABLE = 'embeddings.token_embedding.weight'
TEXT = {
  'vocab_size': 40,
  'hidden_size': 24,
  'num_hidden_layers': 3,
  'num_attention_heads': 4,
  'intermediate_size': 36,
  'max_position_embeddings': 9,
  'bos_token_id': 38,
  'eos_token_id': 39,
  'pad_token_id': 1,
  'projection_dim': 10,
}
IMAGE = {
  'hidden_size': 16,
  'num_hidden_layers': 2,
  'num_attention_heads': 2,
  'intermediate_size': 28,
  'image_size': 20,
  'patch_size': 6,
  'projection_dim': 10,
}
# An eos_token_id of 2 is what old files say, and means the largest id.
TEXTS = {
  'sd1': TEXT | {'eos_token_id': 2},
  'sd2': TEXT | {'hidden_act': 'gelu', 'num_attention_heads': 2},
  'masked': TEXT,
}
LARGE = {'hidden_size': 768, 'intermediate_size': 3072}
LARGE |= {'num_attention_heads': 12, 'projection_dim': 768}
FULL = {
  'text-L/14': (CLIPTextModel, CLIPTextConfig(**LARGE), 196, 123_060_480),
  'B/32': (CLIPModel, CLIPConfig(), 398, 151_277_313),
  'L/14': (
    CLIPModel,
    CLIPConfig(
      text_config=LARGE,
      vision_config={
        'hidden_size': 1024,
        'intermediate_size': 4096,
        'num_hidden_layers': 24,
        'num_attention_heads': 16,
        'patch_size': 14,
        'projection_dim': 768,
      },
      projection_dim=768,
    ),
    590,
    427_616_513,
  ),
}
SOURCES = {
  CLIPTextModel: ('clip-text', 'text_encoder', clip.TEXT),
  CLIPModel: ('clip', 'clip', clip.CLIP),
}


@functools.cache
def model_of(name):
  """transformers' network, its weights as they come."""
  if name in TEXTS:
    return CLIPTextModel(CLIPTextConfig(**TEXTS[name]))
  return CLIPModel(
    CLIPConfig(text_config=TEXT, vision_config=IMAGE, projection_dim=10)
  )


def tokens(seed, is_masked=False):
  """(ids, mask) of three texts, which end at different places."""
  rng = np.random.default_rng(seed)
  ids = rng.integers(3, 38, size=(3, 9))
  ends = rng.integers(2, 9, size=3)
  ids[np.arange(3), ends] = 39
  mask = np.arange(9) <= ends[:, None] if is_masked else np.ones((3, 9), bool)
  return ids, mask


# Gradients are by the table of tokens: ids themselves have none.
@functools.cache
def ours_text(module, is_masked, kind):
  module = module.clone(dtype=kind)

  def function(variables, table):
    params = variables['net']['params']
    embeddings = params['embeddings'] | {
      'token_embedding': {'embedding': table}
    }
    ids = variables['ids'].astype('int32')
    mask = variables['mask'] > 0 if is_masked else None
    params = params | {'embeddings': embeddings}
    states = module.apply({'params': params}, ids, mask)
    # What a padding token says is nobody's business.
    return states.hidden * variables['mask'][..., None], states.pooled

  return function


def same_text(name, seed, model, module, variables):
  is_masked = name == 'masked'
  ids, mask = tokens(seed, is_masked)
  (key,) = (n for n, _ in model.named_parameters() if n.endswith(TABLE))
  table = dict(model.named_parameters())[key].detach().numpy().copy()

  def theirs(model, table):
    options = {'attention_mask': torch.from_numpy(mask)} if is_masked else {}
    states = torch.func.functional_call(
      model, {key: table}, (torch.from_numpy(ids),), options
    )
    hidden = states.last_hidden_state * torch.from_numpy(mask)[..., None]
    return hidden, states.pooler_output

  torch_models.same(
    f'clip_text {name}',
    seed,
    functools.partial(ours_text, module, is_masked),
    {'net': variables, 'ids': ids, 'mask': mask},
    model,
    theirs,
    (table,),
    2e-6,
  )


@functools.cache
def ours_both(module, kind):
  module = module.clone(dtype=kind)

  def function(variables, image):
    ids = variables['ids'].astype('int32')
    found = module.apply(variables['net'], image, ids)
    return found.image, found.text, found.scale * found.image @ found.text.T

  return function


def same_both(seed, model, module, variables):
  ids, _ = tokens(seed)
  rng = np.random.default_rng(seed)
  image = np.float32(rng.normal(size=(2, 3, 20, 20)))
  # Its fields are dicts, and what is compiled once is found by its hash.
  module = module.clone(
    text=FrozenDict(module.text), image=FrozenDict(module.image)
  )

  def theirs(model, image):
    found = model(torch.from_numpy(ids), image)
    return found.image_embeds, found.text_embeds, found.logits_per_image

  torch_models.same(
    'clip',
    seed,
    functools.partial(ours_both, module),
    {'net': variables, 'ids': ids},
    model,
    theirs,
    (image,),
    2e-6,
  )


def loaded(model, folder):
  """Our module and its variables by way of their file."""
  model.save_pretrained(folder)
  source, only, _ = SOURCES[type(model)]
  return sources.load(source, folder, only)


@pytest.mark.parametrize('seed', torch_models.SEEDS)
@pytest.mark.parametrize('name', TEXTS)
def test_the_text_tower(name, seed, tmp_path):
  model = torch_models.redraw(model_of(name), seed)
  same_text(name, seed, model, *loaded(model, tmp_path))


@pytest.mark.parametrize('seed', torch_models.SEEDS)
def test_both_towers(seed, tmp_path):
  model = torch_models.redraw(model_of('both'), seed)
  same_both(seed, model, *loaded(model, tmp_path))


@pytest.mark.parametrize('name', [*TEXTS, 'both'])
def test_ours_in_theirs(name, tmp_path):
  model = model_of(name)
  one = SOURCES[type(model)][-1]
  module, _ = loaded(model, tmp_path / 'theirs')
  variables = torch_models.draw(one, module)
  state = torch_models.export(one, module, variables, tmp_path / 'ours')
  again, told = type(model).from_pretrained(
    tmp_path / 'ours', output_loading_info=True
  )
  wrong = ('missing_keys', 'unexpected_keys', 'mismatched_keys')
  assert not any(told[key] for key in wrong), told
  known = model.state_dict()
  if not known.keys() & state.keys():  # transformers 5
    state = {k.removeprefix('text_model.'): v for k, v in state.items()}
  model.load_state_dict(state, strict=True)
  for key, value in again.state_dict().items():
    assert torch.equal(state[key], value), key
  if name in TEXTS:
    same_text(name, torch_models.OURS, again.eval(), module, variables)
  else:
    same_both(torch_models.OURS, again.eval(), module, variables)


@pytest.mark.parametrize('name', FULL)
def test_the_published_sizes(name):
  kind, config, count, size = FULL[name]
  with torch.device('meta'):
    model = kind(config)
  shapes = torch_models.shapes(model)
  assert len(shapes) == count
  assert sum(p.numel() for p in model.parameters()) == size
  one = SOURCES[kind][-1]
  module, _ = part.plan(one, torch_models.sizes(shapes), config.to_dict())
  spelled = part.spell(one, shapes)
  expected = {spelled[key]: shape for key, shape in shapes.items()}
  assert torch_models.table(one, module) == expected
