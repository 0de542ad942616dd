"""What an evaluation tells: its table, and what is drawn beside what."""

import numpy as np
from toy_semflow import PARAMS, toy_flow

from pix2seqd_jax.data.formats import label_maps
from pix2seqd_jax.experiment import runs
from pix2seqd_jax.pretrained import perceptual
from pix2seqd_jax.visualize import overlays, reports


class Writer:
  def write_images(self, step, images):
    self.step, self.images = step, images


class Colours:
  """Means in place of networks."""

  network, is_trained = 'random vgg', False

  def __init__(self, **files):
    pass

  def embed(self, images):
    return images.mean((1, 2))

  def distance(self, x, y):
    return (x - y).mean((1, 2, 3))


def panels(experiment):
  experiment.config['train']['num_panels'] = 2
  experiment.config['eval']['num_examples'] = 3
  writer = Writer()
  runs.evaluate_params(experiment, PARAMS, writer=writer, step=5)
  assert writer.step == 5 and list(writer.images) == ['eval/0', 'eval/1']
  for panel in writer.images.values():
    assert panel.dtype == np.uint8 and panel.ndim == 3
  return writer.images['eval/0']


def test_synthesis_shows_the_mask_the_image_and_what_is_seen_in_it(
  monkeypatch,
):
  monkeypatch.setattr(perceptual, 'Features', Colours)
  experiment = toy_flow('synthesis')
  found = panels(experiment)
  side = 256
  assert 4 * side <= found.shape[1] < 5 * side
  example = experiment.source('eval')[0]
  mask = label_maps.label_map(
    example['ids'], example['segments'], experiment.categories, 'classes'
  )
  given = overlays.paint(*overlays.as_map(mask), experiment.categories)
  cell = (found.shape[1] + 6) // 4
  head = 18  # the caption
  for column in (1, 3):  # this flow sees what it drew
    shown = found[head : head + side, column * cell : column * cell + side]
    shown = shown[:: side // given.shape[0], :: side // given.shape[1]]
    assert (shown == given).all(-1).mean() > 0.8


def test_segmentation_shows_truth_and_prediction():
  found = panels(toy_flow())
  assert 3 * 256 <= found.shape[1] < 4 * 256


def test_the_table_of_classes_and_whose_features_were_compared():
  scores = {'pq': 0.25, 'sq': 0.5, 'rq': 0.5, 'miou': 0.75}
  found = reports.table({**scores, 'iou_class/a': 0.1}, ['a']).split('\n')
  assert found == [
    '           PQ     SQ     RQ',
    'all     0.250  0.500  0.500',
    'miou: 0.750',
  ]
  made = {
    'fid': 3.0,
    'fid_is_inception': 0.0,
    'lpips_pairwise': 0.5,
    'lpips_is_trained': 1.0,
    'resegmentation_miou': 0.5,
    'resegmentation_iou_class/sky': 0.5,
  }
  assert reports.table(made, ['sky', 'sea']).split('\n') == [
    '       IOU',
    'sky  0.500',
    'fid: 3.000 (features of VGG-16, not of Inception)',
    'lpips_pairwise: 0.500',
    'resegmentation_miou: 0.500',
  ]
