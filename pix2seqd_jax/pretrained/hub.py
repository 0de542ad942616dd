"""`hf://owner/repo/path[@revision]` -> a local path, by huggingface_hub."""

import contextlib
import os
import pathlib
import re

SCHEME = 'hf://'
_NAME = re.compile(
  r'hf://(?P<repo>[\w.-]+/[\w.-]+)(?:/(?P<path>[^@]+?))?/?(?:@(?P<at>[\w./-]+))?'
)
# Of a folder: its weights and what describes them, no other format.
_WANTED = ('*.safetensors', '*.json', '*.txt')
# Of a whole pipeline: what no folder is read by, gigabytes of it.
_UNWANTED = [
  '*.fp16.*',
  '*.non_ema.*',
  'v1-*',
  'v2-*',
  'sd-v1-*',
  'safety_checker/*',
]


def resolve(path: str | os.PathLike) -> pathlib.Path:
  """A local path as it is; a name on the Hub downloaded, or from its cache.

  `hf://openai/clip-vit-large-patch14/model.safetensors` is a file, with the
  config.json beside it; a path without an ending, or none, is a folder.

  Raises:
    ValueError: the name is malformed, or the file is neither in the cache nor
      to be had (no network, HF_HUB_OFFLINE=1, a private or missing one).
  """
  if not str(path).startswith(SCHEME):
    return pathlib.Path(path)
  match = _NAME.fullmatch(str(path))
  if match is None or '..' in (match['path'] or '').split('/'):
    raise ValueError(
      f'{path} must be hf://owner/repo, hf://owner/repo/path or either with '
      '@revision.'
    )
  return _fetch(str(path), match['repo'], match['path'] or '', match['at'])


def _fetch(name, repo, path, revision) -> pathlib.Path:
  import huggingface_hub
  from huggingface_hub import errors

  try:
    if not pathlib.PurePosixPath(path).suffix:
      root = huggingface_hub.snapshot_download(
        repo,
        revision=revision,
        allow_patterns=[f'{path}/{w}' if path else w for w in _WANTED]
        + [f'{path}/*/{w}' if path else f'*/{w}' for w in _WANTED],
        ignore_patterns=[] if path else list(_UNWANTED),
      )
      return pathlib.Path(root) / path
    folder = path.rpartition('/')[0]
    config = f'{folder}/config.json' if folder else 'config.json'
    found = huggingface_hub.hf_hub_download(repo, path, revision=revision)
    # Without a config its sizes are told by its shapes.
    absent = (errors.EntryNotFoundError, errors.LocalEntryNotFoundError)
    with contextlib.suppress(*absent):
      huggingface_hub.hf_hub_download(repo, config, revision=revision)
    return pathlib.Path(found)
  except (errors.HfHubHTTPError, OSError, ValueError) as error:
    reason = str(error).split('\n')[0] or type(error).__name__
    raise ValueError(
      f'{name} could not be had: {reason} Without a network, download it '
      'elsewhere and give its path (or set HF_HOME to a cache that holds it).'
    ) from error
