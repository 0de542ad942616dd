"""A small data set in COCO panoptic layout, with everything that is allowed."""

import json
import pathlib

import numpy as np
from PIL import Image

CATEGORIES = (
  {'id': 90, 'name': 'thing', 'isthing': 1, 'color': [1, 2, 3]},
  {'id': 4, 'name': 'stuff', 'isthing': 0},
)


def write(folder: pathlib.Path, count: int = 6) -> dict[str, str]:
  """Writes it; the arguments of `CocoPanoptic`.

  JPEG and PNG images, one of them turned by EXIF, names in a folder and
  beyond ASCII, ids above 2^16, void, a crowd, scores, a map of void alone.
  """
  (folder / 'images' / 'ä').mkdir(parents=True)
  (folder / 'maps').mkdir()
  rng = np.random.default_rng(0)
  data = {'images': [], 'annotations': [], 'categories': list(CATEGORIES)}
  for i in range(count):
    h, w = 12 + i, 20 - i
    name = f'ä/{i}.jpg' if i % 2 else f'{i}.png'
    image = Image.fromarray(rng.integers(0, 256, (h, w, 3), np.uint8))
    exif = Image.Exif()
    if i == 1:
      exif[0x0112], image = 6, image.transpose(Image.Transpose.ROTATE_90)
    image.save(folder / 'images' / name, exif=exif)
    names = np.array([0, 7, 70000 + i, 900])
    ids = names[rng.integers(0, 4, (h, w))] * (i != 2)
    colors = np.stack([ids & 255, ids >> 8 & 255, ids >> 16], -1)
    Image.fromarray(colors.astype(np.uint8)).save(folder / f'maps/{i}_map.png')
    infos = [
      {'id': 70000 + i, 'category_id': 90, 'iscrowd': 0, 'score': 0.1},
      {'id': 7, 'category_id': 4, 'iscrowd': 0},
      {'id': 900, 'category_id': 90, 'iscrowd': 1},
    ]
    data['images'].append({'id': 1000 + i, 'file_name': name})
    data['annotations'].append(
      {
        'image_id': 1000 + i,
        'file_name': f'{i}_map.png',
        'segments_info': infos if i != 2 else [],
      }
    )
  (folder / 'panoptic.json').write_text(json.dumps(data))
  return {
    'images': str(folder / 'images'),
    'panoptic': str(folder / 'maps'),
    'annotations': str(folder / 'panoptic.json'),
  }


def assert_same(a, b) -> None:
  """Two sources have equal examples."""
  assert a.categories == b.categories and len(a) == len(b)
  for i in range(len(a)):
    one, other = a[i], b[i]
    assert sorted(one) == sorted(other)
    for key, value in one.items():
      np.testing.assert_array_equal(value, other[key], err_msg=key)
      assert type(value) is type(other[key]), key
    assert one['image'].dtype == other['image'].dtype
    assert one['ids'].dtype == other['ids'].dtype
