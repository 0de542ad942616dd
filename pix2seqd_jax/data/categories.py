"""Classes of a data set as JSON: COCO's `categories`, and categories.json."""

import json
import pathlib

from pix2seqd_jax.data.files import write_atomically
from pix2seqd_jax.types import Category


def categories_to_json(categories):
  """A list of dicts in COCO panoptic form, in the order of the classes."""
  entries = []
  for category in categories:
    entry = {
      'id': category.id,
      'name': category.name,
      'isthing': int(category.is_thing),
    }
    if category.color is not None:
      entry['color'] = [int(c) for c in category.color]
    entries.append(entry)
  return entries


def categories_from_json(entries, where='categories'):
  """The inverse; class c is entry c - 1, whatever its own id is.

  Raises:
    ValueError: nothing there, a missing key, or an id twice.
  """
  if not isinstance(entries, list) or not entries:
    raise ValueError(
      f'{where} must be a list of at least one category, such as '
      "{'id': 1, 'name': 'person', 'isthing': 1}."
    )
  categories = []
  for entry in entries:
    for key in ('id', 'name', 'isthing'):
      if not isinstance(entry, dict) or key not in entry:
        raise ValueError(
          f'{where}: category {entry!r} lacks {key!r}; a category needs id, '
          'name and isthing (1 for things, 0 for stuff).'
        )
    color = entry.get('color')
    categories.append(
      Category(
        int(entry['id']),
        str(entry['name']),
        bool(entry['isthing']),
        None if color is None else tuple(int(c) for c in color),
      )
    )
  ids = [c.id for c in categories]
  for number in ids:
    if ids.count(number) > 1:
      raise ValueError(f'{where}: the category id {number} stands there twice.')
  return tuple(categories)


def write_categories(path, categories):
  """Writes categories.json, the classes that a model was trained on."""
  text = json.dumps(categories_to_json(categories), indent=2)
  write_atomically(path, text.encode() + b'\n')


def read_categories(path):
  """Reads categories.json.

  Raises:
    ValueError: the file is missing or is not a list of categories.
  """
  return categories_from_json(read_json(path), str(path))


def read_json(path):
  """A JSON file; ValueError that names it when it is missing or broken."""
  path = pathlib.Path(path)
  if not path.is_file():
    raise ValueError(f'{path} does not exist or is no file.')
  try:
    return json.loads(path.read_bytes())
  except ValueError as error:
    raise ValueError(f'{path} is not valid JSON: {error}.') from error
