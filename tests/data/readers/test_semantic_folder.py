"""Label maps of the public layouts; everything that can be wrong with one."""

import shutil
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from pix2seqd_jax import types
from pix2seqd_jax.data.formats import faults
from pix2seqd_jax.data.readers import layouts, semantic_folder
from pix2seqd_jax.data.validate import check_example, validate
from pix2seqd_jax.registry import DATASETS

# How each layout calls its files, below the folders of one split.
_NAMES = {
  'camvid': ('0001.png', '0001.png'),
  'cityscapes': (
    'aachen/aachen_000000_000019_leftImg8bit.png',
    'aachen/aachen_000000_000019_gtFine_labelIds.png',
  ),
  'cityscapes_train_ids': (
    'aachen/aachen_000000_000019_leftImg8bit.png',
    'aachen/aachen_000000_000019_gtFine_labelTrainIds.png',
  ),
  'coco_stuff': ('000000000009.jpg', '000000000009.png'),
  'coco_stuff_171': ('000000000009.jpg', '000000000009.png'),
  'ade20k': ('ADE_train_00000001.jpg', 'ADE_train_00000001.png'),
  'celeb': ('7.jpg', '7.png'),
}


@pytest.fixture
def folder(tmp_path):
  """folder(names, values, ...) writes images and maps, returns arguments."""

  def write(names, values, size=None):
    values = np.asarray(values, np.uint8)
    size = size or values.shape[::-1]
    for root, name, image in (
      ('images', names[0], Image.new('RGB', size, (9, 9, 9))),
      ('labels', names[1], Image.fromarray(values)),
    ):
      path = tmp_path / root / name
      path.parent.mkdir(parents=True, exist_ok=True)
      image.save(path)
    return {'images': tmp_path / 'images', 'labels': tmp_path / 'labels'}

  return write


@pytest.mark.parametrize('layout', layouts.LAYOUTS)
def test_every_value_of_a_layout(folder, layout):
  """Each number of the files becomes its class, and nothing else passes."""
  table = layouts.LAYOUTS[layout].values
  numbers = np.array(sorted(table), np.uint8)
  args = folder(_NAMES[layout], numbers[None])
  source = semantic_folder.SemanticFolder(**args, layout=layout)
  assert DATASETS['semantic_folder'] is type(source)
  assert isinstance(source, types.Source) and len(source) == 1
  example = source[0]
  assert example['ids'].dtype == np.int32
  assert example['ids'][0].tolist() == [table[n] for n in numbers.tolist()]
  classes = len(source.categories)
  assert [s.class_id for s in example['segments']] == list(
    range(1, classes + 1)
  )
  assert not any(c.is_thing for c in source.categories)
  for number, value in table.items():
    if value:  # a class is called by its number in the files
      assert source.categories[value - 1].id == number
  check_example(example, 0, classes, faults.refuse)
  for wrong in sorted(set(range(256)) - set(table))[:3]:
    folder(_NAMES[layout], [[wrong, numbers[0]]])
    with pytest.raises(ValueError, match=rf'png has the values {wrong}, which'):
      semantic_folder.SemanticFolder(**args, layout=layout)[0]


def test_the_tables_are_those_of_the_data_sets():
  count = {name: len(made.categories) for name, made in layouts.LAYOUTS.items()}
  assert count == {
    'camvid': 11,
    'cityscapes': 19,
    'cityscapes_train_ids': 19,
    'coco_stuff': 171,
    'coco_stuff_171': 171,
    'ade20k': 150,
    'celeb': 19,
  }
  for made in layouts.LAYOUTS.values():
    names = [c.name for c in made.categories]
    assert len(set(names)) == len(names) and all(names)
  # Pixel maps of COCO-Stuff never use these.
  missing = set(range(182)) - set(layouts.LAYOUTS['coco_stuff'].values)
  assert missing == {11, 25, 28, 29, 44, 65, 67, 68, 70, 82, 90}
  by_train_id = layouts.LAYOUTS['cityscapes_train_ids'].categories
  by_label_id = layouts.LAYOUTS['cityscapes'].categories
  assert [c.name for c in by_train_id] == [c.name for c in by_label_id]
  assert sum(label.is_thing for label in layouts.CITYSCAPES) == 8


