"""The released autoencoder of masks: names and shapes, there and back."""

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

from pix2seqd_jax.architectures.mask_autoencoder import MaskAutoencoder
from pix2seqd_jax.pretrained import mask_autoencoder as pretrained
from pix2seqd_jax.pretrained import part, save


def released():
  """{name: shape} of the release, by the table of its layers."""

  def layer(name, *weight, bias=None):
    return {
      f'{name}.weight': weight,
      f'{name}.bias': (weight[0] if bias is None else bias,),
    }

  found = {}
  for name, width, before in (
    ('0', 32, 7),
    ('2', 32, 32),
    ('3', 64, 32),
    ('5', 64, 64),
    ('6', 128, 64),
    ('8', 128, 128),
    ('9', 256, 128),
    ('11', 256, 256),
    ('15', 8, 256),
  ):
    found |= layer(f'encoder.{name}', width, before, 3, 3)
  found |= layer('encoder.13', 256)
  found |= layer('decoder.0', 256, 4, 3, 3)
  for name in ('2', '5'):
    found |= layer(f'decoder.{name}', 256, 256, 2, 2)
  for name in ('3', '6', '8'):
    found |= layer(f'decoder.{name}', 256)
  return found | layer('decoder.10', 128, 256, 3, 3)


@pytest.mark.parametrize('prefix', ['', 'module.', 'vae_semseg.'])
def test_the_release(prefix):
  tensors = {
    prefix + name: jax.ShapeDtypeStruct(shape, np.float32)
    for name, shape in released().items()
  }
  module, plan = part.plan(pretrained.PART, tensors)
  assert module == MaskAutoencoder()
  assert len(plan.rows) == 34


@pytest.mark.parametrize('ups', [0, 1, 2])
def test_there_and_back(tmp_path, ups):
  module = MaskAutoencoder(
    in_channels=3,
    widths=(32, 64, 96),
    hidden=64,
    latent_channels=2,
    num_upscalers=ups,
    upscale_channels=32 if ups else 256,
    out_channels=5,
  )
  # Without doublings the layer before the logits has the hidden width.
  rng = np.random.default_rng(0)
  ours = jax.tree.map(
    lambda leaf: rng.normal(size=leaf.shape).astype(np.float32),
    dict(pretrained.shapes_of(module)),
  )
  path = save.save(pretrained.PART, module, ours, tmp_path)
  tensors = load_file(path)
  found, plan = part.plan(pretrained.PART, tensors)
  assert found == module
  jax.tree.map(np.testing.assert_array_equal, plan.tree(tensors), ours)


def test_another_network_is_refused():
  tensors = {
    name: jax.ShapeDtypeStruct(shape, np.float32)
    for name, shape in released().items()
  }
  with pytest.raises(ValueError, match='num_mid_blocks=1 is not implemented'):
    part.plan(pretrained.PART, tensors, {'num_mid_blocks': 1})
