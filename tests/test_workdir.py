"""What a new run says of its start."""

import warnings

import pytest

from pix2seqd_jax import workdir


@pytest.mark.parametrize(
  'entries, named',
  [
    ((), ['frozen/image', 'frozen/mask']),
    ((('a', 'net/x', 'frozen/mask', 'exact'),), ['frozen/image']),
    (
      (('a', 'net/x/encoder', 'frozen/image/encoder', 'exact'),),
      ['frozen/mask'],
    ),
    ((('a', 'frozen', 'frozen', 'exact'),), []),
    ((('a', '', '', 'exact'),), []),
    ((('a', 'net', 'net', 'exact'),), ['frozen/image', 'frozen/mask']),
  ],
)
def test_frozen_parts_that_nothing_fills_are_named(entries, named):
  frozen = {'image': 0, 'mask': 0}
  with warnings.catch_warnings(record=True) as told:
    warnings.simplefilter('always')
    workdir._warn_of_random(frozen, entries)
  assert len(told) == bool(named)
  if named:
    assert str(told[0].message).startswith(f'{", ".join(named)}: frozen at ')
