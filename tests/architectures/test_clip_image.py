"""Images for CLIP, the tower that sees them, and both towers' space."""

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest

from pix2seqd_jax.architectures import clip_image
from pix2seqd_jax.architectures.clip_image import CLIP, CLIPImage
from pix2seqd_jax.pretrained import clip

FIELDS = {'image_size': 11, 'patch_size': 3, 'width': 8, 'num_layers': 2}
FIELDS |= {'num_heads': 2, 'mlp_dim': 12}
TEXT = {'vocab_size': 20, 'width': 6, 'num_layers': 1, 'num_heads': 2}
TEXT |= {'mlp_dim': 8, 'num_positions': 5}


def tiny(**changes):
  return CLIP(text=TEXT, image=FIELDS, embedding_dim=7, **changes)


@pytest.fixture(scope='module')
def inputs():
  rng = np.random.default_rng(0)
  image = jnp.asarray(rng.normal(size=(2, 11, 11, 3)), jnp.float32)
  return image, jnp.asarray([[1, 4, 19, 0, 0], [3, 19, 2, 2, 2], [7] * 5])


@pytest.fixture(scope='module')
def variables(inputs):
  return oracles.random_variables(tiny(), *inputs)


@pytest.fixture(scope='module')
def see(variables):
  """image -> states of the tiny image tower, compiled once."""
  module = CLIPImage(**FIELDS)
  params = {'params': variables['params']['vision_model']}
  return jax.jit(lambda image: module.apply(params, image))


@pytest.mark.parametrize(
  ('module', 'expected'),
  [
    (CLIP(), 151_277_313),
    (
      CLIP(
        text={},
        image={
          'width': 1024,
          'num_layers': 24,
          'num_heads': 16,
          'mlp_dim': 4096,
          'patch_size': 14,
        },
        embedding_dim=768,
      ),
      427_616_513,
    ),
  ],
  ids=['B/32', 'L/14'],
)
def test_number_of_parameters(module, expected):
  leaves = jax.tree.leaves(clip.shapes(module))
  assert sum(leaf.size for leaf in leaves) == expected


def test_states(inputs, see):
  hidden, pooled = see(inputs[0])
  assert hidden.shape == (2, 1 + 3 * 3, 8) and pooled.shape == (2, 8)
  # What is left of incomplete patches at the right and at the bottom.
  same = see(inputs[0].at[:, 9:].set(0).at[:, :, 9:].set(0))
  np.testing.assert_array_equal(same.hidden, hidden)
  # Every patch is seen by all tokens.
  other = see(inputs[0].at[:, 4, 7].add(1)).hidden
  assert (jnp.abs(other - hidden).max(axis=(0, 2)) > 1e-5).all()


def test_patches_are_numbered_row_by_row(inputs, variables):
  """Without layers' mixing: a token is its patch times the kernel."""
  params = variables['params']['vision_model']
  zero = jax.tree.map(jnp.zeros_like, params['encoder'])
  norm = {'scale': jnp.ones(8), 'bias': jnp.zeros(8)}
  params = {**params, 'encoder': zero, 'pre_layrnorm': norm}
  image = np.asarray(inputs[0], np.float64)
  hidden = jax.jit(CLIPImage(**FIELDS).apply)({'params': params}, inputs[0])[0]
  tables = jax.tree.map(np.asarray, params['embeddings'])
  kernel = tables['patch_embedding']['kernel']
  patch = np.einsum('byxc,yxcd->bd', image[:, 3:6, 6:9], kernel)
  positions = tables['position_embedding']['embedding']
  for token, embedded in (
    (1 + 1 * 3 + 2, patch),
    (0, tables['class_embedding'][None]),
  ):
    x = embedded + positions[token]
    x = x - x.mean(-1, keepdims=True)
    x = x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-5)
    np.testing.assert_allclose(
      hidden[:, token], np.broadcast_to(x, (2, 8)), rtol=1e-4, atol=1e-5
    )


def test_both_towers_in_one_space(inputs, variables, see):
  image, ids = inputs

  @jax.jit
  def run(variables):
    found = tiny().apply(variables, image, ids)
    alone = tiny().apply(variables, ids[1:2], method='embed_text')
    return found, alone

  found, alone = run(variables)
  assert found.image.shape == (2, 7) and found.text.shape == (3, 7)
  for vectors in (found.image, found.text):
    np.testing.assert_allclose(jnp.linalg.norm(vectors, axis=-1), 1, rtol=1e-5)
  np.testing.assert_allclose(alone[0], found.text[1], rtol=1e-4, atol=1e-6)
  params = variables['params']
  projected = see(image).pooled @ params['visual_projection']['kernel']
  cosines = jnp.sum(projected * found.image, axis=-1)
  np.testing.assert_allclose(
    cosines, jnp.linalg.norm(projected, axis=-1), rtol=1e-4
  )
  np.testing.assert_allclose(found.scale, jnp.exp(params['logit_scale']))


def test_vectors_are_never_in_half_precision(inputs, variables):
  module = tiny(dtype=jnp.bfloat16)
  found = jax.eval_shape(lambda: module.apply(variables, *inputs))
  assert {leaf.dtype for leaf in found} == {jnp.dtype('float32')}


def test_a_image_of_another_size():
  image = jax.ShapeDtypeStruct((1, 11, 12, 3), jnp.float32)
  with pytest.raises(ValueError, match=r'images of \(11, 12\) must be of'):
    jax.eval_shape(CLIPImage(**FIELDS).init, jax.random.key(0), image)
  with pytest.raises(ValueError, match='width=8 must be a multiple of'):
    jax.eval_shape(
      CLIPImage(**(FIELDS | {'num_heads': 3})).init, jax.random.key(0), image
    )


@pytest.mark.parametrize('shape', [(40, 40), (40, 61), (61, 40), (9, 30)])
def test_prepared_images(shape):
  rng = np.random.default_rng(1)
  # Far from 0 and 255, where Pillow cuts what overshoots after each axis.
  image = rng.integers(90, 160, (*shape, 3), dtype=np.uint8)
  found = clip_image.prepare(image, 20)
  assert found.shape == (20, 20, 3) and found.dtype == np.float32
  # The same image on its side, as filters know no direction.
  turned = clip_image.prepare(np.ascontiguousarray(image.swapaxes(0, 1)), 20)
  levels = (found - turned.swapaxes(0, 1)) * np.array(clip_image.STD) * 255
  assert np.abs(levels).max() < 3.1  # Pillow rounds after each axis
  # One colour stays itself.
  flat = clip_image.prepare(np.full((*shape, 3), 51, np.uint8), 20)
  expected = (0.2 - np.array(clip_image.MEAN)) / np.array(clip_image.STD)
  np.testing.assert_allclose(flat, np.broadcast_to(expected, (20, 20, 3)), 1e-5)


def test_the_centre_is_cut_out():
  image = np.zeros((20, 41, 3), np.uint8)
  image[:, 10:30] = np.arange(20)[:, None]
  found = clip_image.prepare(image, 20)
  expected = np.arange(20)[:, None] / 255
  levels = found * np.array(clip_image.STD) + np.array(clip_image.MEAN)
  np.testing.assert_allclose(
    levels, np.broadcast_to(expected, (20, 20, 3)), atol=1e-6
  )
