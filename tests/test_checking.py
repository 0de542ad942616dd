"""Values against type hints."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal, NamedTuple

import flax.linen as nn
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
    (1, Annotated[int, 'a word'], True),
    ('a', Annotated[int, 'a word'], False),
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


class Net(nn.Module):
  width: int = 4
  in_channels: int = 3
  dtype: Any = 'float32'


class Limits(NamedTuple):
  low: float = 0.0


@dataclasses.dataclass(frozen=True)
class Colors:
  num_classes: int
  levels: int = 2


@dataclasses.dataclass(frozen=True)
class Owner:
  num_classes: int
  net: Annotated[Net, checking.Follows('in_channels')]
  colors: Annotated[Colors | None, checking.Follows('num_classes')] = None
  limits: Limits = dataclasses.field(default_factory=Limits)
  rule: Annotated[Any, checking.OneOf({'cut': Limits})] = None
  rate: Annotated[float | int, checking.FRACTION] = 0.0
  loss: Annotated[str, checking.Choice(('l1', 'l2'))] = 'l1'

  def __post_init__(self):
    checking.check_fields('model', self)


def test_parts_are_built_by_their_hints():
  kwargs = {
    'num_classes': 5,
    'net': {'width': 8},
    'colors': {'levels': 3},
    'limits': {'low': 1.0},
    'rule': ('cut', {'low': 2.0}),
  }
  made = checking.construct('model', Owner, kwargs)
  expected = Owner(5, Net(8), Colors(5, 3), Limits(1.0), Limits(2.0))
  assert made == expected
  built = {'num_classes': 5, 'net': Net(8), 'colors': {}}
  assert checking.construct('model', Owner, built) == Owner(5, Net(8))


@pytest.mark.parametrize(
  'changes, message',
  [
    ({'net': {'widht': 3}}, "model.net.widht is .* Did you mean 'width'"),
    ({'net': {'in_channels': 3}}, 'net.in_channels follows from other keys'),
    ({'net': {'name': 'a'}}, 'model.net.name is unknown'),
    ({'net': 3}, 'model.net=3 must be of type Net'),
    ({'colors': {'num_classes': 3}}, 'colors.num_classes follows'),
    ({'limits': {'low': 'a'}}, "model.limits.low='a' must be of type float"),
    ({'rule': ('cutt', {})}, "model.rule='cutt' is .* Did you mean 'cut'"),
    ({'rule': ('cut', {'high': 3})}, 'model.rule.high is unknown to Limits'),
    ({'rate': 1.5}, 'model.rate=1.5 must be a number from 0 to 1'),
    ({'loss': 'l3'}, "model.loss='l3' is unknown.*Known: l1, l2"),
  ],
)
def test_parts_that_cannot_be(changes, message):
  kwargs = {'num_classes': 5, 'net': {}}
  with pytest.raises(ValueError, match=message):
    checking.construct('model', Owner, kwargs | changes)


def test_a_constructor_takes_parts_only_built():
  with pytest.raises(ValueError, match=r'model.net=.* must be built: Net\('):
    Owner(5, {'width': 8})
