"""Painted label maps go through transforms as images do."""

import numpy as np
import pytest

from pix2seqd_jax.data.readers import shapes
from pix2seqd_jax.data.transforms import painting, resize, transforms
from pix2seqd_jax.encoding.anchors import Anchors
from pix2seqd_jax.types import Segment

COUNT = 7
THINGS = ('circle', 'square', 'triangle', 'star')
PAINT = ('paint', {'num_classes': COUNT})


def scene(size=(48, 60)):
  return shapes.Shapes(size=size, things=THINGS)[0]


def apply(example, *pairs, seed=0):
  built = transforms.build_transforms(pairs)
  return built(example, np.random.default_rng(seed))


def semantic(example):
  size = example['ids'].shape
  labels = ('labels', {'size': size, 'num_ids': 16})
  return apply(example, labels)['semantic']


def test_without_a_resize_it_is_the_painted_map():
  pairs = (
    ('random_flip', {'chance': 1.0}),
    ('square_crop', {}),
  )
  made = apply(scene(), *pairs[:1], PAINT, pairs[1], ('pad', {'size': 64}))
  h, w = made['unpadded']
  colors = Anchors(COUNT).paint(semantic(made))
  np.testing.assert_array_equal(made['colors'], colors)
  assert (made['colors'][h:] == 255).all() and (made['ids'][h:] == 0).all()
  assert made['colors'].dtype == np.uint8
  before = apply(scene(), PAINT, *pairs)
  np.testing.assert_array_equal(before['colors'], made['colors'][:h, :w])


def test_a_resize_is_bilinear():
  """Colours of no class are what the release trains on."""
  fit = ('resize_to_fit', {'size': 24, 'stretch': True, 'method': 'bicubic'})
  whole = apply(scene(), PAINT)['colors']
  made = apply(scene(), PAINT, fit)['colors']
  np.testing.assert_array_equal(made, resize.resize_image(whole, (24, 24)))
  known = {tuple(c) for c in Anchors(COUNT).colors.tolist()}
  assert {tuple(c) for c in made.reshape(-1, 3).tolist()} - known


def test_a_crowd_is_void():
  example = {
    'image': np.zeros((1, 2, 3), np.uint8),
    'ids': np.array([[4, 9]], np.int32),
    'segments': (Segment(4, 2), Segment(9, 1, is_crowd=True)),
  }
  made = apply(example, PAINT)['colors'].tolist()
  assert made == [[[0, 0, 50], [255, 255, 255]]]


def test_more_classes_than_colours():
  with pytest.raises(ValueError, match='num_classes=9 must be 1 to 8'):
    painting.Paint(9, levels=2)
  with pytest.raises(ValueError, match='must be below 255'):
    painting.Paint(9, spacing=51)


@pytest.mark.parametrize(
  'later',
  [('drop_small', {'min_pixels': 3}), ('random_flip', {'swap': ((1, 2),)})],
)
def test_classes_do_not_change_behind_the_brush(later):
  with pytest.raises(ValueError, match="'paint' makes colours of classes"):
    transforms.build_transforms((PAINT, later))
  transforms.build_transforms((later, PAINT))


@pytest.mark.parametrize('size', [(48, 60), (60, 48), (50, 50)])
def test_a_square_crop(size):
  """The shorter side whole, any offset along the longer."""
  place = np.arange(size[0] * size[1], dtype=np.int32).reshape(size)
  example = {'image': np.repeat(place[..., None], 3, -1), 'ids': place}
  side, seen = min(size), set()
  for seed in range(60):
    made = apply(example, ('square_crop', {}), seed=seed)
    assert made['ids'].shape == (side, side)
    np.testing.assert_array_equal(made['image'][..., 0], made['ids'])
    top, left = divmod(int(made['ids'][0, 0]), size[1])
    part = np.s_[top : top + side, left : left + side]
    np.testing.assert_array_equal(made['ids'], place[part])
    seen.add(max(top, left))
    assert min(top, left) == 0
  assert min(seen) == 0 and max(seen) == max(size) - side
