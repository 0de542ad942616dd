"""Windows, mirrors and backends give the whole resize's pixels."""

import builtins
import importlib.util

import numpy as np
import pytest

from pix2seqd_jax.data.readers import shapes
from pix2seqd_jax.data.transforms import resize, transforms

# Without the extra, OpenCV's half is not tested.
OTHERS = ['opencv'] if importlib.util.find_spec('cv2') else []


@pytest.fixture(scope='module')
def image():
  rng = np.random.default_rng(0)
  scene = shapes.Shapes(size=(45, 61))[3]['image']
  noise = rng.integers(0, 256, scene.shape, np.uint8)
  return np.where(rng.random(scene.shape[:2])[..., None] < 0.3, noise, scene)


SIZES = [(31, 42), (44, 60), (45, 61), (57, 77), (99, 134), (135, 183)]


@pytest.mark.parametrize('size', SIZES)
@pytest.mark.parametrize('backend', ['pillow', *OTHERS])
def test_a_window_is_that_part_of_the_whole(image, size, backend):
  exact = resize.resize_image(image.astype(np.float32), size)
  rng = np.random.default_rng(1)
  for _ in range(8):
    top, left = (int(rng.integers(0, n - 20)) for n in size)
    window = np.s_[top : top + 20 : 1, left : left + 33]
    made = resize.resize_image(image, size, window=window, backend=backend)
    expected = exact[window]
    assert made.shape == expected.shape and made.dtype == np.uint8
    assert np.abs(made - expected).max() <= 1.5
    turned = resize.resize_image(
      image, size, window=window, mirror=True, backend=backend
    )
    np.testing.assert_array_equal(turned, made[:, ::-1])
  whole = resize.resize_image(image, size, backend=backend)
  assert whole.shape == (*size, 3) and np.abs(whole - exact).max() <= 1.5


@pytest.mark.parametrize('dtype', [np.uint8, np.float32])
def test_the_transforms_at_once_are_those_one_by_one(dtype):
  pairs = (
    ('scale_jitter', {'size': 40, 'scale': (0.7, 2.5)}),
    ('fixed_size_crop', {'size': 40}),
    ('random_flip', {}),
  )
  at_once = transforms.build_transforms(pairs)
  assert len(at_once.transforms) == 1
  for seed in range(12):
    example = shapes.Shapes(size=(45, 61))[seed]
    if dtype == np.float32:
      example['image'] = (example['image'] / 255).astype(np.float32)
    rngs = [np.random.default_rng(seed) for _ in range(2)]
    ours, theirs = at_once(example, rngs[0]), example
    for pair in pairs:
      theirs = transforms.build_transforms((pair,))(theirs, rngs[1])
    np.testing.assert_array_equal(ours['ids'], theirs['ids'])
    gap = np.abs(ours['image'].astype(float) - theirs['image'])
    assert gap.max() <= (1 if dtype == np.uint8 else 0)
    assert rngs[0].random() == rngs[1].random()


def test_flip():
  image = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
  for one in (image, image[:, ::-1], image.astype(np.float32)):
    np.testing.assert_array_equal(resize.flip(one), one[:, ::-1])


def test_backends_are_chosen_by_name_alone(monkeypatch):
  plain = builtins.__import__

  def without(name, *args, **kwargs):
    if name == 'cv2':
      raise ImportError('no module named cv2')
    return plain(name, *args, **kwargs)

  monkeypatch.setattr(builtins, '__import__', without)
  for name in ('scale_jitter', 'resize_to_fit'):
    build = transforms.build_transforms
    build(((name, {'size': 8}),))
    with pytest.raises(ValueError, match=r'needs OpenCV.*pix2seqd_jax\[open'):
      build(((name, {'size': 8, 'backend': 'opencv'}),))
    with pytest.raises(
      ValueError, match=r"data\.backend='open_cv'.*mean 'openc"
    ):
      build(((name, {'size': 8, 'backend': 'open_cv'}),))
