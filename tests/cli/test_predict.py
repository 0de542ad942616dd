"""Images -> files, by a run."""

import shutil

import pytest
from PIL import Image

from pix2seqd_jax.cli import predict


@pytest.fixture
def copy(smoke_run, tmp_path):
  """The finished run, to be written to."""
  return shutil.copytree(smoke_run.workdir, tmp_path / 'run')


def test_predict_writes_into_the_work_directory(copy, tmp_path):
  images = tmp_path / 'images'
  images.mkdir()
  Image.new('L', (40, 30), 90).save(images / 'gray.png')
  where = predict.predict(copy, [images])
  assert where == copy / 'predictions'
  for name in ('panoptic.json', 'panoptic/gray.png', 'overlays/gray.png'):
    assert (where / name).is_file()


def test_predict_says_what_is_wrong_with_its_inputs(copy, tmp_path):
  empty = tmp_path / 'empty'
  empty.mkdir()
  for inputs, message in (
    ([], '--inputs is empty'),
    ([empty], 'has no images'),
    ([tmp_path / 'gone'], 'does not exist'),
  ):
    with pytest.raises(ValueError, match=message):
      predict.predict(copy, inputs)
