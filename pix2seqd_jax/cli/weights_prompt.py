r"""The embedding of one prompt, usually the empty one, as a small file.

  python -m pix2seqd_jax.cli.weights_prompt \
    --text-encoder stable-diffusion-v1-5 --tokenizer stable-diffusion-v1-5 \
    --out null.npy [--prompt TEXT] [--cast float32]

Models that condition on no text but the empty one, or drop it for guidance,
need nothing more of CLIP than this array, [77, 768] for Stable Diffusion 1.x.
With a name that does not end in .npy, --out is a directory for
config.init_from, with the array as frozen/prompt/tokens (SemFlow).
"""

import argparse
import os
import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from pix2seqd_jax.architectures.clip_text import CLIPText
from pix2seqd_jax.encoding import tokens
from pix2seqd_jax.pretrained import sources
from pix2seqd_jax.train.checkpoints import weights

_OURS = 'pretrained.json'  # in a directory that our conversion made


def embed(
  module: CLIPText,
  variables: Mapping[str, Any],
  tokenizer: tokens.Tokenizer,
  prompt: str = '',
) -> Float[np.ndarray, 'n d']:
  """What the text tower says of a prompt, in float32; padding is read too.

  Raises:
    ValueError: the tokenizer belongs to another model.
  """
  if tokenizer.size > module.vocab_size:
    raise ValueError(
      f'the tokenizer has {tokenizer.size} tokens but the text encoder '
      f'{module.vocab_size}; take both from one model.'
    )
  ids = jnp.asarray(tokenizer(prompt))
  module = module.clone(dtype=jnp.float32)
  with jax.default_matmul_precision('highest'):
    states = jax.jit(module.apply)(variables, ids)
  return np.asarray(states.hidden[0])


def load(
  path: str | os.PathLike, num_tokens: int = 77, width: int = 768
) -> Float[np.ndarray, 'n d']:
  """An embedding that the command wrote: float32 [num_tokens, width].

  Raises:
    ValueError: no such file, one of another kind or shape, or numbers that
      are not finite.
  """
  try:
    found = np.load(path, allow_pickle=False)
  except (OSError, ValueError, EOFError) as error:
    raise ValueError(
      f'{path} is no array of NumPy ({error}); write it with python -m '
      'pix2seqd_jax.cli.weights_prompt.'
    ) from error
  expected = (num_tokens, width)
  if getattr(found, 'shape', None) != expected or found.dtype != np.float32:
    raise ValueError(
      f'{path} must hold float32 {expected}, the states of a prompt, and holds '
      f'{getattr(found, "dtype", "several arrays")} '
      f'{getattr(found, "shape", "")}; write it with the text encoder that the '
      'model was trained with.'
    )
  if not np.isfinite(found).all():
    raise ValueError(f'{path} holds numbers that are not finite.')
  return found


def write(
  text_encoder: str,
  tokenizer: str,
  out: str,
  prompt: str = '',
  cast: str | None = None,
) -> list[str]:
  """Reads a text encoder and a tokenizer, writes the prompt's embedding.

  Args:
    text_encoder: whatever `--from sd15 --part text_encoder` reads: a folder
      of diffusers or transformers, one of a whole pipeline, a file.
    tokenizer: see tokens.Tokenizer.
    out: a file ending in .npy that does not exist, or a new directory.
    prompt: the text.
    cast: 'float32' takes weights in half precision too.

  Returns:
    Lines to print.

  Raises:
    ValueError: see sources.load, tokens.Tokenizer and `embed`.
  """
  file = pathlib.Path(out)
  if file.suffix not in ('', '.npy') or file.exists():
    raise ValueError(
      f'--out={out} must be a new file that ends in .npy, or a new directory.'
    )
  if (pathlib.Path(text_encoder) / _OURS).is_file():
    raise ValueError(
      f'--text-encoder={text_encoder} is a directory of ours; name the '
      'original that it was made from, or write that again with python -m '
      'pix2seqd_jax.pretrained --to sd15 --part text_encoder.'
    )
  texts = tokens.Tokenizer(tokenizer)
  module, variables = sources.load(
    'sd15', text_encoder, 'text_encoder', cast=cast
  )
  if module.num_positions < texts.length:
    texts = tokens.Tokenizer(tokenizer, module.num_positions)
  found = embed(module, variables, texts, prompt)
  if file.suffix == '.npy':
    file.parent.mkdir(parents=True, exist_ok=True)
    np.save(file, found)
  else:
    tree = {'net': {}, 'frozen': {'prompt': {'tokens': found}}}
    weights.save_params(file, 0, tree)
  return [f'wrote {file}: float32 {found.shape}, the states of {prompt!r}']


def main(argv: Sequence[str] | None = None) -> None:
  """The command."""
  parser = argparse.ArgumentParser(
    prog='python -m pix2seqd_jax.cli.weights_prompt',
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  add = parser.add_argument
  add('--text-encoder', required=True, help='a folder or a file of weights')
  add('--tokenizer', required=True, help='a folder with vocab.json, merges.txt')
  add('--out', required=True, help='the .npy file, or directory, to write')
  add('--prompt', default='', help='the text; by default the empty one')
  add('--cast', choices=('float32',), help='take half precision too')
  try:
    lines = write(**vars(parser.parse_args(argv)))
  except ValueError as error:
    sys.exit(f'ValueError: {error}')
  print('\n'.join(lines))


if __name__ == '__main__':
  main()
