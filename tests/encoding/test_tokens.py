"""Texts as ids, by files alone."""

import json
import shutil

import numpy as np
import pytest
import tiny_clip

from pix2seqd_jax.encoding import tokens


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  return tiny_clip.write_tokenizer(tmp_path_factory.mktemp('a') / 'tokenizer')


def ids(*names, length):
  """With both ends, padded by the last one."""
  names = (tiny_clip.BOS, *names, *[tiny_clip.EOS] * (length - 1 - len(names)))
  return [tiny_clip.VOCABULARY.index(name) for name in names]


def test_words_in_pieces_between_ends(folder):
  found = tokens.Tokenizer(folder)(['', 'A  cat, dot!', 'DOG'])
  assert found.dtype == np.int32 and found.shape == (3, 77)
  # A comma is no token of ours: unknown is what ends a text, as in CLIP.
  assert found.tolist() == [
    ids(length=77),
    ids('a</w>', 'cat</w>', tiny_clip.EOS, 'do', 't</w>', '!</w>', length=77),
    ids('dog</w>', length=77),
  ]


def test_a_long_text_is_cut_and_still_ends(folder):
  tokenizer = tokens.Tokenizer(folder, length=5)
  assert tokenizer('dog ' * 9).tolist() == [ids(*['dog</w>'] * 3, length=5)]
  assert tokenizer([]).shape == (0, 5)
  assert tokenizer.size == len(tiny_clip.VOCABULARY)


def test_all_forms_of_the_files_are_one(folder, tmp_path):
  expected = tokens.Tokenizer(folder)('a cat')
  import transformers

  whole = transformers.CLIPTokenizerFast.from_pretrained(folder)
  whole.save_pretrained(tmp_path / 'saved')
  alone = tmp_path / 'alone'
  alone.mkdir()
  shutil.copy(tmp_path / 'saved' / 'tokenizer.json', alone)
  for path in (folder.parent, folder / 'vocab.json', tmp_path / 'saved', alone):
    np.testing.assert_array_equal(tokens.Tokenizer(path)('a cat'), expected)


def test_another_token_to_pad_with(folder, tmp_path):
  copy = shutil.copytree(folder, tmp_path / 'b')
  told = {'tokenizer_class': 'CLIPTokenizer', 'pad_token': '!'}
  (copy / 'tokenizer_config.json').write_text(json.dumps(told))
  found = tokens.Tokenizer(copy, 5)('dog')[0]
  end, pad = (tiny_clip.VOCABULARY.index(t) for t in (tiny_clip.EOS, '!'))
  assert found[2:].tolist() == [end, pad, pad]


def test_files_that_are_not_there(folder, tmp_path):
  (tmp_path / 'c').mkdir()
  shutil.copy(folder / 'vocab.json', tmp_path / 'c')
  for path in (tmp_path / 'c', tmp_path / 'nowhere'):
    with pytest.raises(
      ValueError,
      match=r'neither tokenizer\.json nor both of vocab\.json and merges\.txt.*'
      'openai/clip-vit-large-patch14',
    ):
      tokens.Tokenizer(path)
  with pytest.raises(ValueError, match='length=1 must be at least 2'):
    tokens.Tokenizer(folder, 1)


def test_files_that_are_broken(tmp_path):
  (tmp_path / 'tokenizer.json').write_text('{')
  with pytest.raises(
    ValueError, match='not hold a tokenizer that transformers'
  ):
    tokens.Tokenizer(tmp_path)
