"""A small sound data set in COCO panoptic layout, to be damaged."""

import json

import numpy as np
from PIL import Image


def save_map(path, ids):
  colors = np.stack([ids & 255, ids >> 8 & 255, ids >> 16], -1)
  Image.fromarray(colors.astype(np.uint8)).save(path)


class Layout:
  """A sound data set of `count` images; `.data` is its JSON."""

  def __init__(self, root, count=4):
    self.root, rng = root, np.random.default_rng(0)
    (root / 'i').mkdir(parents=True)
    (root / 'p').mkdir()
    self.data = {
      'images': [],
      'annotations': [],
      'categories': [
        {'id': 90, 'name': 'thing', 'isthing': 1},
        {'id': 4, 'name': 'stuff', 'isthing': 0},
      ],
    }
    for i in range(count):
      ids = np.array([[7, 7, 0, 900], [7, 70000, 70000, 900]]).repeat(4, 0)
      noise = rng.integers(0, 256, (*ids.shape, 3), np.uint8)
      Image.fromarray(noise).save(root / f'i/{i}.jpg')
      save_map(root / f'p/{i}.png', ids)
      self.data['images'].append(
        {'id': i, 'file_name': f'{i}.jpg', 'height': 8, 'width': 4}
      )
      self.data['annotations'].append(
        {
          'image_id': i,
          'file_name': f'{i}.png',
          'segments_info': [
            {'id': 7, 'category_id': 4, 'area': 12},
            {'id': 70000, 'category_id': 90, 'area': 8},
            {'id': 900, 'category_id': 90, 'iscrowd': 1, 'area': 8},
          ],
        }
      )

  @property
  def args(self):
    return {
      'images': self.root / 'i',
      'panoptic': self.root / 'p',
      'annotations': self.root / 'a.json',
    }

  def write(self, text=None):
    text = json.dumps(self.data) if text is None else text
    (self.root / 'a.json').write_text(text)
