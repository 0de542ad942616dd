"""The folder of latents: kills, torn files, and what is refused."""

import json

import numpy as np
import pytest

from pix2seqd_jax.data import latent_cache
from pix2seqd_jax.data.transforms.transforms import build_transforms

SHAPE = (5, 2, 2, 3, 4)  # examples, ways, h, w, c
ROWS = np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)
DATA = {
  'name': 'shapes',
  'source': {'size': (8, 12)},
  'train': {'split': 'train', 'num_examples': 5},
  'image_size': (8, 12),
}
PAIRS = (('random_flip', {}), ('pad', {'size': (8, 12)}))


def origin(data=DATA, pairs=PAIRS, width=4):
  return latent_cache.origin(data, 'train', pairs, {'width': width})


def writer(folder, weights='a', of=None, shape=SHAPE):
  return latent_cache.Writer(folder, 'train', shape, weights, of or origin())


def write(folder):
  with writer(folder) as out:
    out.add(ROWS)
    out.save()
  return folder


def example(**kwargs):
  rng = np.random.default_rng(1)
  image = rng.integers(0, 256, (8, 12, 3)).astype(np.uint8)
  return {'image': image, 'ids': np.zeros((8, 12), np.int32)} | kwargs


def test_each_example_gets_its_own_latent_and_a_mirrored_one_the_other(
  tmp_path,
):
  read = latent_cache.open_latents(write(tmp_path), 'train', origin())
  for chance in (0.0, 1.0):
    flip = build_transforms((('random_flip', {'chance': chance}),))
    for index in range(5):
      made = read(flip(example(index=index), np.random.default_rng(0)), None)
      np.testing.assert_array_equal(
        made['image_latent'], ROWS[index, int(chance)]
      )


def test_killed_and_resumed(tmp_path):
  with writer(tmp_path) as out:
    out.add(ROWS[:2])
    out.save()
    out.add(ROWS[2:4])  # killed before these are saved
  with pytest.raises(ValueError, match=r'has 2 of 5 examples .* goes on'):
    latent_cache.open_latents(tmp_path, 'train', origin())
  with (tmp_path / 'train.f32').open('ab') as file:
    file.write(b'torn')
  with writer(tmp_path) as out:
    assert out.done == 2
    out.add(ROWS[2:])
    out.save()
  assert (tmp_path / 'train.f32').read_bytes() == ROWS.tobytes()
  latent_cache.open_latents(tmp_path, 'train', origin())


def test_a_file_that_lost_its_end_is_written_anew_from_there(tmp_path):
  write(tmp_path)
  with (tmp_path / 'train.f32').open('r+b') as file:
    file.truncate(3 * ROWS[0].nbytes + 7)
  with pytest.raises(ValueError, match='goes on where it stopped'):
    latent_cache.open_latents(tmp_path, 'train', origin())
  with writer(tmp_path) as out:
    assert out.done == 3


def test_other_latents_are_refused(tmp_path):
  write(tmp_path)
  latent_cache.check_weights(tmp_path, 'a')
  with pytest.raises(ValueError, match='weights have the digest a'):
    latent_cache.check_weights(tmp_path, 'b')
  with pytest.raises(ValueError, match='those here have b'):
    writer(tmp_path, weights='b')
  other = {**DATA, 'source': {'size': (8, 12), 'hue': 1.0}}
  for wrong, words in (
    (origin(other), 'source is .*hue'),
    (origin(width=8), 'network is .*8'),
    (origin(pairs=PAIRS[1:]), 'transforms is .*; ways is 1 here, 2 there'),
  ):
    with pytest.raises(ValueError, match=words):
      latent_cache.open_latents(tmp_path, 'train', wrong)
    with pytest.raises(ValueError, match=words):
      writer(tmp_path, of=wrong)
  with pytest.raises(ValueError, match=r"5 examples of 'train', but .* has 6"):
    writer(tmp_path, shape=(6, *SHAPE[1:]))
  with pytest.raises(ValueError, match="has no latents of 'eval'"):
    latent_cache.open_latents(tmp_path, 'eval', origin())


def test_what_changes_no_image_may_change(tmp_path):
  small = ('drop_small', {'min_pixels': 10})
  pairs = (small, ('random_flip', {'chance': 0.1}), PAIRS[1])
  latent_cache.open_latents(write(tmp_path), 'train', origin(pairs=pairs))


@pytest.mark.parametrize(
  'name, kwargs',
  [
    ('scale_jitter', {'scale': (0.5, 1.0)}),
    ('fixed_size_crop', {}),
    ('color_jitter', {'strength': 0.5}),
    ('color_jitter', {}),
  ],
)
def test_a_transform_that_draws_is_refused_by_name(name, kwargs):
  with pytest.raises(ValueError, match=f"data.train_transforms has '{name}'"):
    latent_cache.flip_chances('train', (*PAIRS, (name, kwargs)))


def test_ways_of_a_image():
  assert latent_cache.flip_chances('train', PAIRS) == (0.0, 1.0)
  assert latent_cache.flip_chances('eval', PAIRS[1:]) == (0.0,)
  never = ('random_flip', {'chance': 0.0})
  idle = ('color_jitter', {'strength': 0.0})
  assert latent_cache.flip_chances('train', (never, idle)) == (0.0,)
  with pytest.raises(ValueError, match='2 times'):
    latent_cache.flip_chances('train', (*PAIRS, PAIRS[0]))


def test_a_digest_is_of_paths_shapes_and_values():
  weights = {'a/kernel': np.ones((2, 3)), 'b': np.zeros(2)}
  found = latent_cache.digest(weights)
  turned = dict(reversed(weights.items()))
  assert latent_cache.digest(turned) == found
  for other in (
    {'a/kernel': np.ones((3, 2)), 'b': np.zeros(2)},
    {'a/kernel': np.ones((2, 3)), 'c': np.zeros(2)},
    {'a/kernel': np.ones((2, 3)), 'b': np.array([0, 1e-30])},
  ):
    assert latent_cache.digest(other) != found


@pytest.mark.parametrize(
  'text, words',
  [
    ('{', 'cannot be read'),
    (json.dumps({'format': 9}), 'is of format 9'),
    (None, 'does not exist'),
  ],
)
def test_an_index_that_is_none(tmp_path, text, words):
  if text:
    (tmp_path / latent_cache.INDEX).write_text(text)
  with pytest.raises(ValueError, match=words):
    latent_cache.read_index(tmp_path)
