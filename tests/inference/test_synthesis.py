"""Masks -> images: reading masks, what Pipeline.synthesize returns."""

import dataclasses
import pathlib

import jax
import numpy as np
import pytest
from PIL import Image
from smoke import smoke_config
from toy_semflow import PARAMS, toy_flow

from configs import semflow_camvid, semflow_shapes
from pix2seqd_jax import types
from pix2seqd_jax.experiment import build
from pix2seqd_jax.inference import pipeline as pipeline_lib
from pix2seqd_jax.inference import synthesis

CATEGORIES = (
  types.Category(7, 'cat', True),
  types.Category(0, 'grass', False),
  types.Category(300, 'sky', False),
)


@pytest.fixture(scope='module')
def pipe():
  return pipeline_lib.Pipeline(toy_flow(), PARAMS)


def mask(size=(32, 32), classes=7):
  return np.random.default_rng(0).integers(0, classes + 1, size)


# Reading.


def test_masks_in_any_form_are_the_same(tmp_path, pipe):
  expected = mask(classes=3).astype(np.int32)
  small = Image.fromarray(expected.astype(np.uint8))
  small.save(tmp_path / 'gray.png')
  palette = small.copy()
  palette.putpalette(list(range(256)) * 3)
  palette.save(tmp_path / 'palette.png')
  for form in (
    expected.astype(np.uint16),
    expected.tolist(),
    small,
    tmp_path / 'gray.png',
    str(tmp_path / 'palette.png'),
  ):
    found = synthesis.read_mask(form, CATEGORIES, 'classes')
    assert found.dtype == np.int32
    np.testing.assert_array_equal(found, expected)


def test_the_numbers_of_the_data_set():
  ids = np.array([[7, 0, 300], [255, 7, 7]])
  found = synthesis.read_mask(ids, CATEGORIES, 'ids')
  np.testing.assert_array_equal(found, [[1, 2, 3], [0, 1, 1]])


def test_arrays_are_classes_and_files_have_the_data_set_s_numbers(tmp_path):
  ids = np.array([[7, 0, 255]], np.uint8)
  Image.fromarray(ids).save(tmp_path / 'a.png')
  for form in (tmp_path / 'a.png', Image.fromarray(ids)):
    found = synthesis.read_mask(form, CATEGORIES)
    np.testing.assert_array_equal(found, [[1, 2, 0]])
  found = synthesis.read_mask([[1, 2, 0]], CATEGORIES)
  np.testing.assert_array_equal(found, [[1, 2, 0]])


def test_a_data_set_s_own_files_are_read_as_it_reads_them(shared):
  """Void too, which CamVid has a number for that no class of ours has."""
  config = semflow_camvid.get_config('smoke')
  config.data.root = str(shared / 'data' / 'camvid')
  experiment = build.Experiment(config)
  reader = synthesis.Synthesizer(experiment, {})
  source = experiment.source('eval')
  for example in (source[0], source[50]):
    name = pathlib.Path(example['file']).stem + '.png'
    [file] = (shared / 'data' / 'camvid' / 'labels').rglob(name)
    assert (np.asarray(Image.open(file)) == 11).any()
    np.testing.assert_array_equal(reader.read(file), example['ids'])


def test_results_with_other_classes_are_refused(pipe):
  given = np.repeat(np.repeat(1 + mask((8, 8)) % 7, 4, 0), 4, 1)
  seen = pipe.segment(pipe.experiment.model.painted(given))
  other = tuple(reversed(pipe.categories))
  for categories in (other, other[:3], other[:1]):
    result = dataclasses.replace(seen, categories=categories)
    with pytest.raises(ValueError, match=r'a result with .*not the'):
      pipe.synthesize(result)


def test_a_mask_of_two_values_is_one_class(pipe):
  found = synthesis.read_mask(mask() > 3, CATEGORIES)
  np.testing.assert_array_equal(found, mask() > 3)


def test_bad_masks(tmp_path):
  def read(form, values='classes'):
    synthesis.read_mask(form, CATEGORIES, values)

  with pytest.raises(
    ValueError, match=r"holds 4, 9 but values='classes'.*0..3"
  ):
    read(np.array([[1, 9, 4]]))
  with pytest.raises(ValueError, match=r'holds -1 but'):
    read(np.array([[-1]]))
  with pytest.raises(ValueError, match=r'are 4, 7; map .* classes, or give'):
    synthesis.read_mask(
      np.array([[255]]), CATEGORIES, 'ids', lambda: {4: 1, 7: 2}
    )
  with pytest.raises(ValueError, match=r"holds 1 but values='ids'.*0, 7, 255"):
    read(np.array([[1, 7]]), 'ids')
  with pytest.raises(ValueError, match="values='names' must be one of"):
    read(np.array([[1]]), 'names')
  with pytest.raises(ValueError, match=r'float64 \(2, 2\); give integers'):
    read(np.zeros((2, 2)))
  with pytest.raises(ValueError, match=r'int64 \(2, 2, 3\)'):
    read(np.zeros((2, 2, 3), int))
  with pytest.raises(ValueError, match='image of mode RGB'):
    read(Image.new('RGB', (4, 4)))
  with pytest.raises(ValueError, match=r'missing\.png cannot be read'):
    read(tmp_path / 'missing.png')
  Image.new('L', (4, 4)).save(tmp_path / 'lossy.jpg')
  with pytest.raises(ValueError, match=r'lossy\.jpg is a JPEG.*must be a PNG'):
    read(tmp_path / 'lossy.jpg')


