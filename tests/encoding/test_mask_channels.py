"""Ids as channels: the original's bits, and what every kind promises."""

import jax.numpy as jnp
import numpy as np
import oracles
import pytest

from pix2seqd_jax.encoding import mask_channels
from pix2seqd_jax.encoding.mask_channels import MaskChannels


def test_the_originals_bits(shared):
  z = oracles.load_npz(shared / 'oracles' / 'ldmseg_post' / 'bitmap.npz')
  ids = np.where(z['ignore_mask'], 0, z['ids'])
  for num_bits in (7, 8):
    kept = np.where(ids < 2**num_bits, ids, 0)
    ours = MaskChannels(2**num_bits).encode(kept)
    theirs = np.moveaxis(z[f'net_input/n{num_bits}_fill0.5'], 0, -1)
    same = ids < 2**num_bits
    assert same.any()
    np.testing.assert_array_equal(ours[same], theirs[same])


@pytest.mark.parametrize('kind', mask_channels.KINDS)
@pytest.mark.parametrize('num_ids', [2, 16, 100, 128])
def test_every_id_is_another_and_void_is_the_middle(kind, num_ids):
  channels = MaskChannels(num_ids, kind)
  table = channels.codebook()
  assert table.shape == (num_ids, channels.num_channels)
  assert not table[0].any()
  assert abs(table).max() <= 1
  gaps = np.linalg.norm(table[:, None] - table[None], axis=-1)
  assert (gaps + np.eye(num_ids)).min() > 1e-2


@pytest.mark.parametrize('kind', mask_channels.KINDS)
def test_numpy_is_jax_and_what_is_no_id_is_void(kind):
  channels = MaskChannels(20, kind)
  ids = np.array([[0, 1, 19], [20, -1, 255]])
  ours = channels.encode(ids)
  np.testing.assert_array_equal(ours, channels.encode(jnp.asarray(ids)))
  assert not ours[1].any() and not ours[0, 0].any()
  assert ours[0, 1:].any(-1).all()


def test_refused():
  with pytest.raises(ValueError, match="mask_encoding='hex' is unknown"):
    MaskChannels(4, 'hex')
  with pytest.raises(ValueError, match='num_ids=1 must be 2 to'):
    MaskChannels(1)
