"""Laws of the transforms, and the original's numbers."""

import numpy as np
import parity
import pytest

from pix2seqd_jax.data.readers import shapes
from pix2seqd_jax.data.transforms import color, resize, transforms
from pix2seqd_jax.encoding.panoptic_ids import resize_nearest

PURE = 'pix2seq/pure'


class Draws:
  """A generator that hands out the numbers that the original drew."""

  def __init__(self, *numbers):
    self.numbers = list(numbers)

  def random(self):
    return self.numbers.pop(0)


def _oracle(shared, name):
  path = shared / 'oracles' / PURE / f'{name}.npz'
  return dict(np.load(path, allow_pickle=False))


def _scene(index=0, size=(48, 60)):
  return shapes.Shapes(size=size)[index]


def _apply(example, *pairs, seed=0):
  built = transforms.build_transforms(pairs)
  return built(example, np.random.default_rng(seed))


# --- laws ---


def test_a_flip_keeps_image_and_ids_together():
  example = _scene()
  flip = ('random_flip', {'chance': 1.0})
  once = _apply(example, flip)
  np.testing.assert_array_equal(once['image'], example['image'][:, ::-1])
  np.testing.assert_array_equal(once['ids'], example['ids'][:, ::-1])
  twice = _apply(once, flip)
  np.testing.assert_array_equal(twice['image'], example['image'])
  never = _apply(example, ('random_flip', {'chance': 0.0}))
  assert never['image'] is example['image']


@pytest.mark.parametrize('independent', [False, True])
def test_a_crop_is_a_window_of_both(independent):
  h, w = 48, 60
  place = np.arange(h * w, dtype=np.int32).reshape(h, w)
  example = {'image': np.repeat(place[..., None], 3, -1), 'ids': place}
  seen = set()
  for seed in range(40):
    crop = {'size': (40, 40), 'independent': independent}
    made = _apply(example, ('fixed_size_crop', crop), seed=seed)
    assert made['ids'].shape == (40, 40)
    np.testing.assert_array_equal(made['image'][..., 0], made['ids'])
    top, left = divmod(int(made['ids'][0, 0]), w)
    np.testing.assert_array_equal(
      made['ids'], place[top : top + 40, left : left + 40]
    )
    seen.add((top, left))
  on_the_diagonal = all(abs(top / 8 - left / 20) < 0.2 for top, left in seen)
  assert on_the_diagonal == (not independent)


def test_a_crop_of_a_smaller_image_is_the_image():
  example = _scene()
  made = _apply(example, ('fixed_size_crop', {'size': (100, 100)}))
  np.testing.assert_array_equal(made['image'], example['image'])


def test_padding_says_what_is_valid():
  example = _scene()
  made = _apply(example, ('pad', {'size': (64, 64), 'fill': 77}))
  assert made['unpadded'] == (48, 60)
  assert made['valid'].sum() == 48 * 60 and made['valid'][:48, :60].all()
  assert (made['image'][~made['valid']] == 77).all()
  assert not made['ids'][~made['valid']].any()
  np.testing.assert_array_equal(made['image'][:48, :60], example['image'])


@pytest.mark.parametrize('strength', [0.3, 1.0])
@pytest.mark.parametrize('dtype', ['uint8', 'float32'])
def test_color_jitter_keeps_type_range_and_ids(strength, dtype):
  example = _scene()
  if dtype == 'float32':
    example['image'] = (example['image'] / 255).astype(np.float32)
  jitter = ('color_jitter', {'strength': strength})
  made = [_apply(example, jitter, seed=seed) for seed in range(12)]
  for one in made:
    assert one['image'].dtype == dtype and one['ids'] is example['ids']
    assert one['image'].min() >= 0
    assert dtype == 'uint8' or one['image'].max() <= 1
  changed = [(m['image'] != example['image']).any() for m in made]
  assert any(changed)
  same = _apply(example, ('color_jitter', {'strength': 0.0}))
  assert same['image'] is example['image']


