"""SemFlow's configs: the release's numbers, sizes by shapes alone, smoke."""

import importlib
import json

import jax
import numpy as np
import pytest

from configs import image_autoencoder_camvid, image_autoencoder_shapes
from pix2seqd_jax.experiment import build, runs, schema
from pix2seqd_jax.train import sharding
from pix2seqd_jax.train.checkpoints import archive
from pix2seqd_jax.types import Category, Segment, inputs_only

RELEASED = ('semflow_cocostuff', 'semflow_celeb', 'semflow_cityscapes')
SMALL = ('semflow_shapes', 'semflow_camvid')
UNET, VAE = 859_520_964, 83_653_863


def get_config(name, variant=''):
  return importlib.import_module(f'configs.{name}').get_config(variant)


def variants(name):
  return ('', *importlib.import_module(f'configs.{name}').VARIANTS)


def experiment_of(config):
  """Without the data set's files: dummy classes of the right number."""
  classes = tuple(
    Category(i + 1, f'class {i + 1}', is_thing=False)
    for i in range(config.data.num_classes)
  )
  return build.Experiment(config, classes)


@pytest.mark.parametrize('name', RELEASED + SMALL)
def test_every_variant_builds_and_survives_json(name):
  for variant in variants(name):
    plain = schema.plain(get_config(name, variant))
    again = schema.from_plain(json.loads(json.dumps(plain)))
    assert schema.plain(again) == plain
    experiment = experiment_of(again)
    for split in ('train', 'eval'):
      experiment.check_transforms(split)
    assert len(experiment.timesteps().now) == again.sample.steps
    assert experiment.model.palette.num_classes == again.data.num_classes
    assert 'miou' in experiment.task.empty().compute()
    # All classes at once have a name, so that none is lost.
    assert again.data.num_ids > again.data.num_classes
  with pytest.raises(ValueError, match="'dmr' is unknown; known: "):
    get_config(name, 'dmr')
  with pytest.raises(ValueError, match='dsm and reflow do not go together'):
    get_config(name, 'reflow,dsm')


# The release (methods sheet, section 5.5).


def test_the_release_s_parameters():
  """Of the networks' shapes alone, which takes seconds."""
  model = experiment_of(get_config('semflow_cocostuff')).model
  init = jax.eval_shape(model.init, jax.random.key(0), None)
  sizes = {k: v.size for k, v in sharding.flat_paths(init).items()}

  def count(prefix):
    found = [size for path, size in sizes.items() if path.startswith(prefix)]
    return len(found), sum(found)

  assert count('net/') == count('net/unet/') == (686, UNET)
  assert count('frozen/image/') == (248, VAE)
  assert count('frozen/prompt/tokens') == (1, 77 * 768)
  assert len(sizes) == 686 + 248 + 1


def test_the_baseline_has_eight_channels():
  config = get_config('semflow_celeb', 'dsm')
  ours, theirs = (
    experiment_of(c).model.unet_net
    for c in (config, get_config('semflow_celeb'))
  )
  assert (ours.in_channels, theirs.in_channels) == (8, 4)
  assert ours.clone(in_channels=4) == theirs
  rules = {entry[2]: entry[3] for entry in config.init_from}
  assert rules == {
    'net/unet': 'grow',
    'frozen/image': 'exact',
    'frozen/prompt': 'exact',
  }


