"""Classes to JSON and back."""

import pytest

from pix2seqd_jax.data.formats import categories
from pix2seqd_jax.data.readers import shapes
from pix2seqd_jax.types import Category


def test_round_trip(tmp_path):
  ours = (
    *shapes.Shapes().categories,
    Category(200, 'Möbel', False, None),
  )
  path = tmp_path / 'categories.json'
  categories.write_categories(path, ours)
  assert categories.read_categories(path) == ours


@pytest.mark.parametrize(
  'text,words',
  [
    ('[', 'not valid JSON'),
    ('{}', 'list of at least one category'),
    ('[]', 'list of at least one category'),
    ('[{"id": 1, "name": "a"}]', "lacks 'isthing'"),
    ('[3]', 'category 3 is no object'),
    (
      '[{"id": 1, "name": "a", "isthing": 1},'
      ' {"id": 1, "name": "b", "isthing": 0}]',
      'category id 1 stands there twice',
    ),
  ],
)
def test_broken_files(tmp_path, text, words):
  path = tmp_path / 'categories.json'
  path.write_text(text)
  with pytest.raises(ValueError, match=words) as caught:
    categories.read_categories(path)
  assert 'categories.json' in str(caught.value)


def test_a_missing_file(tmp_path):
  with pytest.raises(ValueError, match=r'none\.json does not exist'):
    categories.read_categories(tmp_path / 'none.json')
