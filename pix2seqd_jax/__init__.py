"""Generative segmentation in JAX: four papers, one equation.

`Pipeline` is the face for users; everything else is imported by its package
(`from pix2seqd_jax.models import pix2seq_d`). Nothing heavy is imported here.
"""

import importlib

__version__ = '0.1.0'

_LAZY = {'Pipeline': 'pix2seqd_jax.inference.pipeline'}
__all__ = ['Pipeline', '__version__']


def __getattr__(name):
  if name in _LAZY:
    return getattr(importlib.import_module(_LAZY[name]), name)
  raise AttributeError(f'module {__name__!r} has no attribute {name!r}')


def __dir__():
  return sorted(__all__)
