"""Names on the Hub; no test has a network."""

import pathlib

import pytest

from pix2seqd_jax.pretrained import hub


def test_a_path_is_a_path(tmp_path):
  assert hub.resolve(tmp_path) == tmp_path
  assert hub.resolve('runs/sd15') == pathlib.Path('runs/sd15')


@pytest.mark.parametrize(
  'name', ['hf://', 'hf://owner', 'hf://a/b/../c', 'hf://a b/c', 'hf:///b/c']
)
def test_what_is_no_name(name):
  with pytest.raises(ValueError, match='must be hf://owner/repo'):
    hub.resolve(name)


@pytest.mark.parametrize(
  'name', ['hf://owner/repo/model.safetensors', 'hf://owner/repo/unet@main']
)
def test_offline_is_a_clear_error(name, tmp_path, monkeypatch):
  from huggingface_hub import constants

  monkeypatch.setattr(constants, 'HF_HUB_OFFLINE', True)
  monkeypatch.setattr(constants, 'HF_HUB_CACHE', str(tmp_path))
  with pytest.raises(
    ValueError, match=r'could not be had: .*Without a network'
  ):
    hub.resolve(name)


def test_what_is_asked_of_the_hub(tmp_path, monkeypatch):
  import huggingface_hub

  asked = []

  def one(repo, path, revision=None):
    asked.append((repo, path, revision))
    if path.endswith('config.json'):
      raise huggingface_hub.errors.EntryNotFoundError('none')
    return str(tmp_path / path)

  def many(repo, revision=None, allow_patterns=None, ignore_patterns=None):
    whole = allow_patterns[0] == '*.safetensors'
    assert ('*.fp16.*' in ignore_patterns) == whole
    asked.append((repo, allow_patterns[0], revision))
    return str(tmp_path)

  monkeypatch.setattr(huggingface_hub, 'hf_hub_download', one)
  monkeypatch.setattr(huggingface_hub, 'snapshot_download', many)
  found = hub.resolve('hf://a/b/unet/x.safetensors@v1.5')
  assert found == tmp_path / 'unet/x.safetensors'
  assert hub.resolve('hf://a/b/unet') == tmp_path / 'unet'
  assert hub.resolve('hf://a/b') == tmp_path
  assert asked == [
    ('a/b', 'unet/x.safetensors', 'v1.5'),
    ('a/b', 'unet/config.json', 'v1.5'),
    ('a/b', 'unet/*.safetensors', None),
    ('a/b', '*.safetensors', None),
  ]