def test_color_operations_at_their_neutral_value_change_nothing():
  image = np.random.default_rng(0).random((9, 7, 3), np.float32)
  for operation, neutral in (
    (color.brightness, 1),
    (color.contrast, 1),
    (color.saturation, 1),
    (color.hue, 0),
    (color.hue, 1),
  ):
    np.testing.assert_allclose(operation(image, neutral), image, atol=1e-6)
  grays = np.repeat(image[..., :1], 3, -1)
  np.testing.assert_allclose(color.gray(grays), grays, atol=1e-4)
  np.testing.assert_allclose(color.hue(grays, 0.4), grays, atol=1e-6)


def test_scale_one_and_fit_stay_within_the_target():
  for index in range(5):
    example = _scene(index)
    made = _apply(example, ('scale_jitter', {'size': (32, 32)}))
    assert max(made['ids'].shape) in (31, 32)
    assert made['image'].shape[:2] == made['ids'].shape
    made = _apply(example, ('resize_to_fit', {'size': (32, 32)}))
    assert made['ids'].shape == (26, 32)
    assert set(np.unique(made['ids'])) <= set(np.unique(example['ids']))


def test_very_long_images_keep_a_pixel():
  assert resize.size_that_fits((2000, 3), (64, 64)) == (64, 1)
  assert resize.jittered_size((3, 2000), (64, 64), 1.0) == (1, 64)


@pytest.mark.parametrize(
  'pairs,words',
  [
    ((('random_flop', {}),), "'random_flop'.*mean 'random_flip'"),
    ((('random_flip', {'chanse': 0.1}),), "'chanse'.*mean 'chance'"),
    ((('random_flip', {'chance': 2}),), r'chance=2 must lie in \[0, 1\]'),
    ((('scale_jitter', {'size': 8, 'scale': (2, 1)}),), r'scale=\(2, 1\)'),
    ((('scale_jitter', {'size': 8, 'method': 'x'}),), "method='x'"),
    ((('scale_jitter', {}),), "scale_jitter needs 'size'"),
    ((('pad', {'size': (0, 4)}),), 'size'),
    ((('color_jitter', {'strength': -1}),), 'strength=-1'),
    ((('color_jitter', {'where': 'moon'}),), "where='moon'"),
    (
      (
        ('color_jitter', {'where': 'device'}),
        ('fixed_size_crop', {'size': 8}),
      ),
      'done last',
    ),
    (('random_flip',), r'no \(name, kwargs\) pair'),
    ((('labels', {'size': 8, 'num_ids': 4, 'counts': {}}),), 'counts'),
  ],
)
def test_bad_configs(pairs, words):
  with pytest.raises(ValueError, match=words):
    transforms.build_transforms(pairs)


def test_padding_a_image_that_is_too_large_names_the_file():
  with pytest.raises(ValueError, match=r'shapes_train_000000.png.*48 x 60'):
    _apply(_scene(), ('pad', {'size': 32}))


# --- the original's numbers ---


def test_resizes_are_the_originals(shared):
  oracle = _oracle(shared, 'resize_ops')
  image, label = oracle['image'], oracle['label']
  for key, theirs in oracle.items():
    method, *rest = key.split('_')
    if method not in ('bilinear', 'bicubic', 'nearest'):
      continue
    size = tuple(int(n) for n in rest[-1].split('x'))
    # aa0: without anti-aliasing, which panoptic segmentation never uses.
    if rest[0] == 'aa1':
      ours = resize.resize_image(image, size, method)
      parity.check(f'{PURE}/resize_ops.npz', key, ours, theirs, bound=5e-6)
    if rest[0] == 'aa1' and method == 'bilinear':
      pixels = (image * 255 + 0.5).astype(np.uint8)
      ours = resize.resize_image(pixels, size)
      assert np.abs(ours - 255 * theirs).max() <= 1.5
    if method == 'nearest':
      ours = resize_nearest(label, size)
      parity.check(f'{PURE}/resize_ops.npz', key, ours, theirs, bound=0.0)


def test_sizes_are_the_originals(shared):
  oracle = _oracle(shared, 'resize_sizes')
  for rule, key in (
    (resize.size_that_fits, 'eval_size'),
    (lambda s, t: resize.jittered_size(s, t, 1.0), 'train_size_scale1'),
  ):
    ours = [
      [rule(size, target) for size in oracle['in_sizes']]
      for target in oracle['targets']
    ]
    parity.check(f'{PURE}/resize_sizes.npz', key, ours, oracle[key], bound=0.0)


