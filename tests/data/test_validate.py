"""Every rule is found where it is broken, and nothing elsewhere."""

import copy
import random

import numpy as np
import pytest
from panoptic_layout import Layout, save_map
from PIL import Image

from pix2seqd_jax import types
from pix2seqd_jax.data.formats import faults
from pix2seqd_jax.data.readers import coco_panoptic, shapes
from pix2seqd_jax.data.validate import describe, validate


class _Layout(Layout):
  def validate(self, text=None):
    self.write(text)
    return validate(coco_panoptic.CocoPanoptic, self.args, num_threads=2)


@pytest.fixture
def layout(tmp_path):
  return _Layout(tmp_path)


def test_a_sound_data_set_has_no_fault(layout):
  result = layout.validate()
  assert result.found == [] and result.num_examples == 4
  assert result.by_rule() == {}


# What is wrong -> (the JSON, its first annotation, its first segment) changed.
_JSON = {
  'bad_category': lambda d, a, s: d['categories'][0].update(id='x'),
  'missing_isthing': lambda d, a, s: d['categories'][0].pop('isthing'),
  'duplicate_category': lambda d, a, s: d['categories'].append(
    dict(d['categories'][0])
  ),
  'unknown_category': lambda d, a, s: s.update(category_id=5),
  'unsafe_name': lambda d, a, s: d['images'][3].update(file_name='../3.jpg'),
  'duplicate_image': lambda d, a, s: d['images'].append(dict(d['images'][0])),
  'duplicate_annotation': lambda d, a, s: d['annotations'].append(dict(a)),
  'duplicate_segment': lambda d, a, s: a['segments_info'].append(dict(s)),
  'unknown_image': lambda d, a, s: d['annotations'].append(
    {**a, 'image_id': 77}
  ),
  'bad_segment_id': lambda d, a, s: a['segments_info'].append({**s, 'id': -1}),
  'bad_entry': lambda d, a, s: d['annotations'].append('nonsense'),
  'size_in_json': lambda d, a, s: d['images'][0].update(height=9),
  'id_not_in_map': lambda d, a, s: a['segments_info'].append(
    {**s, 'id': 5, 'area': 0}
  ),
  'id_not_in_json': lambda d, a, s: a['segments_info'].pop(),
  'overlap': lambda d, a, s: s.update(area=20),
}
# What else follows from it.
_FOLLOWS = {
  'bad_category': {'unknown_category'},
  'unsafe_name': {'unsafe_name'},
}


@pytest.mark.parametrize('rule', _JSON)
def test_each_rule_of_the_json(layout, rule):
  annotation = layout.data['annotations'][0]
  _JSON[rule](layout.data, annotation, annotation['segments_info'][0])
  result = layout.validate()
  rules = {fault.rule for fault in result.faults}
  assert rule in rules and rules <= {rule} | _FOLLOWS.get(rule, set())
  assert all(describe(fault.rule) for fault in result.found)
  # What the validator calls a fault the reader refuses, unless it is about
  # what no reader uses.
  source = None
  try:
    source = coco_panoptic.CocoPanoptic(**layout.args)
    for index in range(len(source)):
      source[index]
  except ValueError:
    assert rule not in ('size_in_json', 'overlap')
  else:
    assert rule in ('size_in_json', 'overlap')


