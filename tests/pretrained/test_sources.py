"""Which network a checkpoint holds, half precision, the way there and back."""

import json

import jax
import numpy as np
import pytest
import toy_part as toy
from safetensors.numpy import load_file, save_file

from pix2seqd_jax.pretrained import save, sources


@pytest.fixture(autouse=True)
def toys(monkeypatch):
  """A family of two networks that differ in one name."""
  other = toy.PART._replace(mark='net.other')
  family = sources.Source(
    {'first': toy.PART, 'second': other}, {'one.': 'first', 'two.': 'second'}
  )
  monkeypatch.setitem(sources.SOURCES, 'toys', family)
  monkeypatch.setitem(sources.SOURCES, 'toy', sources.Source({'net': toy.PART}))


def same(ours, theirs):
  jax.tree.map(np.testing.assert_array_equal, dict(ours), dict(theirs))


def test_there_and_back_by_files(tmp_path):
  module = toy.Net(width=3, depth=2, is_conv=False)
  ours = toy.variables(module)
  path = save.save(toy.PART, module, ours, tmp_path / 'a')
  found, variables = sources.load('toy', path)
  assert found == module
  same(variables, ours)
  again = save.save(toy.PART, found, variables, tmp_path / 'b')
  assert again.read_bytes() == path.read_bytes()
  # The library reads what we wrote, and its own writing of it is ours.
  same(load_file(path), toy.theirs(module))
  with pytest.raises(ValueError, match='exists; name another'):
    save.save(toy.PART, module, ours, tmp_path / 'a')


def test_what_is_wrong_is_told_before_anything_is_written(tmp_path):
  with pytest.raises(ValueError, match='are not those of Net'):
    save.save(toy.PART, toy.Net(width=4), toy.variables(), tmp_path / 'a')
  assert not (tmp_path / 'a').exists()


def test_a_pipelines_folders(tmp_path):
  for name, seed in (('first', 0), ('second', 1)):
    save.save(toy.PART, toy.Net(), toy.variables(seed=seed), tmp_path / name)
  found = sources.find('toys', tmp_path)
  assert list(found) == ['first', 'second']
  same(found['second'].read(), toy.variables(seed=1))
  same(sources.load('toys', tmp_path, 'first')[1], toy.variables())
  with pytest.raises(ValueError, match='first, second; say which'):
    sources.load('toys', tmp_path)


def test_one_file_with_all_parts(tmp_path):
  arrays = toy.theirs(prefix='one.') | toy.theirs(seed=1, prefix='two.net.')
  save_file(arrays | {'betas': np.zeros(3)}, tmp_path / 'all.safetensors')
  found = sources.find('toys', tmp_path / 'all.safetensors')
  same(found['second'].read(), toy.variables(seed=1))


def test_a_file_of_one_part_is_known_by_its_mark(tmp_path):
  save_file(toy.theirs(), tmp_path / 'a.safetensors')
  assert list(sources.find('toys', tmp_path / 'a.safetensors')) == ['first']
  save_file({'net.strange': np.zeros(3)}, tmp_path / 'b.safetensors')
  with pytest.raises(ValueError, match=r'look like none of first, second'):
    sources.find('toys', tmp_path / 'b.safetensors')
  with pytest.raises(
    ValueError, match=r'as second of toys: .*names do not fit'
  ):
    sources.find('toys', tmp_path / 'b.safetensors', only='second')


@pytest.mark.parametrize('dtype', ['float16', 'bfloat16'])
def test_half_precision_is_a_choice(tmp_path, dtype):
  import ml_dtypes

  kind = getattr(ml_dtypes, dtype, None) or np.dtype(dtype)
  arrays = {k: v.astype(kind) for k, v in toy.theirs().items()}
  save_file(arrays, tmp_path / 'model.safetensors')
  with pytest.raises(ValueError, match=rf'are in {dtype} .*--cast float32'):
    sources.load('toy', tmp_path)
  _, found = sources.load('toy', tmp_path, cast='float32')
  rounded = jax.tree.map(
    lambda v: v.astype(kind).astype(np.float32), toy.variables()
  )
  same(found, rounded)
  assert {v.dtype for v in jax.tree.leaves(found)} == {np.dtype('float32')}
  _, kept = sources.load('toy', tmp_path, cast='keep')
  assert {v.dtype for v in jax.tree.leaves(kept)} == {np.dtype(kind)}


def test_names_that_are_not_known(tmp_path):
  with pytest.raises(ValueError, match=r"'sd9' is none of .*toys"):
    sources.find('sd9', tmp_path)
  with pytest.raises(ValueError, match="part='third': toys has first, second"):
    sources.find('toys', tmp_path, only='third')
  save_file(toy.theirs(), tmp_path / 'model.safetensors')
  with pytest.raises(ValueError, match="cast='int8' must be one of"):
    sources.load('toy', tmp_path, cast='int8')


@pytest.mark.parametrize('text', ['{', '[1]'])
def test_a_config_that_is_none(tmp_path, text):
  save_file(toy.theirs(), tmp_path / 'model.safetensors')
  (tmp_path / 'config.json').write_text(text)
  with pytest.raises(ValueError, match=r'no JSON|a JSON object'):
    sources.load('toy', tmp_path)


def test_the_config_beside_a_file_decides(tmp_path):
  save_file(toy.theirs(), tmp_path / 'x.safetensors')
  (tmp_path / 'config.json').write_text(json.dumps({'is_conv': False}))
  assert not sources.load('toy', tmp_path / 'x.safetensors')[0].is_conv
