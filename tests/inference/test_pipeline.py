"""A trained folder, an image, a mask: what users call."""

import json

import numpy as np
import pytest
from PIL import Image

import pix2seqd_jax
from pix2seqd_jax.data.readers.coco_panoptic import CocoPanoptic
from pix2seqd_jax.inference import pipeline as pipeline_lib
from pix2seqd_jax.inference import tiling
from pix2seqd_jax.types import Segmentation
from pix2seqd_jax.visualize import palettes


@pytest.fixture(scope='module')
def pipe(smoke_run):
  found = pix2seqd_jax.Pipeline.from_pretrained(smoke_run.workdir)
  # Six steps of training give nothing but specks: keep them all.
  found.experiment.task.min_pixels = 0
  return found


def make_image(size=(50, 70), seed=0):
  return np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)


def test_a_result_names_its_segments(pipe):
  image = make_image()
  result = pipe.segment(image, steps=2)
  assert result.segmentation.shape == (50, 70)
  assert result.segmentation.dtype == np.int32
  np.testing.assert_array_equal(result.image, image)
  infos = result.segments_info
  assert infos, 'no segment at all'
  names = [category.name for category in pipe.categories]
  for info in infos:
    assert list(info) == ['id', 'label_id', 'label', 'score', 'area']
    assert info['label'] == names[info['label_id'] - 1]
    assert 0 <= info['score'] <= 1
    assert info['area'] == (result.segmentation == info['id']).sum() > 0
  void = (result.segmentation == 0).sum()
  assert sum(info['area'] for info in infos) + void == 50 * 70
  json.dumps(infos)
  overlay = result.overlay()
  assert overlay.dtype == np.uint8 and overlay.shape[-1] == 3
  assert overlay.shape[0] > 200  # enlarged, and with a legend


def test_the_seed_decides(pipe):
  image = make_image()
  first, again, other = (
    pipe.segment(image, steps=2, seed=seed) for seed in (3, 3, 4)
  )
  np.testing.assert_array_equal(first.segmentation, again.segmentation)
  assert first.segments == again.segments
  # So early the mask hardly heeds the noise; the scores always do.
  assert first.segments != other.segments


@pytest.mark.parametrize('size', [(1, 1), (3, 200), (64, 64), (300, 40)])
def test_any_size(pipe, size):
  result = pipe.segment(make_image(size), steps=2)
  assert result.segmentation.shape == size


def test_no_steps(pipe):
  with pytest.raises(ValueError, match='steps=0 must be a whole number'):
    pipe.segment(make_image(), steps=0)


@pytest.mark.parametrize(
  'mode', ['RGB', 'L', '1', 'P', 'RGBA', 'LA', 'CMYK', 'I;16']
)
def test_any_mode_of_image(pipe, mode, tmp_path):
  if mode == 'I;16':
    gray = make_image()[..., 0].astype(np.uint16) * 257
    image = Image.fromarray(gray)
    expected = np.repeat(make_image()[..., :1], 3, -1)
  else:
    image = Image.fromarray(make_image()).convert(mode)
    expected = np.asarray(image.convert('RGB'))
  np.testing.assert_array_equal(pipeline_lib.as_rgb(image), expected)
  path = tmp_path / ('a.tif' if mode == 'CMYK' else 'a.png')
  image.save(path)
  np.testing.assert_array_equal(pipeline_lib.as_rgb(path), expected)
  assert pipe.segment(path, steps=2).segmentation.shape == (50, 70)


def rotated(path, orientation=6):
  image = Image.fromarray(make_image((50, 70)))
  exif = image.getexif()
  exif[0x0112] = orientation
  image.save(path, exif=exif)
  return path


def test_exif_rotation_is_applied(pipe, tmp_path):
  path = rotated(tmp_path / 'turned.jpg')
  from_file = pipe.segment(path, steps=2)
  assert from_file.segmentation.shape == (70, 50)
  assert from_file.image.shape == (70, 50, 3)
  from_pil = pipe.segment(Image.open(path), steps=2)
  np.testing.assert_array_equal(from_pil.segmentation, from_file.segmentation)


@pytest.mark.parametrize(
  'image',
  [
    np.zeros((8, 8), np.uint8),
    np.zeros((8, 8, 4), np.uint8),
    np.zeros((8, 8, 3), np.float32),
    np.zeros((1, 8, 8, 3), np.uint8),
  ],
)
def test_arrays_that_are_no_image(pipe, image):
  with pytest.raises(ValueError, match=r'give uint8 \[h, w, 3\] RGB'):
    pipe.segment(image)