def test_coco_stuff_is_numbered_as_coco_is(shared):
  """One less than the ids of the panoptic JSON, where a class is in both."""
  from pix2seqd_jax.data.formats.categories import read_json

  path = shared / 'data/coco_mini/annotations/panoptic_full.json'
  theirs = {c['id']: c['name'] for c in read_json(path)['categories']}
  ours = {c.id + 1: c.name for c in layouts.LAYOUTS['coco_stuff'].categories}
  both = set(ours) & set(theirs)
  assert len(both) > 110
  assert {i: ours[i] for i in both} == {i: theirs[i] for i in both}


def test_camvid(shared, tmp_path):
  root = shared / 'data' / 'camvid'
  args = {'images': root / 'images/val', 'labels': root / 'labels/val'}
  source = semantic_folder.SemanticFolder(**args, layout='camvid')
  assert len(source) == 101
  example = source[50]
  label = example['file'].replace('.jpg', '.png')
  raw = np.asarray(Image.open(root / 'labels/val' / label))
  np.testing.assert_array_equal(example['ids'], np.where(raw == 11, 0, raw + 1))
  assert example['image'].shape == (*raw.shape, 3)
  short = {**args, 'layout': 'camvid', 'max_examples': 6}
  assert validate(semantic_folder.SemanticFolder, short).found == []


def test_images_by_a_list_of_names(folder, tmp_path):
  for i in '123':
    args = folder((f'a/{i}_im.png', f'a/{i}_seg.png'), [[int(i)]])
  args |= {'classes': 'wxyz', 'image_ending': '_im.png'}
  args |= {'label_ending': '_seg.png', 'names': tmp_path / 'names.txt'}
  args['names'].write_text('a/3\n\n a/1 \n')
  source = semantic_folder.SemanticFolder(**args)
  assert [e['ids'][0, 0] for e in source] == [4, 2]
  for text in ('a/3\na/4\n', '\n'):
    args['names'].write_text(text)
    with pytest.raises(ValueError, match=r"names\.txt names .* like 'a/1'"):
      semantic_folder.SemanticFolder(**args)
  with pytest.raises(ValueError, match='nowhere cannot be read'):
    semantic_folder.SemanticFolder(**args | {'names': tmp_path / 'nowhere'})


def test_plain_names_its_own_classes(folder):
  args = folder(('a/x_im.png', 'a/x_seg.png'), [[1, 2], [0, 2]])
  source = semantic_folder.SemanticFolder(
    **args,
    classes=('road', 'sky'),
    first=1,
    void=(0,),
    image_ending='_im.png',
    label_ending='_seg.png',
  )
  assert [tuple(c[:2]) for c in source.categories] == [(1, 'road'), (2, 'sky')]
  assert source[0]['ids'].tolist() == [[1, 2], [0, 2]]
  assert source[0]['file'] == 'a/x_im.png'


@pytest.mark.parametrize(
  'kwargs,words',
  [
    ({'layout': 'cityscape'}, "'cityscape' is unknown. Did you mean 'city"),
    ({}, 'needs classes'),
    ({'layout': 'ade20k', 'classes': ('a',)}, 'has its own classes'),
    ({'classes': ('a', 'b'), 'void': (1,)}, r'\[1\] are classes'),
    ({'classes': ('a',), 'first': -1}, '0..65535'),
    ({'layout': 'camvid', 'max_examples': 0}, 'max_examples=0'),
    ({'layout': 'camvid', 'images': '/nowhere'}, 'data.images=/nowhere'),
    ({'layout': 'camvid', 'image_ending': '.gif'}, 'has no images'),
    ({'layout': 'camvid', 'label_ending': '_L.png'}, 'wants 0001_L.png'),
  ],
)
def test_arguments_that_do_not_fit(folder, kwargs, words):
  args = folder(_NAMES['camvid'], [[0, 1]])
  with pytest.raises(ValueError, match=words):
    semantic_folder.SemanticFolder(**{**args, **kwargs})


