"""Images from masks: what the model is told, and what is counted."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy_semflow

from pix2seqd_jax import registry, types
from pix2seqd_jax.experiment import runs
from pix2seqd_jax.tasks.synthesis import SynthesisTask
from pix2seqd_jax.train import evaluate

CATEGORIES = tuple(types.Category(c, f'c{c}', False) for c in range(1, 4))
SIZE, NUM = 8, 4


class Features:
  """The mean colour, and the mean absolute difference."""

  network, is_trained = 'random vgg', False

  @staticmethod
  @jax.jit
  def embed(images):
    return (images / 255).mean(axis=(1, 2))

  @staticmethod
  @jax.jit
  def distance(x, y):
    return jnp.abs(x / 255 - y / 255).mean(axis=(1, 2, 3))


def paint(semantic):
  """Class c -> a grey of 0.2 c, and void black; in [0, 1]."""
  return 0.2 * semantic[..., None].astype(np.float32).repeat(3, axis=-1)


class Painter:
  """Draws the mask in grey, brighter by what the keys and `noise` say."""

  def __init__(self, noise):
    self.noise = noise

  def sample(self, params, batch, keys, *, timesteps, sampler, num_samples=1):
    if 'given' not in batch:
      return batch['image'] / 255
    noise = batch['given'].get('perturbation', self.noise)
    shift = noise * jax.vmap(jax.random.uniform)(keys)
    return paint(batch['given']['semantic']) + shift[:, None, None, None]

  def decode(self, params, x_0, batch):
    if 'given' in batch:
      return {'image': x_0}
    classes = jnp.round(x_0[..., 0] / 0.2).astype(jnp.int32)
    return {'semantic': jnp.clip(classes, 0, 3)}

  def postprocess(self, raw, meta):
    image = np.floor(255 * raw['image']).astype(np.uint8)
    return types.Segmentation(raw['semantic'], raw['semantic'], image=image)


def batches(sizes=(NUM, NUM), size=SIZE):
  """Masks and the images that Painter(0) makes of them, cut to 8 bits."""
  rng = np.random.default_rng(0)
  for start, num in enumerate(sizes):
    semantic = rng.integers(1, 4, (num, size, size), np.int32)
    semantic[:, 0] = 0
    image = np.floor(255 * paint(semantic)).astype(np.uint8)
    metas = []
    for classes in semantic:
      present = [int(c) for c in np.unique(classes) if c]
      segments = tuple(types.Segment(c, c) for c in present)
      metas.append({'truth': {'ids': classes, 'segments': segments}})
    yield {
      'image': image,
      'valid': np.ones(semantic.shape, bool),
      'semantic': semantic,
      'instance': semantic,
      'index': start * NUM + np.arange(num),
      'image_latent': image.astype(np.float32),
      'meta': metas,
    }


def run(model, task, **kwargs):
  sample_fn = evaluate.make_sampler(model, timesteps=None, sampler=None)
  return evaluate.evaluate(
    model, task, {}, batches(), sample_fn=sample_fn, progress=False, **kwargs
  )


def test_the_truth_itself_is_perfect():
  found = run(Painter(0), SynthesisTask(CATEGORIES, Features()))
  assert found['fid'] < 1e-9
  for name in ('lpips_pairwise', 'lpips_diversity', 'fid_is_inception'):
    assert found[name] == 0
  assert found['resegmentation_miou'] == 1
  assert found['resegmentation_iou_class/c2'] == 1
  assert 'miou' not in found  # that is of the true images' segmentation


def test_samples_differ_by_their_keys_and_are_measured_pair_by_pair():
  """One of them by itself is the first of several."""
  wide, seen = Painter(0.05), []
  task = SynthesisTask(CATEGORIES, Features(), num_samples=3)
  several = run(wide, task, on_example=lambda found, meta: seen.append(found))
  one = run(wide, SynthesisTask(CATEGORIES, Features(), num_samples=1))
  assert 'lpips_diversity' not in one  # 0 would say that all are alike
  assert 0 < several['lpips_diversity'] < 0.05
  for name in ('fid', 'lpips_pairwise', 'resegmentation_miou'):
    assert one[name] == pytest.approx(several[name], rel=1e-6)
  assert 0 < several['lpips_pairwise'] < 0.05 and several['fid'] > 0
  measured = np.mean([found.measured['diversity'] for found in seen])
  assert several['lpips_diversity'] == pytest.approx(measured, rel=1e-6)
  assert seen[0].image.dtype == np.uint8 and len(seen) == 2 * NUM


@pytest.fixture
def predict():
  """(task, changes of the batch) -> (raw, the batches that were sampled)."""

  def call(task, **changes):
    first = types.inputs_only(next(iter(batches())), task.given) | changes
    sampler = evaluate.make_sampler(Painter(0), timesteps=None, sampler=None)
    seen = []

    def sample_fn(batch, keys):
      seen.append(batch)
      return sampler({}, batch, keys)

    keys = evaluate.example_keys(0, np.arange(NUM))
    return task.predict(sample_fn, first, keys), seen

  return call


def test_the_model_sees_the_mask_and_not_the_image(predict):
  task = SynthesisTask(CATEGORIES, Features(), perturbation=0.25)
  raw, (*told, again) = predict(task)
  assert len(told) == 2
  for one in told:
    assert not np.any(one['image']) and one['image'].dtype == np.uint8
    assert set(one['given']) == {'semantic', 'perturbation'}
    assert 'image_latent' not in one
    np.testing.assert_array_equal(one['given']['perturbation'], [0.25] * NUM)
  assert set(again) == {'image', 'valid'}
  written = np.floor(255 * np.asarray(raw['image']))
  np.testing.assert_array_equal(again['image'], written)


def test_padding_is_the_same_grey_on_both_sides(predict):
  valid = np.ones((NUM, SIZE, SIZE), bool)
  valid[:, :, 4:] = False
  image = next(iter(batches()))['image']
  image[:, :, 4:] = 7
  task = SynthesisTask(CATEGORIES, Features(), num_samples=1)
  raw, _ = predict(task, image=image, valid=valid)
  measured = raw['measured']
  np.testing.assert_allclose(measured['pairwise'], 0, atol=1e-7)
  np.testing.assert_allclose(measured['made'], measured['real'], rtol=1e-6)


def test_both_tasks_of_one_run():
  """By the networks' own path: a flow from masks to brighter ones."""
  experiment = toy_semflow.toy_flow(task='synthesis')
  experiment.config['eval']['num_examples'] = 10
  found = runs.evaluate_params(experiment, toy_semflow.PARAMS)
  # Half of the size of the scenes: borders are lost, nothing else.
  assert 0.7 < found['resegmentation_miou'] < 1
  assert found['fid'] > 0 < found['lpips_pairwise']
  assert 0 < found['lpips_diversity'] < 0.1 * found['lpips_pairwise']
  assert not found['fid_is_inception'] and not found['lpips_is_trained']
  assert set(found) >= set(experiment.task.empty().compute())
  assert isinstance(experiment.task, SynthesisTask)
  experiment = toy_semflow.toy_flow()
  experiment.config['eval']['num_examples'] = 10
  found = runs.evaluate_params(experiment, toy_semflow.PARAMS)
  assert 0 < found['miou'] < 1 and 'iou_class/circle' in found


def test_states_cross_processes():
  task = SynthesisTask(CATEGORIES, Features())
  empty = task.empty()
  back = type(empty).from_bytes(empty.to_bytes())
  assert back.merge(empty).compute() == empty.compute()
  assert registry.TASKS['synthesis'] is SynthesisTask
  assert isinstance(task, types.Task)


def test_refusals():
  with pytest.raises(ValueError, match=r'synthesis\.num_samples=0'):
    SynthesisTask(CATEGORIES, Features(), num_samples=0)

  class Blind(Painter):
    def decode(self, params, x_0, batch):
      return {'semantic': x_0}

  with pytest.raises(ValueError, match=r"task\.name='synthesis' makes"):
    run(Blind(0), SynthesisTask(CATEGORIES, Features()))
