"""Whose weights a SemFlow may start from: latents must mean the same.

Colours of classes and the scale of latents change no shape: weights of other
ones would be loaded without a word, and never segment.
"""

from collections.abc import Mapping
from typing import Any

from pix2seqd_jax.encoding import anchors

_DEFAULTS = {
  key: getattr(anchors.Anchors, key) for key in ('levels', 'spacing')
}
_COLLECTIONS = ('net', 'stats', 'frozen')


def check(
  model: Any, folder: Any, target: str, theirs: Mapping[str, Any]
) -> None:
  """Refuses weights that fit in shape but not in meaning.

  Args:
    model: a SemFlow.
    folder: of the run that they come from, for the error.
    target: what of `model` they fill, as `weights.init_from` reads it.
    theirs: the config of that run.

  Raises:
    ValueError: it had other anchors, or another scale of latents.
  """
  told = theirs.get('model', {})
  # An autoencoder was shown the masks that it tells of, if any.
  parts = [('frozen/image/', told.get('masks') or {}, ('anchors',))]
  for part in ('net/unet/', *model.teacher):
    parts.append((part, told, ('anchors', 'latent_scale')))
  filled = target
  if filled.split('/')[0] not in _COLLECTIONS:  # of net, and of stats
    filled = f'net/{filled}'.rstrip('/')
  filled = f'{filled}/'
  for part, values, keys in parts:
    if part.startswith(filled) or filled.startswith(part):
      for key in keys:
        _compare(key, getattr(model, key), values, folder)


def _compare(key, here, values, folder):
  if key not in values:
    return
  there = values[key]
  if key == 'anchors':  # defaults may be written or not
    here, there = (_DEFAULTS | dict(x) for x in (here, there))
  if there != here:
    raise ValueError(
      f'init_from: the weights in {folder} were trained with {key}={there!r}, '
      f'here model.{key}={here!r}: latents mean something else. Set '
      f'model.{key} as it is there, or train another.'
    )
