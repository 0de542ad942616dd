"""Strips of the denoising and grids of seeds."""

import numpy as np
import pytest
import toy_inpainting
from PIL import Image

from pix2seqd_jax import types
from pix2seqd_jax.cli import show_denoising
from pix2seqd_jax.inference import pipeline
from pix2seqd_jax.visualize import sampling

CATEGORIES = (
  types.Category(1, 'cat', True),
  types.Category(2, 'grass', False, (10, 200, 30)),
)
SEGMENTS = (types.Segment(3, 1), types.Segment(8, 2))


@pytest.fixture(scope='module')
def pipe():
  """Of a model that knows nothing and compiles in no time."""
  experiment = toy_inpainting.toy_experiment(doubt=0.4)
  experiment.task.merge_stuff = False  # or all would be one segment
  params = {'net': {}, 'stats': {}, 'frozen': {}}
  return pipeline.Pipeline(experiment, params)


@pytest.fixture(scope='module')
def sampler(pipe):
  return show_denoising.Sampler(pipe, 3, 2)


def make_image(size=(50, 70), seed=0):
  return np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)


def test_steps_are_chosen_evenly_and_the_last_one_is_left_to_the_answer():
  assert show_denoising.chosen(50, 5) == [0, 10, 20, 29, 39]
  for num_steps in (1, 2, 7, 50):
    for frames in (1, 2, 8, 100):
      found = show_denoising.chosen(num_steps, frames)
      assert found == sorted(set(found)) and found[0] == 0
      assert found[-1] <= max(0, num_steps - 1)
      assert len(found) == min(frames, num_steps) or len(found) == num_steps - 1


def test_the_answer_is_that_of_the_pipeline(pipe, sampler):
  image = make_image()
  found = sampler(image, 3)
  captions, maps = zip(*found.frames)
  assert captions == ('step 1/3', 'step 2/3')
  assert all(ids.shape == (50, 70) for ids, _ in maps)
  expected = pipe.segment(image, steps=3, seed=3, callback=sampler._keep)
  for ids, segments in (found.final, *maps):
    names = set(np.unique(ids).tolist()) - {0}
    assert {s.id for s in segments} == names
  # The pipeline names segments anew, in the order of their ids.
  ids, _, ranks = np.unique(
    found.final[0], return_index=True, return_inverse=True
  )
  wanted_ids = ranks.reshape(image.shape[:2]) + (ids[0] > 0)
  np.testing.assert_array_equal(expected.segmentation, wanted_ids)


def test_models_with_classes_have_segments_named_by_the_task(pipe):
  sampler = show_denoising.Sampler(pipe, 3, 2)
  sampler.each = False
  final, frames = sampler(make_image(), 3)
  for ids, segments in (final, *(one for _, one in frames)):
    assert [s.id for s in segments] == list(range(1, len(segments) + 1))
    assert ids.max() == len(segments)


def test_files_for_each_image(pipe, tmp_path, monkeypatch):
  """Two images of one name do not overwrite each other."""
  for name in ('a.png', 'a.jpg'):
    Image.fromarray(make_image()).save(tmp_path / name)
  monkeypatch.setattr(
    pipeline.Pipeline, 'from_pretrained', lambda *args, **kwargs: pipe
  )
  output = tmp_path / 'out'
  written = show_denoising.write(
    'run', [tmp_path], output, steps=3, seeds=3, seed=5
  )
  names = ['a_strip', 'a_seeds', 'a_2_strip', 'a_2_seeds']
  assert written == [output / f'{name}.png' for name in names]
  for path in written:
    assert np.asarray(Image.open(path)).ndim == 3
  few = {'steps': 3, 'seeds': 1}
  written = show_denoising.write('run', [tmp_path / 'a.png'], output, **few)
  assert written == [output / 'a_strip.png']


def cells(image, count, columns):
  """Width and least height of a grid of enlarged images."""
  factor = -(-256 // max(image.shape[:2]))
  height, width = (factor * n for n in image.shape[:2])
  rows = -(-count // columns)
  return rows * height, columns * width


def map_of(size=(50, 70)):
  ids = np.zeros(size, np.int32)
  ids[:20], ids[30:] = 3, 8
  return ids, SEGMENTS


def test_a_strip_has_a_cell_for_each_frame():
  image = make_image()
  strip = sampling.denoising(
    image, [map_of()] * 3, CATEGORIES, ['one', 'two', 'final']
  )
  height, width = cells(image, 4, 4)
  assert strip.dtype == np.uint8
  assert 0 < strip.shape[1] - width < 30 and strip.shape[0] > height


def test_large_images_are_shrunk():
  image = make_image((300, 900))
  strip = sampling.denoising(
    image, [map_of((300, 900))], CATEGORIES, ['final'], side=90
  )
  assert 180 < strip.shape[1] < 200


def test_ids_keep_their_colours_over_the_steps():
  image = np.zeros((64, 64, 3), np.uint8)
  first, second = np.zeros((2, 64, 64), np.int32)
  first[:30], first[32:] = 2, 9
  second[32:] = 9
  maps = [
    (first, (types.Segment(2, 1), types.Segment(9, 1))),
    (second, (types.Segment(9, 1),)),
  ]
  strip = sampling.denoising(image, maps, CATEGORIES, ['one', 'two'], each=True)
  cell = 256 + 6
  row = strip.shape[0] - 60
  one, two = strip[row, cell + 100], strip[row, 2 * cell + 100]
  np.testing.assert_array_equal(one, two)
  assert one.any() and not (one == strip[40, cell + 100]).all()


def test_a_grid_of_seeds_shows_the_agreement():
  image = make_image()
  grid = sampling.seeds(
    image,
    [map_of()] * 6,
    CATEGORIES,
    [f'seed {i}' for i in range(6)],
    np.linspace(0, 1, 3500, dtype=np.float32).reshape(50, 70),
  )
  height, width = cells(image, 8, 4)
  assert 0 < grid.shape[1] - width < 30 and grid.shape[0] > height


def test_bad_arguments(pipe, tmp_path, monkeypatch):
  with pytest.raises(ValueError, match='frames=0 must be at least 1'):
    show_denoising.Sampler(pipe, frames=0)
  with pytest.raises(ValueError, match='steps=0 must be a whole number'):
    show_denoising.Sampler(pipe, steps=0)
  with pytest.raises(ValueError, match='--inputs is empty'):
    show_denoising.write(tmp_path, [], tmp_path)
  monkeypatch.setitem(pipe.experiment.__dict__, 'model', object())
  with pytest.raises(ValueError, match='there is no denoising to show'):
    show_denoising.Sampler(pipe)


def test_the_command_says_what_is_wrong(tmp_path, capsys):
  argv = ['--workdir', tmp_path, '--inputs', tmp_path, '--output', tmp_path]
  with pytest.raises(SystemExit) as stopped:
    show_denoising.main([str(arg) for arg in argv])
  assert stopped.value.code == 1
  assert 'config.json does not exist' in capsys.readouterr().err
