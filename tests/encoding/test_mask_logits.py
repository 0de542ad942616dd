"""LDMSeg's read-out: the original's maps exactly, and its rules one by one."""

import re

import jax
import numpy as np
import oracles
import pytest

from pix2seqd_jax.encoding import mask_logits
from pix2seqd_jax.encoding.mask_logits import Thresholds

_KINDS = {'max': 'max', 'topk_diff': 'margin', 'nothreshold': 'none'}


def test_the_originals_maps(shared):
  path = shared / 'oracles' / 'ldmseg_post' / 'panoptic_postprocess.npz'
  z = oracles.load_npz(path)
  keys = [key for key in z if key.endswith('/panoptic')]
  assert len(keys) == 57
  for key in keys:
    who, kind, mask, overlap, count, i = re.fullmatch(
      r'(ldm|ae)_(\w+)_mask([\d.]+)_overlap([\d.]+)_count(\d+)/(\d)/panoptic',
      key,
    ).groups()
    thresholds = Thresholds(
      mask=float(mask),
      overlap=float(overlap),
      min_pixels=int(count),
      confidence=_KINDS[kind],
      overlap_of='logits' if who == 'ae' else 'sigmoid',
    )
    is_image = z['padding_mask'][int(i)].astype(bool)
    unpadded = tuple(int(is_image.any(axis).sum()) for axis in (1, 0))
    first = np.argwhere(is_image)[0]
    # Theirs may be padded on any side; ours is below and to the right.
    logits = np.moveaxis(z['logits'][int(i)], 0, -1)
    padded = tuple(z['resize_to'].tolist())
    if first.any():
      whole = mask_logits.resize_bilinear(logits, padded)
      logits = whole[first[0] :, first[1] :][: unpadded[0], : unpadded[1]]
      padded = unpadded
    read = mask_logits.segments_of(
      logits,
      tuple(z['im_sizes_hw'][int(i)].tolist()),
      thresholds,
      padded=padded,
      unpadded=unpadded,
    )
    # Their ids are ours plus one.
    ours = np.where(read.ids > 0, read.ids + 1, 0)
    np.testing.assert_array_equal(ours, z[key], err_msg=key)


@pytest.mark.parametrize('size', [(7, 9), (14, 20), (3, 4), (1, 1), (5, 31)])
def test_resizing_is_jaxs(size):
  x = np.random.default_rng(0).normal(size=(7, 10, 3)).astype(np.float32)
  expected = jax.image.resize(x, (*size, 3), 'bilinear', antialias=False)
  ours = mask_logits.resize_bilinear(x, size)
  np.testing.assert_allclose(ours, expected, atol=1e-5)


def image():
  """Logits of ids 0..3: a large 1, a small 2, nothing of 3; sure but for a
  row between."""
  logits = np.full((8, 8, 4), -9.0, np.float32)
  logits[:, :, 1] = 9
  logits[:2, :2] = -9
  logits[:2, :2, 2] = 9
  logits[7] = 0
  return logits


def test_rules_one_by_one():
  def ids(**kwargs):
    rest = {'mask': 0, 'overlap': 0, 'min_pixels': 0} | kwargs
    return mask_logits.segments_of(image(), (8, 8), Thresholds(**rest)).ids

  plain = ids()
  assert (plain[:2, :2] == 2).all() and plain[3, 3] == 1
  assert not ids(min_pixels=5)[:2, :2].any()
  assert (ids(min_pixels=4) == plain).all()
  assert not ids(mask=0.5)[7].any()
  assert not ids(mask=0.1, confidence='margin')[7].any()
  # The sigmoid of id 1 is a half in the last row, where another id may win.
  logits = image()
  logits[6:, :, 3] = 20
  logits[6:, :, 1] = 9
  rest = {'mask': 0.5, 'min_pixels': 0}
  for overlap, is_kept in ((0.7, True), (0.8, False)):
    found = mask_logits.segments_of(
      logits, (8, 8), Thresholds(overlap=overlap, **rest)
    )
    assert (found.ids == 1).any() == is_kept  # 44 of its 60 pixels


def test_padding_goes_first():
  whole = mask_logits.segments_of(
    image(), (4, 8), padded=(16, 16), unpadded=(8, 16)
  )
  half = mask_logits.segments_of(image()[:4], (4, 8))
  np.testing.assert_array_equal(whole.ids, half.ids)


def test_strips_of_rows_change_nothing(monkeypatch):
  rng = np.random.default_rng(0)
  logits = rng.normal(size=(6, 7, 5)).astype(np.float32)
  thresholds = Thresholds(mask=0.3, overlap=0.2, min_pixels=3)

  def read():
    return mask_logits.segments_of(logits, (23, 15), thresholds)

  whole = read()
  monkeypatch.setattr(mask_logits, '_STRIP', 4 * 15 * 5)  # 4 rows
  strips = read()
  np.testing.assert_array_equal(whole.ids, strips.ids)
  np.testing.assert_array_equal(whole.score, strips.score)


@pytest.mark.parametrize(
  'fields, words',
  [
    ({'mask': 1.5}, 'task.mask=1.5 must be 0 to 1'),
    ({'min_pixels': -1}, 'task.min_pixels=-1'),
    ({'confidence': 'sure'}, "task.confidence='sure' is unknown"),
    ({'overlap_of': 'x'}, "task.overlap_of='x' is unknown"),
  ],
)
def test_refused(fields, words):
  with pytest.raises(ValueError, match=words):
    Thresholds(**fields).check('task')
