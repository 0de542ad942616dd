"""One example as the features of a tf.train.Example, and back.

The names and values are those of TFDS's coco/2017_panoptic, so that its tools
read our shards and we read what it prepared:

  image                     bytes of the image's file
  image/filename            relative, UTF-8
  image/id                  int64
  panoptic_image            bytes of a PNG, id = R + 256 G + 65536 B
  panoptic_image/filename   relative, UTF-8
  panoptic_objects/id       int64, a segment each, as in the PNG; so are
  panoptic_objects/label    class number - 1
  panoptic_objects/is_crowd 0 or 1
  panoptic_objects/area     pixels
  panoptic_objects/bbox     float32, four each: y, x of the top left and of the
                            bottom right corner, in units of the image
  pix2seqd_jax              JSON, ours: `ids` of the segments in the example,
                            `scores` where there are any, `extra` keys
"""

import io
import json

import numpy as np
from PIL import Image
from scipy import ndimage

from pix2seqd_jax.data.formats.decode import decode_image, decode_panoptic_png
from pix2seqd_jax.data.formats.faults import refuse
from pix2seqd_jax.data.formats.files import check_relative
from pix2seqd_jax.encoding.panoptic_ids import id_to_rgb, ranks
from pix2seqd_jax.types import Segment

_OBJECTS = 'panoptic_objects/'
_OURS = 'pix2seqd_jax'
_KNOWN = ('image', 'ids', 'segments', 'index', 'file')


def pack(example, original=None):
  """An example of a reader -> features for `encode_example`.

  Args:
    example: of a `types.Source`; keys beyond the protocol's must be texts or
      numbers.
    original: {'image': bytes of its file, 'map': bytes of a panoptic PNG,
      'map_file': its name}, each optional: kept as they are. What is not given
      becomes a PNG.

  Raises:
    ValueError: the example does not follow the protocol, or cannot be stored.
  """
  original, file = original or {}, example['file']
  ids, segments = example['ids'], example['segments']
  present, counts, pixels = ranks(ids)
  numbers = [s.id for s in segments]
  if sorted(numbers) != [int(i) for i in present if i]:
    raise ValueError(
      f'{file}: its segments {sorted(numbers)[:5]} are not the ids of its map, '
      f'{[int(i) for i in present if i][:5]}; mend the reader.'
    )
  map_bytes = original.get('map')
  if map_bytes is None:
    map_bytes, png_ids = png(id_to_rgb(ids)), numbers
  else:
    # The first pixel of each segment tells its id in the PNG.
    raw = decode_panoptic_png(map_bytes, file)
    first = np.zeros(len(present), np.int64)
    first[pixels.ravel()[::-1]] = np.arange(pixels.size)[::-1]
    where = dict(zip(present.tolist(), raw.ravel()[first].tolist()))
    png_ids = [where[number] for number in numbers]
  image = original.get('image')
  image_id = example.get('image_id')
  is_int = isinstance(image_id, int | np.integer)
  places = np.searchsorted(present, numbers)
  return {
    'image': png(example['image']) if image is None else image,
    'image/filename': file,
    'image/id': [int(image_id if is_int else example['index'])],
    'panoptic_image': map_bytes,
    'panoptic_image/filename': original.get('map_file', f'{file}.png'),
    _OBJECTS + 'id': np.array(png_ids, np.int64),
    _OBJECTS + 'label': np.array([s.class_id - 1 for s in segments], np.int64),
    _OBJECTS + 'is_crowd': np.array([s.is_crowd for s in segments], np.int64),
    _OBJECTS + 'area': counts[places],
    _OBJECTS + 'bbox': _boxes(pixels, places),
    _OURS: json.dumps(_ours(example), sort_keys=True),
  }


def unpack(features, name, index, num_classes, *, exif=True):
  """Features -> the example; of TFDS's, ids are 1..n in the order given.

  Args:
    features: what `decode_example` returned.
    name: of the record, for messages.
    index: of the example.
    num_classes: labels must lie below.
    exif: whether to turn the image as its EXIF orientation says.

  Raises:
    ValueError: naming the record, for a field that is missing or wrong.
  """

  def fail(what, rule='bad_record'):
    refuse(rule, name, f'{name}: {what}')

  file = text(features, 'image/filename', fail)
  check_relative(file, name)
  image = decode_image(
    blob(features, 'image', fail), f'{name} ({file})', exif=exif
  )
  map_file = text(features, 'panoptic_image/filename', fail)
  raw = decode_panoptic_png(
    blob(features, 'panoptic_image', fail), f'{name} ({map_file})'
  )
  if image.shape[:2] != raw.shape:
    fail(
      f'{file} is {image.shape[0]} x {image.shape[1]} but its map is '
      f'{raw.shape[0]} x {raw.shape[1]}; they must be equal (height x width).',
      'sizes_differ',
    )
  known, labels, crowd = _read_objects(features, num_classes, fail)
  ours = _read_ours(features, len(known), fail)
  ids = relabel(raw, known, ours['ids'], fail)
  segments = tuple(
    Segment(number, int(label) + 1, bool(is_crowd), score)
    for number, label, is_crowd, score in zip(
      ours['ids'], labels, crowd, ours['scores']
    )
  )
  if _OURS not in features:
    image_id = numbers_of(features, 'image/id', fail)
    ours['extra'] = {'image_id': int(image_id[0])} if len(image_id) else {}
  return {
    **ours['extra'],
    'image': image,
    'ids': ids,
    'segments': segments,
    'index': index,
    'file': file,
  }


