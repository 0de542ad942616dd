"""Votes against the slow way: probabilities of all pixels, then their mean."""

import numpy as np
import pytest

from pix2seqd_jax.encoding import mask_logits, segment_classes


def drawn(size=(6, 9), out=(13, 20), seed=0):
  rng = np.random.default_rng(seed)
  logits = rng.normal(size=(*size, 5)).astype(np.float32)
  ids = np.repeat(np.repeat(rng.integers(0, 7, (4, 5)), 4, 0), 4, 1)
  ids = ids[: out[0], : out[1]].astype(np.int32)
  return logits, 1000 * ids


def values_of(logits, kind):
  if kind == 'majority':
    return np.eye(logits.shape[-1], dtype=np.float32)[logits.argmax(-1)]
  values = np.exp(logits)
  return values / values.sum(-1, keepdims=True)


def slowly(values, ids):
  found = np.zeros(ids.shape, int)
  for name in set(ids[ids > 0].tolist()):
    found[ids == name] = values[ids == name].mean(0).argmax()
  return found


@pytest.mark.parametrize('kind', segment_classes.VOTES)
@pytest.mark.parametrize('size', [(6, 9), (13, 20), (30, 7), (1, 1)])
def test_the_vote_of_all_pixels(kind, size):
  logits, ids = drawn(size)
  values = mask_logits.resize_bilinear(values_of(logits, kind), ids.shape)
  found = segment_classes.vote(logits, ids, kind)
  assert found.dtype == np.int32 and (found[ids == 0] == 0).all()
  np.testing.assert_array_equal(found, slowly(values, ids))


def test_padding_has_no_vote():
  logits, ids = drawn((8, 8), (12, 16))
  logits[6:] = [9, 0, 0, 0, 0]  # what is below the image: all void
  values = mask_logits.resize_bilinear(values_of(logits, 'mean'), (16, 16))
  expected = slowly(values[:12], ids)
  found = segment_classes.vote(logits, ids, padded=(32, 32), unpadded=(24, 32))
  np.testing.assert_array_equal(found, expected)
  assert (found[ids > 0] > 0).any()


def test_void_may_win_and_mean_and_majority_differ():
  probabilities = np.array([[0.1, 0.9, 0.0], [0.1, 0.4, 0.5], [0.1, 0.4, 0.5]])
  with np.errstate(divide='ignore'):
    logits = np.log(probabilities)[None].astype(np.float32)
  ids = np.ones((1, 3), np.int32)
  assert (segment_classes.vote(logits, ids) == 1).all()
  assert (segment_classes.vote(logits, ids, 'majority') == 2).all()
  logits[..., 0] = 7
  assert (segment_classes.vote(logits, ids) == 0).all()


def test_a_image_without_segments():
  logits, ids = drawn()
  assert (segment_classes.vote(logits, 0 * ids) == 0).all()


def test_refused():
  with pytest.raises(ValueError, match="vote='most' is unknown"):
    segment_classes.vote(*drawn(), 'most')
