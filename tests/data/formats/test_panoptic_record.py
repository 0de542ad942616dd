"""Examples as features: the inverse, TFDS's names, what is refused."""

import json

import numpy as np
import pytest

from pix2seqd_jax.data.formats import panoptic_record
from pix2seqd_jax.data.formats.decode import decode_panoptic_png
from pix2seqd_jax.data.formats.tf_example import decode_example, encode_example
from pix2seqd_jax.types import Segment

_IDS = np.array([[5, 5, 0, 300], [5, 2, 2, 300]], np.int32)
_EXAMPLE = {
  'image': np.arange(24, dtype=np.uint8).reshape(2, 4, 3),
  'ids': _IDS,
  'segments': (
    Segment(300, 2, True),
    Segment(5, 1, False, 0.1),
    Segment(2, 2),
  ),
  'index': 3,
  'file': 'a/b.jpg',
  'image_id': 'nine',
  'caption': 'a größe',
  'frame': np.int64(4),
}


def _features(**changes):
  features = decode_example(encode_example(panoptic_record.pack(_EXAMPLE)))
  features |= changes
  return {k: v for k, v in features.items() if v is not None}


def test_unpacking_is_the_inverse():
  found = panoptic_record.unpack(_features(), 'r', 3, 2)
  assert sorted(found) == sorted(_EXAMPLE)
  for key, value in _EXAMPLE.items():
    np.testing.assert_array_equal(found[key], value)
  assert found['segments'][1].score == 0.1  # float64, not float32


def test_names_and_units_are_those_of_tfds():
  features = _features()
  assert features['image/id'].tolist() == [3]  # of no number: the position
  objects = {
    key.removeprefix('panoptic_objects/'): value.tolist()
    for key, value in features.items()
    if key.startswith('panoptic_objects/')
  }
  assert objects == {
    'id': [300, 5, 2],
    'label': [1, 0, 1],
    'is_crowd': [1, 0, 0],
    'area': [2, 3, 2],
    'bbox': [0, 0.75, 1, 1, 0, 0, 1, 0.5, 0.5, 0.25, 1, 0.75],
  }
  (data,) = features['panoptic_image']
  np.testing.assert_array_equal(decode_panoptic_png(data, 'a'), _IDS)


def test_without_our_field_ids_are_numbered_in_order():
  found = panoptic_record.unpack(_features(pix2seqd_jax=None), 'r', 8, 2)
  assert found['segments'] == (
    Segment(1, 2, True),
    Segment(2, 1),
    Segment(3, 2),
  )
  np.testing.assert_array_equal(found['ids'], [[2, 2, 0, 1], [2, 3, 3, 1]])
  assert found['image_id'] == 3 and found['index'] == 8


_PNG = panoptic_record.png(np.zeros((3, 4, 3), np.uint8))
_OURS = {'ids': [1, 2, 3], 'extra': {}}


@pytest.mark.parametrize(
  'key,value,words',
  [
    ('image', None, "'image' is not one string of bytes"),
    ('image', np.array([3]), "'image' is not one string of bytes"),
    ('image', [b'a', b'b'], "'image' is not one string of bytes"),
    ('image', [b'no image'], r'a/b\.jpg.*not an image'),
    ('image', [b''], r'a/b\.jpg.*zero bytes'),
    ('image/filename', [b'\xff'], 'no UTF-8'),
    ('image/filename', [b'../x'], 'climbs out'),
    ('panoptic_image', [_PNG], '2 x 4 but its map is 3 x 4'),
    ('panoptic_objects/id', [b'a'], 'not a list of integers'),
    ('panoptic_objects/id', [], '0 ids, 3 labels'),
    ('panoptic_objects/id', np.array([5, 5, 2]), 'same id'),
    ('panoptic_objects/id', np.array([0, 5, 2]), 'not positive'),
    ('panoptic_objects/id', np.array([300, 5, 9]), 'has the id 2'),
    ('panoptic_objects/label', np.array([0, 1, 2]), r'must lie in 0\.\.1'),
    ('panoptic_objects/label', np.array([0, 1, -1]), r'must lie in 0\.\.1'),
    ('panoptic_objects/is_crowd', np.array([0, 1]), '2 flags'),
    ('pix2seqd_jax', [b'{'], 'not a JSON object'),
    ('pix2seqd_jax', [b'[1]'], 'not a JSON object'),
    ('pix2seqd_jax', [b'[' * 100_000], 'not a JSON object'),
    ('pix2seqd_jax', _OURS | {'ids': [1, 2]}, 'does not fit'),
    ('pix2seqd_jax', _OURS | {'ids': [1, 1, 2]}, 'does not fit'),
    ('pix2seqd_jax', _OURS | {'ids': [1, '2', [3]]}, 'does not fit'),
    ('pix2seqd_jax', _OURS | {'scores': [1]}, 'does not fit'),
    ('pix2seqd_jax', _OURS | {'extra': 3}, 'does not fit'),
  ],
)
def test_a_malformed_record_is_a_value_error_that_names_it(key, value, words):
  if isinstance(value, dict):
    value = [json.dumps(value).encode()]
  with pytest.raises(ValueError, match=words) as caught:
    panoptic_record.unpack(_features(**{key: value}), 'shard 1, 2', 3, 2)
  assert 'shard 1, 2' in str(caught.value)


def test_what_cannot_be_stored_is_refused():
  with pytest.raises(ValueError, match="key 'past' holds a ndarray"):
    panoptic_record.pack(_EXAMPLE | {'past': _IDS})
  with pytest.raises(ValueError, match='not the ids of its map'):
    panoptic_record.pack(_EXAMPLE | {'segments': (Segment(5, 1),)})
  with pytest.raises(ValueError, match=r'24 bits|2\^24'):
    panoptic_record.pack(
      _EXAMPLE
      | {'ids': np.full((2, 4), 1 << 24), 'segments': (Segment(1 << 24, 1),)}
    )


def test_extra_keys_cannot_replace_the_arrays():
  ours = json.dumps(_OURS | {'extra': {'image': 3, 'ids': 4}}).encode()
  found = panoptic_record.unpack(_features(pix2seqd_jax=[ours]), 'r', 3, 2)
  np.testing.assert_array_equal(found['image'], _EXAMPLE['image'])