@pytest.mark.parametrize(
  ('name', 'variant'),
  [
    *(('semflow_celeb', variant) for variant in ('colors', 'dsm', 'reflow')),
    ('semflow_cityscapes', ''),
  ],
)
def test_a_recipe_builds_at_full_size(name, variant):
  """State, a train step, both directions: shapes alone."""
  experiment = experiment_of(get_config(name, variant))
  data, key = experiment.config['data'], jax.random.key(0)
  batch = experiment.abstract_batch(data['batch_size'])
  if variant == 'colors':
    shape = (*batch['image'].shape[:3], 3)
    batch['colors'] = jax.ShapeDtypeStruct(shape, np.uint8)
  old = experiment.abstract_state
  new, scalars = jax.eval_shape(experiment.train_step(), old, batch, key)
  assert scalars['loss'].dtype == np.float32
  assert jax.tree.structure(new) == jax.tree.structure(old)
  sizes = [
    (n.shape, o.shape) for n, o in zip(*map(jax.tree.leaves, (new, old)))
  ]
  assert all(n == o for n, o in sizes)
  few = {
    k: jax.ShapeDtypeStruct((2, *v.shape[1:]), v.dtype)
    for k, v in batch.items()
  }
  keys = jax.random.split(key, 2)
  for given in ((), ('semantic',)):
    if given and not experiment.model.draws_images:
      continue
    inputs = inputs_only(few, given)
    raw = jax.eval_shape(experiment.sample_fn(), old.params, inputs, keys)
    expected = (2, *data['mask_size'])
    if given:
      assert raw['image'].shape == (*expected, 3)
    else:
      assert raw['semantic'].shape == expected


def test_reflow_goes_on_from_the_flow():
  config = get_config('semflow_celeb', 'reflow')
  assert {entry[:3] for entry in config.init_from} == {
    ('runs/celeb', 'net/unet', 'net/unet'),
    ('runs/celeb', 'net/unet', 'frozen/teacher'),
    ('runs/celeb', 'frozen/image', 'frozen/image'),
    ('runs/celeb', 'frozen/prompt', 'frozen/prompt'),
  }


@pytest.mark.parametrize(
  ('name', 'size', 'batch', 'steps', 'rates', 'dtype'),
  [
    (
      'semflow_celeb',
      *((512, 512), 256, 80_000),
      {0: 0, 250: 1e-5, 500: 2e-5, 40_250: 1e-5, 80_000: 0},
      'bfloat16',
    ),
    (
      'semflow_cityscapes',
      *((512, 1024), 256, 8000),
      {0: 0, 500: 5e-5, 4250: 2.5e-5, 8000: 0},
      'bfloat16',
    ),
    (
      'semflow_cocostuff',
      *((512, 512), 128, 320_000),
      {0: 0, 5000: 5e-6, 10_000: 1e-5, 320_000: 1e-5},
      'float32',
    ),
  ],
)
def test_the_release_s_training(name, size, batch, steps, rates, dtype):
  config = get_config(name)
  data, adamw, model = config.data, config.optimizer, config.model
  assert data.image_size == data.mask_size == size
  assert (data.batch_size, config.train.steps) == (batch, steps)
  rate = experiment_of(config).learning_rate
  for step, expected in rates.items():
    assert float(rate(step)) == pytest.approx(expected, rel=1e-4, abs=1e-12)
  assert (adamw.b1, adamw.b2, adamw.eps) == (0.9, 0.999, 1e-8)
  assert (adamw.weight_decay, adamw.decay_mask) == (0.01, 'all')
  assert (adamw.clip_norm, adamw.ema_decay) == (1.0, 0.0)
  assert adamw.name == 'torch_adamw'
  assert not config.eval.use_ema
  assert model.dtype == dtype
  assert model.anchors.to_dict() == {'levels': 6, 'spacing': 50}
  assert (model.perturbation, model.posterior) == (6.375, 'sample')
  assert (model.latent_scale, model.prompt_tokens) == (0.18215, 77)
  assert (config.sample.sampler, config.sample.steps) == ('euler', 25)
  assert config.train.save_every <= config.train.steps
  names = [pair[0] for pair in data.train_transforms]
  crop = [] if name == 'semflow_cityscapes' else ['square_crop']
  assert names == ['random_flip', *crop, 'resize_to_fit', 'pad']
  resize = dict(data.train_transforms)['resize_to_fit']
  assert resize == {'stretch': True, 'method': 'bicubic'}
  assert dict(data.eval_transforms)['resize_to_fit'] == resize