def test_each_rule_of_the_files(layout):
  layout = _Layout(layout.root / 'more', count=9)
  images, maps = layout.root / 'i', layout.root / 'p'
  (images / '0.jpg').unlink()
  (images / '1.jpg').write_bytes(b'')
  data = (images / '2.jpg').read_bytes()
  (images / '2.jpg').write_bytes(data[: len(data) // 2])
  Image.new('RGB', (5, 8)).save(images / '3.jpg')
  Image.new('L', (4, 8)).save(maps / '4.png')
  save_map(maps / '5.png', np.full((8, 4), 7))
  save_map(maps / '6.png', np.array([[7, 900, 70000, 3]]).repeat(8, 0))
  # Two files of one example: both are told.
  (images / '7.jpg').write_text('no image')
  (maps / '7.png').unlink()
  result = layout.validate()
  assert {(f.rule, f.file.rpartition('more')[2]) for f in result.faults} == {
    ('missing_file', '/i/0.jpg'),
    ('empty_file', '/i/1.jpg'),
    ('unreadable_image', '/i/2.jpg'),
    ('sizes_differ', '/i/3.jpg'),
    ('unreadable_map', '/p/4.png'),
    ('id_not_in_map', '/p/5.png'),
    ('id_not_in_json', '/p/6.png'),
    ('unreadable_image', '/i/7.jpg'),
    ('missing_file', '/p/7.png'),
  }
  assert result.by_rule()['missing_file'] == 2


def test_warnings_are_no_faults(layout):
  layout.data['annotations'].pop()
  layout.data['annotations'][0]['segments_info'][0]['area'] = 11
  result = layout.validate()
  assert result.faults == []
  assert set(result.by_rule(warnings=True)) == {'no_label', 'area_in_json'}


@pytest.mark.parametrize(
  'text',
  [
    '',
    '{',
    '[]',
    '3',
    'null',
    '{"images": 3}',
    '{"images": [], "annotations": [], "categories": []}',
    '[' * 100_000,
    '\ufeff{}',
    '{"images": [{}], "annotations": [[]], "categories": [null]}',
    '1' * 10_000,
  ],
)
def test_any_text_is_survived(layout, text):
  result = layout.validate(text)
  assert result.faults and result.num_examples == 0
  assert all('a.json' in fault.file for fault in result.faults)


_JUNK = (None, True, -1, 0, 1 << 70, 1.5, float('nan'), '', '\ud800', '../x')
_JUNK += ([], {}, [[]], {'id': 7}, 'a' * 5000)


def _places(node, found):
  """Every (container, key) below a node."""
  items = node.items() if isinstance(node, dict) else enumerate(node)
  for key, value in items:
    found.append((node, key))
    if isinstance(value, dict | list):
      _places(value, found)
  return found


def test_any_value_at_any_place_is_survived(layout):
  """A fault or nothing, never an error of another kind; in the reader too."""
  rng, whole, silent = random.Random(0), layout.data, 0
  for _ in range(150):
    layout.data = copy.deepcopy(whole)
    node, key = rng.choice(_places(layout.data, []))
    node[key] = rng.choice(_JUNK)
    result = layout.validate()
    for fault in result.found:
      assert 'Error: ' not in fault.message, fault
    try:
      source = coco_panoptic.CocoPanoptic(**layout.args)
      for index in range(len(source)):
        source[index]
    except ValueError:
      assert result.faults
    silent += not result.faults
  assert silent < 75


class _Broken(shapes.Shapes):
  """A reader without `check`, some of whose examples break a law."""

  def __getitem__(self, index):
    example = super().__getitem__(index)
    if index == 1:
      raise OSError('the disk is gone')
    if index == 2:
      example['ids'] = example['ids'].astype(np.int64)
    if index == 3:
      example['segments'] = example['segments'][1:]
    if index == 4:
      example['segments'] += (types.Segment(4000, 99),)
    if index == 5:
      del example['file']
    return example


def test_any_reader_is_held_against_the_laws():
  args = {'num_examples': 8, 'size': (32, 32)}
  assert validate(shapes.Shapes, args).found == []
  result = validate(_Broken, args)
  assert [f.rule for f in result.faults] == [
    'bad_example',
    'bad_example',
    'bad_example',
    'id_not_in_json',
    'id_not_in_map',
    'unknown_category',
  ]
  assert 'the disk is gone' in str(result.faults)
  assert validate(shapes.Shapes, {'size': 'x'}).by_rule() == {'bad_argument': 1}


def test_progress_counts_every_example(layout):
  layout.write()
  seen = []
  validate(
    coco_panoptic.CocoPanoptic,
    layout.args,
    progress=lambda *counts: seen.append(counts),
  )
  assert seen == [(i, 4) for i in range(1, 5)]


def test_faults_are_collected_once_and_in_order():
  found = faults.Faults()
  for _ in range(2):
    found.warn('b', 'f', 'warned')
    found('z', 'f', 'one')
    found('a', 'f', 'two')
  assert [f.message for f in found.all()] == ['two', 'one', 'warned']
  assert found.catch(int, 'x', rule='r', file='f') is None
  assert found.catch(int, '3', rule='r', file='f') == 3
  with pytest.raises(ValueError, match=r'^text$') as caught:
    faults.refuse('rule', 'file', 'text')
  assert caught.value.fault == faults.Fault('rule', 'file', 'text')
