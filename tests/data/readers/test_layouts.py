"""Tables of classes against those of SemFlow's release."""

import json

import numpy as np
import pytest

from configs import semflow_celeb
from pix2seqd_jax.data.readers import layouts

RELEASE = 'oracles/semflow'


@pytest.mark.parametrize(
  ('name', 'theirs'),
  [
    ('coco_stuff', 'cocostuff'),
    ('coco_stuff_171', 'cocostuff'),
    ('cityscapes_train_ids', 'cityscapes'),
    ('celeb', 'celeb'),
  ],
)
def test_names_and_numbers_are_the_release_s(shared, name, theirs):
  folder = shared / RELEASE
  names = json.loads((folder / 'meta.json').read_text())[f'{theirs}_classes']
  found = layouts.LAYOUTS[name]
  assert [c.name for c in found.categories] == names
  oracle = np.load(folder / 'pseudo_mask.npz')
  # Their labels count from 0, and void is 255.
  labels = {n: c - 1 if c else 255 for n, c in found.values.items()}
  if name == 'coco_stuff':
    raw, expected = oracle['cocostuff/raw_ids'], oracle['cocostuff/mapped_ids']
    assert labels == dict(zip(raw.tolist(), expected.tolist(), strict=True))
  else:
    ids = oracle[f'{theirs}/ids'].tolist()
    assert labels == dict(zip(ids, ids, strict=True))


def test_left_and_right_of_a_face():
  names = [c.name for c in layouts.LAYOUTS['celeb'].categories]
  pairs = [(names[a - 1], names[b - 1]) for a, b in semflow_celeb.SWAP]
  assert pairs == [
    ('l_eye', 'r_eye'),
    ('l_brow', 'r_brow'),
    ('l_ear', 'r_ear'),
  ]
