"""A vocabulary of a few words, and a text tower that reads it."""

import json
import pathlib

import jax
import numpy as np

from pix2seqd_jax.architectures.clip_text import CLIPText
from pix2seqd_jax.pretrained import clip, save

_LETTERS = 'acdgot!'
_MERGES = ('c a', 'ca t</w>', 'd o', 'do g</w>')
BOS, EOS = '<|startoftext|>', '<|endoftext|>'
VOCABULARY = (
  *_LETTERS,
  *(letter + '</w>' for letter in _LETTERS),
  *(merge.replace(' ', '') for merge in _MERGES),
  BOS,
  EOS,
)


def write_tokenizer(folder: pathlib.Path) -> pathlib.Path:
  """vocab.json and merges.txt as OpenAI's are, without a config."""
  folder.mkdir(parents=True)
  ids = {token: i for i, token in enumerate(VOCABULARY)}
  (folder / 'vocab.json').write_text(json.dumps(ids))
  (folder / 'merges.txt').write_text('\n'.join(['#version: 0.2', *_MERGES, '']))
  return folder


def text_tower(**changes) -> CLIPText:
  """With 77 positions."""
  fields = {'width': 8, 'num_layers': 1, 'num_heads': 2, 'mlp_dim': 12}
  return CLIPText(**({'vocab_size': len(VOCABULARY)} | fields | changes))


def write_text_tower(folder: pathlib.Path, module: CLIPText) -> dict:
  """In transformers' form; returns its variables."""
  rng = np.random.default_rng(0)
  variables = jax.tree.map(
    lambda leaf: np.float32(0.3 * rng.normal(size=leaf.shape)),
    clip.text_shapes(module),
  )
  save.save(clip.TEXT, module, variables, folder)
  return variables
