"""The states of a prompt, written once and read with care."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_clip

from pix2seqd_jax.cli import weights_prompt
from pix2seqd_jax.encoding import tokens
from pix2seqd_jax.train.checkpoints import weights


@pytest.fixture(scope='module')
def pipeline(tmp_path_factory):
  """(a folder of a whole pipeline, its text tower, the tower's variables)."""
  folder = tmp_path_factory.mktemp('pipeline')
  tiny_clip.write_tokenizer(folder / 'tokenizer')
  module = tiny_clip.text_tower()
  variables = tiny_clip.write_text_tower(folder / 'text_encoder', module)
  return folder, module, variables


def run(pipeline, out, *more):
  folder = str(pipeline[0])
  arguments = ['--text-encoder', folder, '--tokenizer', folder]
  weights_prompt.main([*arguments, '--out', str(out), *more])


def test_written_and_read(pipeline, tmp_path, capsys):
  folder, module, variables = pipeline
  out = tmp_path / 'new' / 'null.npy'
  run(pipeline, out, '--prompt', 'a dog')
  said = capsys.readouterr().out
  assert "null.npy: float32 (77, 8), the states of 'a dog'" in said
  ids = jnp.asarray(tokens.Tokenizer(folder)('a dog'))
  expected = jax.jit(module.apply)(variables, ids).hidden[0]
  found = weights_prompt.load(out, width=8)
  assert found.dtype == np.float32
  np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
  run(pipeline, tmp_path / 'prompt', '--prompt', 'a dog')
  tree = weights.load_params(tmp_path / 'prompt')['frozen']
  np.testing.assert_array_equal(tree['prompt']['tokens'], found)


def test_a_shorter_tower_gets_shorter_texts(pipeline, tmp_path):
  short = tiny_clip.text_tower(num_positions=7, width=4)
  tiny_clip.write_text_tower(tmp_path / 'text', short)
  out = tmp_path / 'a.npy'
  folder = str(pipeline[0])
  weights_prompt.write(str(tmp_path / 'text'), folder, str(out))
  assert weights_prompt.load(out, 7, 4).shape == (7, 4)


def test_what_cannot_be_written(pipeline, tmp_path):
  (tmp_path / 'there.npy').touch()
  for name in ('there.npy', 'there.txt'):
    with pytest.raises(SystemExit, match='must be a new file that ends in'):
      run(pipeline, tmp_path / name)
  (tmp_path / 'pretrained.json').touch()
  with pytest.raises(ValueError, match='is a directory of ours; name the'):
    weights_prompt.write(
      str(tmp_path), str(pipeline[0]), str(tmp_path / 'b.npy')
    )
  small = tiny_clip.text_tower(vocab_size=5)
  texts = tokens.Tokenizer(pipeline[0])
  with pytest.raises(ValueError, match='tokenizer has 20 tokens but the text'):
    weights_prompt.embed(small, {}, texts)


@pytest.mark.parametrize(
  ('array', 'match'),
  [
    (np.zeros((3, 8), np.float32), r'must hold float32 \(77, 8\)'),
    (np.zeros((77, 8)), 'and holds float64'),
    (np.full((77, 8), np.nan, np.float32), 'numbers that are not finite'),
    (np.array([{}]), 'is no array of NumPy .*allow_pickle=False'),
    (None, 'several arrays'),
  ],
  ids=['shape', 'type', 'nan', 'pickle', 'archive'],
)
def test_what_is_not_read(tmp_path, array, match):
  path = tmp_path / 'a.npy'
  with open(path, 'wb') as file:
    if array is None:
      np.savez(file, a=np.zeros(3))
    else:
      np.save(file, array)
  with pytest.raises(ValueError, match=match):
    weights_prompt.load(path, width=8)


def test_no_file(tmp_path):
  with pytest.raises(ValueError, match='is no array of NumPy'):
    weights_prompt.load(tmp_path / 'none.npy')
