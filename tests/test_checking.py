"""Values against type hints."""

import math
from collections.abc import Mapping
from typing import Any, Literal

import pytest

from pix2seqd_jax import checking


@pytest.mark.parametrize(
  'value, hint, fit',
  [
    (1, int, True),
    (True, int, False),
    (1.0, int, False),
    (1, float, True),
    (math.nan, float, False),
    (math.nan, Any, True),
    ('a', str, True),
    (1, bool, False),
    (None, float | None, True),
    ('a', float | None, False),
    ((1, 2), tuple[int, int], True),
    ((1, 2, 3), tuple[int, int], False),
    ((), tuple[int, ...], True),
    ((1, 'a'), tuple[int, ...], False),
    (3, tuple, False),
    ({}, Mapping[str, Any], True),
    (3, Mapping, False),
    ((('x', {}),), tuple[tuple[str, Mapping], ...], True),
    ((('x', 3),), tuple[tuple[str, Mapping], ...], False),
    ('a', Literal['a', 'b'], True),
    ('c', Literal['a', 'b'], False),
    (True, Literal[1], False),
  ],
)
def test_fits(value, hint, fit):
  assert checking.fits(value, hint) is fit


def call(a, b: int = 1, *, size=3, name='x'):
  return a, b, size, name


@pytest.mark.parametrize(
  'kwargs, message',
  [
    ({}, 'config.it lacks a'),
    ({'a': 1, 'sise': 2}, "Did you mean 'size'"),
    ({'a': 1, 'b': 'x'}, "b='x' must be of type int"),
    ({'a': 1, 'name': 3}, 'must be of type str'),
    (3, 'must be of type Mapping'),
  ],
)
def test_check_arguments(kwargs, message):
  with pytest.raises(ValueError, match=message):
    checking.check_arguments('config.it', call, kwargs)


def test_a_word_that_is_no_choice_is_told_the_nearest():
  message = "it='skipp' must be one of raise, skip. Did you mean 'skip'"
  with pytest.raises(ValueError, match=message):
    checking.check_value('it', 'skipp', Literal['raise', 'skip'])


def test_good_arguments():
  checking.check_arguments('config.it', call, {'a': None, 'b': 2, 'size': 4.5})
  checking.check_arguments('config.it', call, {'b': 2}, skip=('a',))