def test_an_image_without_pixels(pipe):
  with pytest.raises(ValueError, match='has no pixels'):
    pipe.segment(np.zeros((0, 8, 3), np.uint8))


def test_broken_files(pipe, tmp_path):
  for name, data in (('empty.png', b''), ('text.jpg', b'no image')):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(ValueError, match=name):
      pipe.segment(tmp_path / name)
  with pytest.raises(ValueError, match=r'gone\.png'):
    pipe.segment(tmp_path / 'gone.png')


def test_predictions_are_read_back_by_our_own_reader(pipe, tmp_path):
  folder, output = tmp_path / 'images', tmp_path / 'found'
  folder.mkdir()
  for i in range(2):
    Image.fromarray(make_image((40 + i, 60), i)).save(folder / f'{i}.png')
  rotated(folder / 'turned.jpg')
  (folder / 'notes.txt').write_text('not an image')
  assert pipe.predict([folder], output, steps=2, seed=1) == output
  read = CocoPanoptic(folder, output / 'panoptic', output / 'panoptic.json')
  assert read.categories == pipe.categories
  files = ['0.png', '1.png', 'turned.jpg']
  assert [example['file'] for example in read] == files
  for example in read:
    alone = pipe.segment(folder / example['file'], steps=2, seed=1)
    np.testing.assert_array_equal(example['image'], alone.image)
    np.testing.assert_array_equal(example['ids'], alone.segmentation)
    for ours, theirs in zip(alone.segments, example['segments'], strict=True):
      assert (ours.id, ours.class_id) == (theirs.id, theirs.class_id)
      assert ours.score == pytest.approx(theirs.score)
  overlays = sorted(p.name for p in (output / 'overlays').iterdir())
  assert overlays == ['0.png', '1.png', 'turned.png']
  for path in (output / 'overlays').iterdir():
    with Image.open(path) as image:
      assert image.mode == 'RGB' and min(image.size) > 100


def test_every_format_from_one_call(pipe, tmp_path):
  folder, output = tmp_path / 'images', tmp_path / 'found'
  folder.mkdir()
  for name in ('000139.png', '000285.png'):
    Image.fromarray(make_image((40, 60), int(name[:6]))).save(folder / name)
  pipe.predict(
    [folder],
    output,
    formats=pipeline_lib.FORMATS,
    palette='random',
    steps=2,
    num_samples=2,
    progress=False,
  )
  read = CocoPanoptic(folder, output / 'panoptic', output / 'panoptic.json')
  assert [example['image_id'] for example in read] == [139, 285]
  colors = palettes.colors(pipe.categories, 'random')
  results = json.loads((output / 'instances_results.json').read_text())
  assert {r['image_id'] for r in results} <= {139, 285}
  for name in ('000139.png', '000285.png'):
    result = pipe.segment(folder / name, steps=2, num_samples=2)
    with Image.open(output / 'palette' / name) as image:
      np.testing.assert_array_equal(image, result.palette_image())
      shown = np.asarray(image.convert('RGB'))
    np.testing.assert_array_equal(shown, colors[result.semantic()])
    with Image.open(output / 'labels' / name) as image:
      np.testing.assert_array_equal(image, result.semantic('ids'))
    with Image.open(output / 'agreement' / name) as image:
      fractions = np.asarray(image) / 255
    np.testing.assert_allclose(fractions, result.agreement, atol=1 / 255)
    ours = [r for r in results if r['image_id'] == int(name[:6])]
    for entry, expected in zip(ours, result.rle(), strict=True):
      assert entry['segmentation'] == expected['segmentation']
      assert entry['category_id'] == expected['category_id']
    assert (output / 'overlays' / name).is_file()
    alone = tmp_path / 'alone' / name
    result.save(alone, name, ('labels',))
    written = sorted(p.name for p in alone.iterdir())
    assert written == ['agreement', 'labels', 'labels.json']
  with pytest.raises(ValueError, match="format 'png' is unknown"):
    pipe.predict([folder], output, formats=('png',))


def test_samples_agree_in_shares(pipe):
  image = make_image()
  result = pipe.segment(image, steps=2, num_samples=2)
  assert result.agreement.dtype == np.float32
  assert result.agreement.shape == (50, 70)
  assert set(np.unique(result.agreement).tolist()) <= {0.5, 1}
  drawn = result.agreement_image()
  assert drawn.dtype == np.uint8 and drawn.shape[1] > 500
  again = pipe.segment(image, steps=2, num_samples=2)
  np.testing.assert_array_equal(result.agreement, again.agreement)
  assert pipe.segment(image, steps=2).agreement is None
  with pytest.raises(ValueError, match='one sample has no agreement'):
    pipe.segment(image, steps=2).agreement_image()
  with pytest.raises(ValueError, match='num_samples=0'):
    pipe.segment(image, num_samples=0)


