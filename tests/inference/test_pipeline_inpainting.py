"""An image and a part of its mask: what Pipeline.inpaint returns."""

import jax
import numpy as np
import pytest
from smoke import smoke_config
from toy_inpainting import READING, toy_experiment

from configs import ldmseg_shapes
from pix2seqd_jax.diffusion import inpainting as inpainting_lib
from pix2seqd_jax.experiment import build
from pix2seqd_jax.inference import pipeline as pipeline_lib


def toy(id_order='random', **kwargs):
  experiment = toy_experiment(id_order, **kwargs)
  params = experiment.model.init(None, None)
  return pipeline_lib.Pipeline(experiment, params)


@pytest.fixture(scope='module')
def pipe():
  return toy()


def levels():
  """Five segments; no resizing blurs them."""
  found = np.zeros((64, 64), np.uint8)
  found[:, :32], found[:32, 32:], found[32:, 32:] = 1, 2, 3
  found[40:60, 8:24], found[8:24, 40:56] = 4, 5
  return found


def image():
  return np.repeat(16 * levels()[..., None] + 8, 3, -1)


def complete(pipe, partial, valid=None, **kwargs):
  return pipe.inpaint(image(), partial, valid, **{'steps': 2, **kwargs})


def some():
  partial = np.zeros((64, 64), np.int64)
  partial[:8, :8], partial[36:40, 40:44] = 2, 100_000
  return partial


@pytest.mark.parametrize('id_order', ['random', 'area'])
def test_given_segments_grow_under_their_names_and_new_ones_get_others(
  pipe, id_order
):
  pipe = pipe if id_order == 'random' else toy('area')
  result = complete(pipe, some())
  where = {n: result.segmentation[levels() == n] for n in range(1, 6)}
  for ids in where.values():
    assert (ids == ids[0]).all()
  names = [int(ids[0]) for ids in where.values()]
  assert names[0] == 2 and names[2] == 100_000
  assert sorted(names) == [1, 2, 3, 4, 100_000]
  assert [s.id for s in result.segments] == [1, 2, 3, 4, 100_000]
  infos = {info['id']: info for info in result.segments_info}
  assert infos[100_000]['area'] == (levels() == 3).sum()
  assert result.segmentation.dtype == np.int32
  assert result.agreement is None and result.entropy is None


def test_single_scattered_pixels(pipe):
  partial = np.zeros((64, 64), int)
  partial[50, 3], partial[11, 46], partial[62, 60] = 30, 31, 32
  found = complete(pipe, partial).segmentation
  for level, name in ((1, 30), (5, 31), (3, 32)):
    assert (found[levels() == level] == name).all()
  assert (found == 30).sum() == (levels() == 1).sum()


def test_given_pixels_stay_where_they_are_to_be_kept(pipe):
  partial = some()
  partial[62:, 62:] = 2  # across a border that the model knows better
  kept = complete(pipe, partial).segmentation
  np.testing.assert_array_equal(kept[partial > 0], partial[partial > 0])
  # Given at each pixel of the mask, it is held by the sampler as well.
  free = complete(pipe, partial, keep_given=False).segmentation
  assert (free[62:, 62:] == 2).all()
  # But where it only starts from it, the model has its way.
  start = {'keep_given': False, 'strength': 0.5}
  refined = complete(pipe, partial, **start).segmentation
  assert (refined[62:, 62:] == 100_000).all()


def test_all_given_is_the_mask_itself(pipe):
  whole = np.random.default_rng(0).integers(0, 8, (64, 64))
  for inpainting_ in inpainting_lib.VARIANTS:
    result = complete(
      pipe, whole, np.ones((64, 64), bool), inpainting=inpainting_
    )
    np.testing.assert_array_equal(result.segmentation, whole)
    assert [s.id for s in result.segments] == list(range(1, 8))


def test_nothing_given_is_plain_sampling(pipe):
  empty = np.zeros((64, 64), np.uint8)
  for partial in (empty, []):
    found = complete(pipe, partial, seed=3)
    plain = pipe.segment(image(), steps=2, seed=3)
    np.testing.assert_array_equal(found.segmentation, plain.segmentation)
    assert found.segments == plain.segments
  with pytest.raises(ValueError, match='but partial is empty'):
    complete(pipe, empty, strength=0.5)


def test_masks_in_place_of_ids(pipe):
  masks = [some() == 2, some() > 2]
  found = complete(pipe, masks).segmentation
  assert (found[levels() == 1] == 1).all()
  assert (found[levels() == 3] == 2).all()
  with pytest.raises(ValueError, match='overlap in 64 pixels'):
    complete(pipe, [masks[0], masks[0]])


@pytest.mark.parametrize('size', [(1, 1), (3, 200), (300, 40)])
def test_any_size(pipe, size):
  partial = np.zeros(size, int)
  partial[: size[0] // 2 + 1, : size[1] // 3 + 1] = 5
  image = np.full((*size, 3), 24, np.uint8)
  found = pipe.inpaint(image, partial, steps=2).segmentation
  assert found.shape == size and (found == 5).all()


def test_samples_agree_differ_and_say_how_far(pipe):
  result = complete(pipe, some(), num_samples=3)
  assert (result.agreement == 1).all() and not result.entropy.any()
  assert [i['confidence'] for i in result.segments_info] == [1.0] * 5
  wild = complete(toy(doubt=3.0), some(), num_samples=3)
  for name in ('agreement', 'entropy'):
    values = getattr(wild, name)
    assert values.dtype == np.float32 and values.shape == (64, 64)
  kept = some() > 0
  assert wild.agreement[~kept].min() < 1 and wild.entropy[~kept].max() > 0
  assert wild.entropy.max() <= np.log(3) + 1e-6
  for info in wild.segments_info:
    inside = wild.agreement[wild.segmentation == info['id']]
    assert info['confidence'] == pytest.approx(inside.mean(), abs=1e-5)


def test_errors(pipe):
  with pytest.raises(ValueError, match=r'partial is \(64, 63\) but the image'):
    complete(pipe, some()[:, 1:])
  with pytest.raises(ValueError, match='47 segments but this model knows 15'):
    complete(pipe, np.minimum(np.arange(4096), 47).reshape(64, 64))
  with pytest.raises(ValueError, match=r'inpainting=.*must be one of'):
    complete(pipe, 0 * some(), inpainting='paint')
  with pytest.raises(ValueError, match=r'strength=2.0 must lie in \(0, 1\]'):
    complete(pipe, some(), strength=2.0)
  with pytest.raises(ValueError, match='num_samples=0'):
    complete(pipe, some(), num_samples=0)
  bits = pipeline_lib.Pipeline(build.Experiment(smoke_config()), {})
  with pytest.raises(ValueError, match='Pix2SeqD cannot complete masks'):
    complete(bits, some())


def test_ldmseg_completes_what_it_is_given():
  config = ldmseg_shapes.get_config('smoke,random_ids')
  config.model.mask_autoencoder.thresholds = READING._asdict()
  experiment = build.Experiment(config)
  params = jax.jit(
    lambda rng: experiment.model.init(rng, None),
    compiler_options={'xla_backend_optimization_level': 0},
  )(jax.random.key(0))
  pipe = pipeline_lib.Pipeline(experiment, params)
  partial = some()
  result = complete(pipe, partial, num_samples=2)
  given = partial > 0
  np.testing.assert_array_equal(result.segmentation[given], partial[given])
  assert result.entropy.shape == result.agreement.shape == (64, 64)
  assert {2, 100_000} <= {info['id'] for info in result.segments_info}
  assert all(0.5 <= i['confidence'] <= 1 for i in result.segments_info)
