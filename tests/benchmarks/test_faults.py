"""Damage is found where it was done, and a run goes on without it."""

import logging

import numpy as np
import pytest
from panoptic_layout import Layout

from benchmarks import faults
from pix2seqd_jax.data import pipeline
from pix2seqd_jax.data.formats import bad_examples
from pix2seqd_jax.data.readers.coco_panoptic import CocoPanoptic
from pix2seqd_jax.data.validate import validate


@pytest.fixture
def places(tmp_path):
  layout = Layout(tmp_path, count=40)
  layout.write()
  return {key: str(place) for key, place in layout.args.items()}


def test_all_damage_is_found_and_skipped_once(places, tmp_path):
  assert validate(CocoPanoptic, places).found == []
  damaged = faults.damage(places, fraction=0.2, seed=1)
  assert len(damaged) == 16 and len({d.index for d in damaged}) == 16
  assert {d.way for d in damaged} == set(faults.WAYS) and len(faults.WAYS) == 8
  result = validate(CocoPanoptic, places)
  assert faults.compare(damaged, result.faults) == ([], [])
  # An epoch with 'skip', and one more: each is named once.
  skipped = bad_examples.BadExamples(tmp_path / bad_examples.FILE)
  batches = pipeline.train_batches(
    CocoPanoptic(**places),
    (('pad', {'size': (8, 8)}),),
    batch_size=5,
    seed=0,
    on_bad=lambda *args: skipped.add('train', *args),
  )
  logging.disable()
  seen = np.concatenate([next(batches)['index'] for _ in range(16)])
  logging.disable(logging.NOTSET)
  bad = {d.index for d in damaged}
  assert bad.isdisjoint(seen.tolist()) and len(bad | set(seen.tolist())) == 40
  rows = bad_examples.read(skipped.path)
  assert sorted(row['index'] for row in rows) == sorted(bad)
  files = {d.index: d.file for d in damaged}
  assert all(
    files[row['index']] in f'{row["file"]} {row["reason"]}' for row in rows
  )


def test_what_is_missed_or_made_up_is_told(places):
  damaged = faults.damage(places, fraction=0.2, seed=1)
  found = validate(CocoPanoptic, places).faults
  first = damaged[0]
  missed, false = faults.compare(
    damaged, [f for f in found if f.file != first.file]
  )
  assert missed == [(first.rule, first.file)] and not false
  missed, false = faults.compare(damaged[1:], found)
  assert not missed and false == [(first.rule, first.file)]


def test_each_miss_fails_the_bar():
  damaged = [faults.Damage('w', 'r', 0, 'f')]
  good = (damaged, [], [], [], True, [1], [])
  assert faults._verdict(*good)[0]
  for i, bad in ((1, ['x']), (2, ['x']), (3, ['x']), (4, False), (6, ['x'])):
    assert not faults._verdict(*good[:i], bad, *good[i + 1 :])[0]
  for named in ([0], [2]):
    assert not faults._verdict(*good[:5], named, [])[0]