def test_an_image_of_one_tile_is_the_image(pipe):
  image = make_image()
  whole, tiled = (
    pipe.segment(image, steps=2, tile=tile) for tile in (None, (50, 80))
  )
  for a, b in zip(whole.segments, tiled.segments, strict=True):
    same = whole.segmentation == a.id
    np.testing.assert_array_equal(tiled.segmentation == b.id, same)
    assert (a.class_id, pytest.approx(a.score)) == (b.class_id, b.score)


class Painted:
  """A model and its experiment that read the truth from the colours."""

  def __init__(self, experiment):
    self.categories = self.answer_categories = experiment.categories
    self.task = experiment.task
    self.model, self.calls = self, 0

  def sample_fn(self, steps, td, num_samples):
    def sample(params, batch, keys):
      self.calls += 1
      return np.zeros((num_samples, 1))

    return sample

  def single(self, example):
    return {}, example

  def postprocess(self, raw, meta):
    red, green = meta['image'][..., 0], meta['image'][..., 1]
    return Segmentation(red.astype(np.int32), green.astype(np.int32))


def test_tiles_of_a_perfect_model_give_the_truth(pipe):
  truth = np.zeros((60, 90), np.int32)
  truth[5:55, 10:80], truth[20:40, 30:50], truth[0:3, 0:4] = 1, 2, 3
  thing = 1 + [c.is_thing for c in pipe.categories].index(True)
  semantic = np.where(truth > 0, thing, 0)
  image = np.stack([semantic, truth, truth], -1).astype(np.uint8)
  experiment = Painted(pipe.experiment)
  fake = pipeline_lib.Pipeline(experiment, {})
  for num_samples in (1, 2):
    result = fake.segment(image, tile=(25, 32), num_samples=num_samples)
    found = [s.id for s in result.segments]
    assert len(found) == 3 and result.segments[0].class_id == thing
    for name in range(1, 4):
      where = result.segmentation[truth == name]
      assert (where == where[0]).all() and where[0] in found
    assert ((result.segmentation == 0) == (truth == 0)).all()
  assert (result.agreement == 1).all()
  assert experiment.calls == 2 * len(tiling.windows((60, 90), (25, 32)))


def test_a_callback_sees_every_step(pipe):
  seen = []
  image = np.full((40, 50, 3), 90, np.uint8)
  told = pipe.segment(image, steps=3, callback=lambda *args: seen.append(args))
  assert [s[:2] for s in seen] == [(0, 3), (1, 3), (2, 3)]
  assert seen[0][2].shape == seen[0][3].shape and seen[0][2].ndim == 4
  plain = pipe.segment(image, steps=3)
  np.testing.assert_array_equal(told.segmentation, plain.segmentation)


def test_an_empty_folder(pipe, tmp_path):
  with pytest.raises(ValueError, match='has no images'):
    pipe.predict([tmp_path], tmp_path / 'out')


def test_raw_and_averaged_weights_differ(smoke_run):
  raw, averaged = (
    pix2seqd_jax.Pipeline.from_pretrained(smoke_run.workdir, ema=ema)
    for ema in (False, True)
  )
  one, two = (
    np.asarray(p.params['net']['denoiser']['conv_out']['kernel'])
    for p in (raw, averaged)
  )
  assert one.shape == two.shape and (one != two).any()


def test_folders_that_hold_no_run(tmp_path, smoke_run):
  load = pix2seqd_jax.Pipeline.from_pretrained
  with pytest.raises(ValueError, match=r'nowhere/config\.json does not exist'):
    load(tmp_path / 'nowhere')
  for name in ('config.json', 'categories.json'):
    (tmp_path / name).write_bytes((smoke_run.workdir / name).read_bytes())
  with pytest.raises(ValueError, match='no checkpoint'):
    load(tmp_path)
  (tmp_path / 'categories.json').write_text('{')
  with pytest.raises(ValueError, match=r'categories\.json is not valid JSON'):
    load(tmp_path)


def test_a_step_that_is_not_there(smoke_run):
  load = pix2seqd_jax.Pipeline.from_pretrained
  for step, message in (
    (7, r"no checkpoint '7'; its steps are \[3, 6\]|no checkpoint 7"),
    ('last', "must be a number, 'best' or empty"),
  ):
    with pytest.raises(ValueError, match=message):
      load(smoke_run.workdir, step=step)
