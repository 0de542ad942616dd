"""What is exported is what the reader of COCO panoptic files reads."""

import numpy as np
import pytest
from smoke import smoke_config

from pix2seqd_jax.cli import export_data
from pix2seqd_jax.data.formats import writers
from pix2seqd_jax.data.readers.coco_instances import CocoInstances
from pix2seqd_jax.data.readers.coco_panoptic import CocoPanoptic
from pix2seqd_jax.experiment import build, workdir


@pytest.fixture
def run(tmp_path):
  """A work directory before its first step."""
  workdir.save(build.Experiment(smoke_config()), tmp_path / 'run')
  return tmp_path / 'run'


def test_examples_survive_as_files(run, tmp_path):
  output = export_data.export(run, tmp_path / 'out', num_examples=3)
  read = CocoPanoptic(
    output / 'images', output / 'panoptic', output / 'panoptic.json'
  )
  source = workdir.load(run).source('eval')
  assert len(read) == 3 and read.categories == source.categories
  for i in range(3):
    ours, theirs = source[i], read[i]
    np.testing.assert_array_equal(theirs['image'], ours['image'])
    np.testing.assert_array_equal(theirs['ids'], ours['ids'])
    assert theirs['segments'] == ours['segments']


def test_things_survive_as_instances(run, tmp_path):
  formats = tuple(writers.FORMATS)
  output = export_data.export(run, tmp_path, num_examples=2, formats=formats)
  read = CocoInstances(output / 'images', output / 'instances.json')
  source = workdir.load(run).source('eval')
  for i in range(2):
    things = [
      s.id
      for s in source[i]['segments']
      if source.categories[s.class_id - 1].is_thing
    ]
    shown = np.isin(source[i]['ids'], things)
    np.testing.assert_array_equal(read[i]['ids'] > 0, shown)
    assert len(read[i]['segments']) == len(things)
  with pytest.raises(ValueError, match="'coco' is unknown"):
    export_data.export(run, tmp_path, formats=('coco',))


def test_errors(run, tmp_path):
  with pytest.raises(ValueError, match='num_examples=0'):
    export_data.export(run, tmp_path / 'out', num_examples=0)
  with pytest.raises(ValueError, match=r'config\.json does not exist'):
    export_data.export(tmp_path / 'nowhere', tmp_path / 'out')