def test_masks_are_painted_before_the_crop_by_a_variant():
  experiment = experiment_of(get_config('semflow_celeb', 'colors,swap,smoke'))
  pairs = experiment.transform_pairs('train')
  assert [name for name, _ in pairs[:3]] == [
    *('random_flip', 'paint', 'square_crop')
  ]
  assert pairs[0][1] == {'swap': ((5, 6), (7, 8), (9, 10))}
  assert pairs[1][1] == {'num_classes': 19, 'levels': 6, 'spacing': 50}
  # So are the masks that images are made of.
  example = {
    'image': np.zeros((40, 40, 3), np.uint8),
    'ids': np.tril(np.ones((40, 40), np.int32)),
    'segments': (Segment(1, 3),),
    'index': 0,
    'file': '',
  }
  batch, _ = experiment.single(example, ('semantic',))
  painted = experiment.model.palette.paint(batch['given']['semantic'])
  between = np.any(painted != batch['given']['colors'], -1).mean()
  assert 0 < between < 0.2
  assert 'given' not in experiment.single(example)[0]
  config = get_config('semflow_celeb', 'swap')
  config.data.num_classes = 9
  with pytest.raises(ValueError, match='names class 10, but'):
    experiment_of(config).check_transforms('train')


# Small enough to run here.


@pytest.mark.parametrize(
  ('name', 'images'),
  [
    ('semflow_shapes', image_autoencoder_shapes.get_config('masks')),
    ('semflow_camvid', image_autoencoder_camvid.get_config()),
    ('semflow_camvid:gpu', image_autoencoder_camvid.get_config('gpu')),
  ],
)
def test_the_autoencoder_is_the_one_that_saw_such_masks(name, images):
  name, _, variant = name.partition(':')
  config = get_config(name, variant)
  model, masks = config.model, images.model.masks
  assert model.image_autoencoder == images.model.network
  assert model.anchors == masks.anchors
  assert model.perturbation == masks.perturbation
  assert config.data.mask_size == images.data.mask_size
  theirs = experiment_of(images).model
  assert experiment_of(config).model.image_net == theirs.net
  ((_, source, target, rule),) = config.init_from
  assert (source, target) == ('net/autoencoder', 'frozen/image')
  assert rule == 'exact'


@pytest.mark.parametrize(
  ('name', 'images'),
  [
    ('semflow_shapes', image_autoencoder_shapes.get_config('masks,smoke')),
    ('semflow_camvid', image_autoencoder_camvid.get_config('smoke')),
  ],
)
def test_smoke_autoencoders_fit_smoke_flows(name, images):
  flow = experiment_of(get_config(name, 'smoke')).model
  assert flow.image_net == experiment_of(images).model.net


@pytest.mark.parametrize(
  ('name', 'method'),
  [
    ('semflow_shapes', ''),
    ('semflow_shapes', 'dsm,'),
    ('semflow_shapes', 'reflow,'),
    ('semflow_shapes', 'one_step,'),
    ('semflow_camvid', ''),
  ],
)
def test_smoke_trains_and_evaluates(name, method, tmp_path, request):
  config = get_config(name, f'{method}smoke')
  config.train.update({'steps': 4, 'save_every': 0, 'eval_every': 0})
  if name == 'semflow_camvid':
    shared = request.getfixturevalue('shared')
    config.data.root = str(shared / 'data' / 'camvid')
    config.eval.num_examples = 8
  runs.train(config, tmp_path)
  results = runs.evaluate(tmp_path)
  assert archive.steps_in(tmp_path)[-1] == 4
  assert 0 <= results['miou'] <= 1 and 0 <= results['pixel_accuracy'] <= 1
  lines = (tmp_path / 'metrics.jsonl').read_text().splitlines()
  losses = [json.loads(line).get('loss', 0.0) for line in lines]
  assert np.isfinite(losses).all()


def test_camvid_s_files_are_painted_on_the_host(shared):
  """As the release has it: the nearest pixel's colour but for the borders."""
  config = get_config('semflow_camvid', 'smoke')
  config.data.root = str(shared / 'data' / 'camvid')
  pairs = config.data.train_transforms
  config.data.train_transforms = (('paint', {}), *pairs)
  experiment = build.Experiment(config)
  batch = next(experiment.train_batches())
  assert batch['colors'].dtype == np.uint8
  assert batch['colors'].shape == (8, 64, 64, 3)
  painted = experiment.model.palette.paint(batch['semantic'])
  same = (painted == batch['colors']).all(-1).mean()
  assert 0.6 < same < 1
  assert 'colors' not in inputs_only(batch)
