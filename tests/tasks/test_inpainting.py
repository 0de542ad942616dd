"""What is taken away from a mask, and what of it is put back."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy_inpainting import toy_experiment

from pix2seqd_jax import types
from pix2seqd_jax.encoding import panoptic_ids
from pix2seqd_jax.registry import TASKS
from pix2seqd_jax.tasks.inpainting import InpaintingTask, paste
from pix2seqd_jax.train import evaluate, sharding

CATEGORIES = (types.Category(1, 'any', True), types.Category(2, 'sky', False))
SIZE = (12, 16)


def task(**kwargs):
  return InpaintingTask(CATEGORIES, **{'class_agnostic': True, **kwargs})


def truth(num=3):
  ids = np.random.default_rng(0).integers(0, 4, (num, *SIZE))
  return jnp.asarray(ids, jnp.int32)


def keys(num=3):
  return jax.random.split(jax.random.key(0), num)


def given(made, ids=None, k=None):
  ids = truth() if ids is None else ids
  found = made.sparse(ids, keys() if k is None else k)
  return np.asarray(found['instance']), np.asarray(found['known'])


def test_whole_blocks_are_taken_away():
  ids, known = given(task(block_size=4, drop_rate=0.5))
  assert ids.dtype == np.int32 and known.dtype == bool
  blocks = known.reshape(3, 3, 4, 4, 4).swapaxes(2, 3).reshape(3, 3, 4, 16)
  assert (blocks == blocks[..., :1]).all()
  assert 0.2 < known.mean() < 0.8
  np.testing.assert_array_equal(ids, np.where(known, truth(), 0))


def test_everything_nothing_and_more_of_the_same():
  found = {
    rate: given(task(block_size=2, drop_rate=rate))[1]
    for rate in (0, 0.2, 0.6, 1)
  }
  assert found[0].all() and not found[1].any()
  assert (found[0.2] | ~found[0.6]).all()
  assert found[0.2].mean() > found[0.6].mean()


def test_blocks_that_do_not_divide_the_mask_or_are_larger():
  known = given(task(block_size=5))[1]
  for y in range(0, 12, 5):
    for x in range(0, 16, 5):
      block = known[:, y : y + 5, x : x + 5].reshape(3, -1)
      assert (block == block[:, :1]).all()
  known = given(task(block_size=100))[1].reshape(3, -1)
  assert (known == known[:, :1]).all()


def test_single_pixels():
  ids = jnp.ones((2, 64, 64), jnp.int32)
  known = given(task(pixels=0.1, drop_rate=0.0), ids, keys(2))[1]
  assert 0.08 < known.mean() < 0.12
  assert not (known[:, 1:] & known[:, :-1]).mean() > 0.03
  assert given(task(pixels=1.0))[1].all()


def test_draws_belong_to_the_example():
  made = task(block_size=2)
  ids, known = given(made)
  again = given(made, truth()[1:], keys()[1:])
  np.testing.assert_array_equal(again[0], ids[1:])
  np.testing.assert_array_equal(again[1], known[1:])
  assert (known[0] != known[1]).any()
  other = given(made, k=jax.random.split(jax.random.key(1), 3))[1]
  assert (other != known).any()


def test_void_is_given_or_unknown():
  ids = np.asarray(truth())
  _, known = given(task(drop_rate=0.0))
  assert known.all() and (ids == 0).any()
  _, known = given(task(drop_rate=0.0, give_void=False))
  np.testing.assert_array_equal(known, ids > 0)


def batch():
  return {
    'image': np.zeros((3, 24, 32, 3), np.uint8),
    'given': {'instance': truth()},
  }


def predict(made):
  seen = []

  def sample_fn(batch, keys):
    seen.append(batch['given'])
    return {'logits': jnp.zeros((3, 2, 2, 4))}

  return made.predict(sample_fn, batch(), keys()), seen[0]


def test_the_model_is_handed_what_is_left_and_nothing_else():
  assert task().given == ('instance',)
  raw, told = predict(task(block_size=4))
  assert set(told) == {'instance', 'known'}
  for ours, theirs in zip(given(task(block_size=4)), told.values()):
    np.testing.assert_array_equal(ours, theirs)
  assert set(raw) == {'logits', 'given'}
  assert raw['given']['padded'].tolist() == [[24, 32]] * 3
  raw, _ = predict(task(keep_given=False))
  assert set(raw) == {'logits'}


def test_what_is_not_held_is_only_where_sampling_starts():
  raw, told = predict(task(block_size=4, hold=False))
  assert not told['known'].any() and told['instance'].any()
  assert raw['given']['known'].any()


def test_pasted_at_the_original_size():
  """Padded 24 x 32, of which 24 x 20 is image; original 48 x 40."""
  made = task(drop_rate=0.5, block_size=4)
  raw, told = predict(made)
  one = jax.tree.map(lambda leaf: np.asarray(leaf)[0], raw)
  meta = {'unpadded': (24, 20), 'size': (48, 40)}
  blank = np.zeros(meta['size'], np.int32)
  found = made.paste(types.Segmentation(blank, blank), one, meta)
  expected = panoptic_ids.resize_nearest(
    np.asarray(told['instance'][0])[:, :10], (48, 40)
  )
  np.testing.assert_array_equal(found.instance, expected)
  np.testing.assert_array_equal(found.semantic, expected > 0)
  same = types.Segmentation(blank, blank)
  assert task(keep_given=False).paste(same, {}, meta) is same


def test_classes_of_what_is_pasted():
  semantic = np.array([[2, 2, 1, 1, 0, 0]], np.int32)
  instance = np.array([[5, 5, 6, 6, 0, 0]], np.int32)
  score = np.full((1, 6), 0.5, np.float32)
  ids = np.array([[6, 0, 0, 7, 5, 8]], np.int32)
  known = np.array([[1, 0, 1, 1, 1, 1]], bool)
  found = paste(types.Segmentation(semantic, instance, score), ids, known)
  assert found.instance.tolist() == [[6, 5, 0, 7, 5, 8]]
  # 6 and 5 have their segments' classes, 7 that of what it covers, 8 none.
  assert found.semantic.tolist() == [[1, 2, 0, 1, 2, 1]]
  assert found.score.tolist() == [[1, 0.5, 1, 1, 1, 1]]
  for leaf in found[:2]:
    assert leaf.dtype == np.int32


class Echo:
  """A model that says what it is given, on a background of segment 3."""

  def postprocess(self, raw, meta):
    ids = panoptic_ids.resize_nearest(raw['ids'], meta['size'])
    return types.Segmentation(np.ones_like(ids), ids)


@pytest.mark.parametrize('keep', [True, False])
def test_the_evaluation_loop_pastes(keep):
  """A model that says 3 everywhere: what is kept is right, the rest wrong."""
  ids = np.ones((1, *SIZE), np.int32)
  ids[:, :, 8:] = 2
  made = task(block_size=4, drop_rate=0.0, keep_given=keep)
  meta = {
    'size': SIZE,
    'unpadded': SIZE,
    'truth': {
      'ids': ids[0],
      'segments': (types.Segment(1, 1), types.Segment(2, 1)),
    },
  }
  examples = {
    'image': np.zeros((1, *SIZE, 3), np.uint8),
    'instance': ids,
    'index': np.arange(1),
    'meta': [meta],
  }
  found = evaluate.evaluate(
    Echo(),
    made,
    {},
    [examples],
    sample_fn=lambda params, batch, keys: {
      'ids': jnp.full_like(batch['given']['instance'], 3)
    },
  )
  assert found['pq'] == (1.0 if keep else 0.0)
  assert 'miou' not in found


@pytest.mark.parametrize(
  ('kwargs', 'message'),
  [
    ({'block_size': 0}, 'block_size=0 must be a whole number'),
    ({'block_size': 2.5}, 'block_size=2.5 must be'),
    ({'drop_rate': 1.1}, r'drop_rate=1.1 must lie in \[0, 1\]'),
    ({'drop_rate': float('nan')}, 'drop_rate=nan'),
    ({'pixels': -0.1}, r'pixels=-0.1 must lie in \[0, 1\]'),
    ({'split_things': True}, 'set it False for inpainting'),
    ({'min_pixels': -1}, 'min_pixels=-1'),
  ],
)
def test_bad_arguments(kwargs, message):
  with pytest.raises(ValueError, match=message):
    task(**kwargs)


def test_it_is_registered():
  assert TASKS['inpainting'] is InpaintingTask


def test_eight_devices_are_one():
  experiment = toy_experiment(doubt=0.3)
  asked = InpaintingTask(
    CATEGORIES, class_agnostic=True, merge_stuff=False, block_size=4
  )
  batches = list(experiment.eval_batches(8))
  assert len(batches[0]['index']) == 8
  found = []
  mesh = sharding.make_mesh((('data', 8), ('fsdp', 1), ('tensor', 1)))
  for where in (None, mesh):
    params = {'net': {}, 'stats': {}, 'frozen': {}}
    maps = []
    evaluate.evaluate(
      experiment.model,
      asked,
      params,
      batches,
      sample_fn=evaluate.make_sampler(
        experiment.model,
        timesteps=experiment.timesteps(2),
        sampler=experiment.sampler,
        mesh=where,
      ),
      mesh=where,
      on_example=lambda found, meta, maps=maps: maps.append(found.instance),
    )
    found.append(maps)
  for one, eight in zip(*found, strict=True):
    assert len(np.unique(one)) > 1
    np.testing.assert_array_equal(one, eight)
