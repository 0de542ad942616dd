"""Texts -> CLIP's token ids, by transformers' tokenizer from local files."""

import os
import pathlib
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int

# Either is enough, as transformers does it.
_WHOLE = 'tokenizer.json'
_PIECES = ('vocab.json', 'merges.txt')
_FOLDER = 'tokenizer'  # in a folder of a whole pipeline


class Tokenizer:
  """Texts -> ids, each text cut or padded to the same number of tokens.

  A text becomes lower-case words in pieces, between one token that begins and
  one that ends it; OpenAI's models pad with the token that ends it, so ''
  is 49406 and then 49407 to the end.

  Attributes:
    length: of every text in tokens, ends included.
    size: of the vocabulary; all ids are below it.
  """

  def __init__(self, path: str | os.PathLike, length: int = 77):
    """Reads a vocabulary; nothing is ever downloaded.

    Args:
      path: a folder with tokenizer.json, or vocab.json and merges.txt (and
        tokenizer_config.json, which may name another token to pad with); a
        folder of a whole pipeline, which has them below `tokenizer`; or one
        of the files.
      length: CLIP's towers have 77 positions.

    Raises:
      ValueError: no such files, or unreadable ones; or a length without package
        for both ends.
    """
    if length < 2:
      raise ValueError(
        f'length={length} must be at least 2, for the tokens that begin and '
        "end a text; CLIP's is 77."
      )
    folder = _folder(pathlib.Path(path))
    import transformers  # takes a second

    try:
      self._tokenizer = transformers.CLIPTokenizerFast.from_pretrained(
        folder, local_files_only=True
      )
    # The library of tokenizers raises bare Exceptions.
    except Exception as error:
      raise ValueError(
        f'{folder} does not hold a tokenizer that transformers reads: {error}'
      ) from error
    self.length = length
    self.size = 1 + max(self._tokenizer.get_vocab().values())

  def __call__(self, texts: str | Sequence[str]) -> Int[np.ndarray, 'b n']:
    """int32 [b, length]; a single text is a batch of one."""
    texts = [texts] if isinstance(texts, str) else list(texts)
    if not texts:
      return np.zeros((0, self.length), np.int32)
    # Not the tokenizer's own greatest length: without a tokenizer_config.json
    # it has none, and nothing would be cut.
    found = self._tokenizer(
      texts, padding='max_length', truncation=True, max_length=self.length
    )
    return np.asarray(found['input_ids'], np.int32)


def _folder(path: pathlib.Path) -> pathlib.Path:
  folder = path.parent if path.is_file() else path
  if (folder / _FOLDER).is_dir():
    folder = folder / _FOLDER
  has_pieces = all((folder / name).is_file() for name in _PIECES)
  if not (has_pieces or (folder / _WHOLE).is_file()):
    raise ValueError(
      f'{folder} has neither {_WHOLE} nor both of {" and ".join(_PIECES)}, '
      "which make CLIP's tokenizer. They are in openai/clip-vit-large-patch14 "
      "and in the folder 'tokenizer' of Stable Diffusion on "
      'https://huggingface.co; put them there, or name the folder that has '
      'them.'
    )
  return folder
