"""Classes of a data set as JSON: COCO's `categories`, and categories.json."""

import json

from pix2seqd_jax.data.formats.faults import refuse
from pix2seqd_jax.data.formats.files import write_atomically
from pix2seqd_jax.data.formats.storage import read_file
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


def categories_from_json(entries, where='categories', report=refuse):
  """The inverse; class c is entry c - 1, whatever its own id is.

  Raises:
    ValueError: nothing there, a missing key, a value of a wrong kind, or an id
      twice; unless `report` goes on, and then what has an id is returned.
  """
  if not isinstance(entries, list) or not entries:
    refuse(
      'bad_category',
      where,
      f'{where} must be a list of at least one category, such as '
      "{'id': 1, 'name': 'person', 'isthing': 1}.",
    )
  categories, ids = [], set()
  for entry in entries:
    problem = _problem(entry)
    if problem:
      rule, wrong = problem
      report(
        rule,
        where,
        f'{where}: category {short(entry)} {wrong}; a category needs id, name '
        'and isthing (1 for things, 0 for stuff).',
      )
      if not isinstance(entry, dict) or type(entry.get('id')) is not int:
        continue
    if entry['id'] in ids:
      report(
        'duplicate_category',
        where,
        f'{where}: the category id {entry["id"]} stands there twice.',
      )
      continue
    ids.add(entry['id'])
    color = None if problem else entry.get('color')
    categories.append(
      Category(
        entry['id'],
        str(entry.get('name')),
        bool(entry.get('isthing')),
        None if color is None else tuple(color),
      )
    )
  return tuple(categories)


def _problem(entry):
  """(rule, what is wrong) with the entry of a category, or None."""
  if not isinstance(entry, dict):
    return 'bad_category', 'is no object'
  for key in ('id', 'name', 'isthing'):
    if key not in entry:
      rule = 'missing_isthing' if key == 'isthing' else 'bad_category'
      return rule, f'lacks {key!r}'
  if type(entry['id']) is not int:
    return 'bad_category', 'has an id that is no integer'
  if not isinstance(entry['name'], str):
    return 'bad_category', 'has a name that is no text'
  if entry['isthing'] not in (0, 1):
    return 'missing_isthing', 'has an isthing that is neither 0 nor 1'
  color = entry.get('color')
  if color is not None and not (
    isinstance(color, list)
    and len(color) == 3
    and all(type(c) is int and 0 <= c < 256 for c in color)
  ):
    return 'bad_category', 'has a color that is not three numbers of 0 to 255'
  return None


def short(value):
  """A value of a JSON for a message: its first letters."""
  try:
    text = repr(value)
  except RecursionError:
    text = 'a deep nest'
  return text if len(text) < 200 else f'{text[:200]}...'


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
  """A JSON file, also one in an archive.

  Raises:
    ValueError: it is missing, or is no valid JSON.
  """
  data = read_file(path)
  try:
    return json.loads(data)
  except (ValueError, RecursionError) as error:
    refuse('unreadable_json', path, f'{path} is not valid JSON: {error}.')
