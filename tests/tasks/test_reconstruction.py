import numpy as np
import pytest

from pix2seqd_jax import types
from pix2seqd_jax.data.transforms import resize
from pix2seqd_jax.tasks.reconstruction import ReconstructionTask


def postprocess(image):
  void = np.zeros((2, 2), np.int32)
  return types.Segmentation(void, void, image=image)


@pytest.fixture
def image():
  return np.random.default_rng(0).integers(0, 256, (20, 32, 3), np.uint8)


def test_the_image_itself_is_perfect(image):
  task = ReconstructionTask(())
  found = task.refine(postprocess(image))
  assert task.metrics(found, {'image': image}).compute()['psnr'] == 100
  assert set(task.empty().compute()) == {'psnr', 'l1'}


def test_what_the_resize_takes_away_does_not_count(image):
  """The network saw the image as the eval transforms made it."""
  seen = resize.resize_image(image, (10, 16))
  score = ReconstructionTask(()).metrics(postprocess(seen), {'image': image})
  assert score.compute()['psnr'] == 100


def test_a_model_that_draws_nothing_is_refused(image):
  with pytest.raises(ValueError, match=r"task\.name='reconstruction'"):
    ReconstructionTask(()).metrics(postprocess(None), {'image': image})