def relabel(raw, known, numbers, fail):
  """The map with numbers[i] where it had known[i]; int32.

  Args:
    raw: int [h, w].
    known: the ids that must be in it, and no others but 0.
    numbers: what to call them.
    fail: called with a message and a rule where one is missing or unknown.
  """
  present, _, pixels = ranks(raw)
  known = np.asarray(known, np.int64)
  if len(np.unique(known)) != len(known) or (known <= 0).any():
    fail('two segments have the same id, or an id is not positive.')
  strange = np.setdiff1d(present[present != 0], known)
  missing = np.setdiff1d(known, present)
  if len(strange):
    fail(
      f'its map has the id {strange[0]}, which no segment has '
      f'({len(strange)} such ids).',
      'id_not_in_json',
    )
  if len(missing):
    fail(
      f'its map has no pixel of the id {missing[0]} ({len(missing)} such ids).',
      'id_not_in_map',
    )
  table = np.zeros(len(present), np.int32)
  table[np.searchsorted(present, known)] = numbers
  return table[pixels]


def text(features, key, fail):
  """The one text of a field."""
  data = blob(features, key, fail)
  try:
    return data.decode()
  except UnicodeDecodeError as error:
    return fail(f'its field {key!r} is no UTF-8: {error}.')


def blob(features, key, fail):
  """The one value of a field of bytes."""
  value = features.get(key)
  if not (
    isinstance(value, list) and len(value) == 1 and type(value[0]) is bytes
  ):
    fail(
      f'its field {key!r} is not one string of bytes. Its fields: '
      f'{", ".join(sorted(features)[:20])}.'
    )
  return value[0]


def numbers_of(features, key, fail):
  """The int64 array of a field, maybe empty."""
  value = features.get(key)
  if isinstance(value, list) and not value and key in features:
    return np.zeros(0, np.int64)
  if not (isinstance(value, np.ndarray) and value.dtype == np.int64):
    fail(f'its field {key!r} is not a list of integers.')
  return value


def png(array):
  """A uint8 array as the bytes of a PNG."""
  buffer = io.BytesIO()
  Image.fromarray(array).save(buffer, 'PNG', compress_level=4)
  return buffer.getvalue()


def _boxes(pixels, places):
  """Corners of each rank in units of the image, float32 [4 n]."""
  h, w = pixels.shape
  found = ndimage.find_objects(pixels + 1)
  boxes = [
    (rows.start / h, columns.start / w, rows.stop / h, columns.stop / w)
    for rows, columns in (found[place] for place in places)
  ]
  return np.array(boxes, np.float32).ravel()


def _ours(example):
  ours = {'ids': [int(s.id) for s in example['segments']], 'extra': {}}
  scores = [s.score for s in example['segments']]
  if any(score is not None for score in scores):
    ours['scores'] = scores
  for key, value in example.items():
    if key in _KNOWN:
      continue
    value = value.item() if isinstance(value, np.generic) else value
    if value is not None and not isinstance(value, str | int | float | bool):
      raise ValueError(
        f'{example["file"]}: the key {key!r} holds a {type(value).__name__}; a '
        'record holds only texts and numbers beside the image and its map.'
      )
    ours['extra'][key] = value
  return ours


def _read_objects(features, num_classes, fail):
  """(ids, labels, flags of crowds) of the segments."""
  known = numbers_of(features, _OBJECTS + 'id', fail)
  labels = numbers_of(features, _OBJECTS + 'label', fail)
  crowd = numbers_of(features, _OBJECTS + 'is_crowd', fail)
  if not len(known) == len(labels) == len(crowd):
    fail(
      f'it has {len(known)} ids, {len(labels)} labels and {len(crowd)} flags '
      'of crowds; a segment needs one of each.'
    )
  if len(labels) and not 0 <= labels.min() <= labels.max() < num_classes:
    fail(f'its labels must lie in 0..{num_classes - 1}.', 'class_out_of_range')
  return known, labels, crowd


def _read_ours(features, count, fail):
  ours = {'ids': list(range(1, count + 1)), 'extra': {}}
  if _OURS in features:
    try:
      ours |= json.loads(blob(features, _OURS, fail))
    except (ValueError, TypeError, RecursionError) as error:
      fail(f'its field {_OURS!r} is not a JSON object: {error}.')
  ours.setdefault('scores', [None] * count)
  ids, scores, extra = ours['ids'], ours['scores'], ours['extra']
  sound = (
    isinstance(ids, list)
    and all(type(i) is int and 0 < i < 1 << 31 for i in ids)
    and len(ids) == count == len(set(ids))
    and isinstance(scores, list)
    and len(scores) == count
    and all(s is None or type(s) in (int, float) for s in scores)
    and isinstance(extra, dict)
  )
  if not sound:
    fail(f'its field {_OURS!r} does not fit its {count} segments.')
  return ours
