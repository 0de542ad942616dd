"""Reflow: pairs of a teacher whose field is known."""

import jax
import jax.numpy as jnp
import known_flow
import numpy as np
import pytest

from pix2seqd_jax.models.reflow import SemFlowReflow

BATCH = known_flow.batch(4)


class Toy(known_flow.Toy, SemFlowReflow):
  """The field of the toy."""


class Constant(Toy):
  """One velocity everywhere: paths are straight already."""

  def _unet(self, params, x, time, train, rng):
    return params['net']['unet']['pull'] * jnp.ones_like(x)


def make(kind=Toy, **changes):
  return kind(**{**known_flow.KWARGS, 'posterior': 'mode', **changes})


def without(key):
  return {k: v for k, v in BATCH.items() if k != key}


def test_pairs_are_the_ends_of_the_teachers_paths():
  params = known_flow.params(pull=0.0, teacher=1.0)
  key = jax.random.key(0)
  one = make(teacher_steps=200)
  x_0, x_1, begin = one.pairs(params, without('semantic'), key)
  image = one.encode(params, BATCH, None).condition['latent']
  np.testing.assert_array_equal(x_1, image)
  np.testing.assert_array_equal(begin, 1)
  assert np.abs(x_0 - x_1).max() > 0.1

  back = make(direction='synthesize', teacher_steps=200, perturbation=0)
  mask, _ = back.target(params, BATCH, key)
  x_0, x_1, begin = back.pairs(params, BATCH, key)
  np.testing.assert_array_equal(x_0, mask)
  np.testing.assert_array_equal(begin, 0)
  # The same path, from its other end.
  again = make(teacher_steps=200)
  again = again.pairs(params, {**BATCH, 'image_latent': x_1 / 0.5}, key)
  np.testing.assert_allclose(again[0], mask, atol=5e-3)


def test_both_directions_share_a_batch():
  params = known_flow.params(teacher=1.0)
  both = make(direction='both', teacher_steps=2)
  x_0, x_1, begin = both.pairs(params, BATCH, jax.random.key(0))
  assert x_0.shape == x_1.shape == (4, 4, 4, 4)
  np.testing.assert_array_equal(begin, [1, 1, 0, 0])
  alone = jax.tree.map(lambda x: x[:1], BATCH)
  with pytest.raises(ValueError, match='needs two examples'):
    both.pairs(params, alone, jax.random.key(0))


@pytest.mark.parametrize('direction', ['segment', 'synthesize', 'both'])
@pytest.mark.parametrize('one_step', [False, True])
def test_a_straight_teacher_is_its_own_student(direction, one_step):
  model = make(Constant, direction=direction, one_step=one_step)
  loss = lambda *pulls: model.loss_fn(
    known_flow.params(*pulls), BATCH, jax.random.key(0)
  )[0]
  assert loss(0.7, 0.7) < 1e-9
  np.testing.assert_allclose(loss(0.2, 0.7), 0.25, rtol=1e-4)


def test_distillation_sees_the_beginning_alone():
  """A student that is right at t = 1 and wrong elsewhere has no loss."""

  class Late(Constant):
    def _unet(self, params, x, time, train, rng):
      wrong = (time > 0)[:, None, None, None]
      right = super()._unet(params, x, time, train, rng)
      return right + wrong * (params['net']['unet']['pull'] != 0.7)

  params = known_flow.params(0.7 + 1e-6, 0.7)
  key = jax.random.key(0)
  assert make(Late, one_step=True).loss_fn(params, BATCH, key)[0] < 1e-9
  assert make(Late).loss_fn(params, BATCH, key)[0] > 0.9


def test_init_has_a_teacher():
  model = SemFlowReflow(**known_flow.KWARGS)
  shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), None))
  assert shapes['frozen']['teacher'] == shapes['net']['unet']
  assert 'image' in shapes['frozen']


def test_bad_arguments_are_named():
  with pytest.raises(ValueError, match="Did you mean 'segment'"):
    make(direction='segments')
  with pytest.raises(ValueError, match='teacher_steps=0'):
    make(teacher_steps=0)