def _png(depth, rows):
  """A gray PNG of 1, 2 or 4 bits a pixel."""
  lines = b''
  for row in rows:
    bits = ''.join(f'{value:0{depth}b}' for value in row)
    lines += b'\0' + int(bits, 2).to_bytes(len(bits) // 8, 'big')
  chunks = b'\x89PNG\r\n\x1a\n'
  header = struct.pack('>IIBBBBB', len(rows[0]), len(rows), depth, 0, 0, 0, 0)
  for kind, data in (
    (b'IHDR', header),
    (b'IDAT', zlib.compress(lines)),
    (b'IEND', b''),
  ):
    chunks += struct.pack('>I', len(data)) + kind + data
    chunks += struct.pack('>I', zlib.crc32(kind + data))
  return chunks


@pytest.mark.parametrize('depth', [1, 2, 4])
def test_maps_of_few_bits_hold_numbers_not_grays(folder, depth):
  args = folder(_NAMES['camvid'], [[0] * 8])
  values = [i % min(1 << depth, 11) for i in range(8)]
  (args['labels'] / '0001.png').write_bytes(_png(depth, [values]))
  source = semantic_folder.SemanticFolder(**args, layout='camvid')
  assert source[0]['ids'][0].tolist() == [v + 1 for v in values]


@pytest.mark.parametrize('mode', ['P', 'I;16'])
def test_maps_of_other_modes(folder, mode):
  args = folder(_NAMES['camvid'], [[0, 3]])
  values = np.array([[3, 10]], np.uint16 if mode == 'I;16' else np.uint8)
  image = Image.fromarray(values)
  if mode == 'P':
    image.putpalette(bytes(range(256)) * 3)
  image.save(args['labels'] / '0001.png')
  source = semantic_folder.SemanticFolder(**args, layout='camvid')
  assert source[0]['ids'].tolist() == [[4, 11]]


def test_faults_one_by_one(folder):
  args = {**folder(_NAMES['camvid'], [[0, 1]]), 'layout': 'camvid'}
  for i in range(2, 9):
    folder((f'000{i}.png', f'000{i}.png'), [[0, 1]])
  images, labels = args['images'], args['labels']
  assert validate(semantic_folder.SemanticFolder, args).found == []
  Image.new('RGB', (2, 1)).save(labels / '0002.png')
  (labels / '0003.png').unlink()
  (images / '0004.png').write_bytes(b'')
  Image.new('RGB', (1, 2)).save(images / '0005.png')
  Image.new('L', (2, 1), 77).save(labels / '0006.png')
  Image.new('L', (2, 1)).save(labels / '0007.png', 'JPEG')
  (images / '0008.png').unlink()
  result = validate(semantic_folder.SemanticFolder, args)
  assert {(f.rule, f.file[-8:]) for f in result.faults} == {
    ('unreadable_map', '0002.png'),
    ('no_label', '0003.png'),
    ('empty_file', '0004.png'),
    ('sizes_differ', '0005.png'),
    ('class_out_of_range', '0006.png'),
    ('unreadable_map', '0007.png'),
  }
  assert [f.rule for f in result.found if f.is_warning] == ['no_image']
  source = semantic_folder.SemanticFolder(**args)
  broken = []
  for index in range(len(source)):
    try:
      source[index]
    except ValueError as error:
      broken.append(index)
      assert f'000{index + 1}.png' in str(error)
  assert broken == [1, 2, 3, 4, 5, 6]


def test_archives_and_folders_give_the_same(folder, tmp_path):
  args = folder(_NAMES['cityscapes'], [[7, 33], [0, 26]])
  path = shutil.make_archive(tmp_path / 'both', 'zip', tmp_path)
  packed = {key: f'{path}/{key}' for key in ('images', 'labels')}
  ours, theirs = (
    semantic_folder.SemanticFolder(**a, layout='cityscapes')
    for a in (args, packed)
  )
  for key, value in ours[0].items():
    np.testing.assert_array_equal(value, theirs[0][key])