# Drawing.


def test_the_image_is_that_of_the_mask(pipe):
  result = pipe.synthesize(mask(), perturbation=0)
  [image] = result.images
  assert image.dtype == np.uint8
  expected = pipe.experiment.model.painted(mask()).astype(int)
  assert np.abs(image - expected).max() <= 1
  np.testing.assert_array_equal(result.mask, mask())


def test_segmenting_what_was_drawn_gives_the_mask_again(pipe):
  given = np.repeat(np.repeat(mask((8, 8)), 4, 0), 4, 1)
  given[given == 0] = 1  # void has no anchor
  drawn = pipe.synthesize(given, seed=3)
  seen = pipe.segment(drawn.images[0])
  np.testing.assert_array_equal(seen.semantic(), given)
  again = pipe.synthesize(seen, perturbation=0)
  np.testing.assert_array_equal(again.mask, given)


def test_classes_are_stitched_from_tiles(pipe):
  given = np.repeat(np.repeat(1 + mask((3, 4)) % 7, 16, 0), 16, 1)
  drawn = pipe.experiment.model.painted(given)
  seen = pipe.segment(drawn, tile=32, overlap=16)
  np.testing.assert_array_equal(seen.semantic(), given)


def test_samples_differ_by_the_perturbation_alone(pipe):
  def draw(**kwargs):
    return np.stack(pipe.synthesize(mask(), num_samples=3, **kwargs).images)

  usual = draw(seed=1).astype(int)
  assert (usual[0] != usual[1]).any() and (usual[1] != usual[2]).any()
  np.testing.assert_array_equal(usual, draw(seed=1))
  assert (usual != draw(seed=2)).any()
  plain = pipe.experiment.model.painted(mask())
  inside = (plain > 20) & (plain < 235)  # where nothing is clipped
  reach = np.abs(usual - plain)[:, inside].max()
  assert 7 <= reach <= 9  # 8 levels
  twice = np.abs(draw(seed=1, perturbation=16.0).astype(int) - plain)
  assert 15 <= twice[:, inside].max() <= 17
  still = draw(perturbation=0)
  assert (still == still[0]).all()


def test_images_have_the_size_of_the_network(pipe):
  wide = np.repeat(np.repeat(mask((4, 8)), 16, 0), 16, 1)
  result = pipe.synthesize(wide)
  assert result.images[0].shape == (16, 32, 3)
  assert result.mask.shape == (64, 128)


def test_steps_and_callback(pipe):
  seen = []
  pipe.synthesize(
    mask(), steps=3, callback=lambda step, n, x, x_0: seen.append((step, n))
  )
  jax.effects_barrier()
  assert seen == [(0, 3), (1, 3), (2, 3)]


def test_files_and_a_panel(pipe, tmp_path):
  one = pipe.synthesize(mask())
  assert one.save(tmp_path, 'a.jpg') == [tmp_path / 'a.png']
  three = pipe.synthesize(mask(), num_samples=3)
  names = [path.name for path in three.save(tmp_path / 'new', 'b')]
  assert names == ['b_1.png', 'b_2.png', 'b_3.png']
  for i, image in enumerate(three.images, 1):
    saved = np.asarray(Image.open(tmp_path / 'new' / f'b_{i}.png'))
    np.testing.assert_array_equal(saved, image)
  panel = three.panel()
  assert panel.dtype == np.uint8 and panel.shape[1] > 4 * 256
  assert three.panel(2).shape[0] > panel.shape[0]


def test_bad_arguments(pipe):
  for bad in (-1, 32.0, float('nan'), 'much'):
    with pytest.raises(ValueError, match='must be 0 or more and below 32'):
      pipe.synthesize(mask(), perturbation=bad)
  with pytest.raises(ValueError, match='holds 8 but'):
    pipe.synthesize(mask() + 1)
  with pytest.raises(ValueError, match='num_samples=0'):
    pipe.synthesize(mask(), num_samples=0)
  bits = pipeline_lib.Pipeline(build.Experiment(smoke_config()), {})
  with pytest.raises(ValueError, match=r"'pix2seq_d' makes no images"):
    bits.synthesize(mask())


def test_semflow_segments_and_draws():
  experiment = build.Experiment(semflow_shapes.get_config('smoke'))
  params = jax.jit(
    lambda rng: experiment.model.init(rng, None),
    compiler_options={'xla_backend_optimization_level': 0},
  )(jax.random.key(0))
  pipe = pipeline_lib.Pipeline(experiment, params)
  drawn = pipe.synthesize(mask(), steps=2, num_samples=2, seed=1)
  first, second = drawn.images
  assert first.shape == (64, 64, 3) and (first != second).any()
  seen = pipe.segment(first, steps=2)
  assert seen.segmentation.shape == first.shape[:2]
  assert all(0 <= info['score'] <= 1 for info in seen.segments_info)
  assert seen.overlay().ndim == 3