def test_color_operations_are_the_originals(shared):
  oracle = _oracle(shared, 'color_ops')
  for key, theirs in oracle.items():
    name, *amount = key.split('_')
    if name == 'image':
      continue
    ours = getattr(color, name)(oracle['image'], *map(float, amount))
    # The original clips each to [0, 1] as part of the jitter.
    ours = np.clip(ours, 0, 1)
    parity.check(f'{PURE}/color_ops.npz', key, ours, theirs, bound=3e-6)


@pytest.mark.parametrize('case', range(5))
@pytest.mark.parametrize('shape', ['sq', 'rect'])
def test_training_transforms_are_the_originals(shared, case, shape):
  oracle = _oracle(shared, 'transforms_train_image')
  size, mask = {
    'sq': ((64, 64), (32, 32)),
    'rect': ((64, 96), (32, 48)),
  }[shape]
  scale = tuple(float(s) for s in oracle[f'{case}_scale_range'])
  built = transforms.build_transforms(
    (
      ('scale_jitter', {'size': size, 'scale': scale}),
      ('fixed_size_crop', {'size': size}),
      ('random_flip', {}),
      ('color_jitter', {'strength': 0.0}),
      ('pad', {'size': size, 'fill': 0.3}),
    )
  )
  draws = oracle[f'{case}_u']
  for channel in (0, 1):
    example = {
      'image': oracle[f'{case}_image'],
      'ids': oracle[f'{case}_label'][..., channel].astype(np.int32),
    }
    made = built(example, Draws(*draws))
    label = resize_nearest(made['ids'], mask)
    np.testing.assert_array_equal(
      label, oracle[f'{case}_{shape}_label'][..., channel]
    )
  assert made['unpadded'] == tuple(oracle[f'{case}_{shape}_unpadded'])
  parity.check(
    f'{PURE}/transforms_train_image.npz',
    f'{case}_{shape}_image',
    made['image'],
    oracle[f'{case}_{shape}_image'],
    bound=5e-6,
  )


@pytest.mark.parametrize('case', range(6))
@pytest.mark.parametrize('shape', ['sq', 'rect'])
def test_evaluation_transforms_are_the_originals(shared, case, shape):
  oracle = _oracle(shared, 'transforms_eval_image')
  size = {'sq': (64, 64), 'rect': (64, 96)}[shape]
  for channel in (0, 1):
    example = {
      'image': oracle[f'{case}_image'],
      'ids': oracle[f'{case}_label'][..., channel].astype(np.int32),
    }
    made = _apply(
      example,
      ('resize_to_fit', {'size': size}),
      ('pad', {'size': size, 'fill': 0.3}),
    )
    np.testing.assert_array_equal(
      made['ids'], oracle[f'{case}_{shape}_label'][..., channel]
    )
  assert made['unpadded'] == tuple(oracle[f'{case}_{shape}_unpadded'])
  parity.check(
    f'{PURE}/transforms_eval_image.npz',
    f'{case}_{shape}_image',
    made['image'],
    oracle[f'{case}_{shape}_image'],
    bound=5e-6,
  )


def test_a_stretched_image_fills_the_size():
  example = _scene()
  made = _apply(
    example,
    ('resize_to_fit', {'size': (32, 32), 'stretch': True}),
    ('pad', {'size': (32, 32)}),
  )
  assert made['valid'].all() and made['unpadded'] == (32, 32)
  np.testing.assert_array_equal(
    made['ids'], resize_nearest(example['ids'], (32, 32))
  )


def test_small_segments_become_void():
  ids = np.zeros((8, 8), np.int32)
  ids[0, :3], ids[2:6] = 1, 2
  example = {'ids': ids}
  made = _apply(example, ('drop_small', {'min_pixels': 4}))['ids']
  np.testing.assert_array_equal(made, np.where(ids == 2, 2, 0))
  assert made.dtype == ids.dtype
  made = _apply(example, ('drop_small', {'min_pixels': 3}))['ids']
  np.testing.assert_array_equal(made, ids)
  with pytest.raises(ValueError, match='min_pixels=-1 must be 0 or more'):
    _apply(example, ('drop_small', {'min_pixels': -1}))
