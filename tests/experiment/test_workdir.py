"""What a new run says of its start."""

import contextlib
import warnings

import pytest

from benchmarks import common
from pix2seqd_jax.experiment import build, workdir

SEMFLOW = 'configs/semflow_shapes.py:smoke'
AUTOENCODER = 'configs/image_autoencoder_shapes.py:masks,smoke'


@pytest.mark.parametrize(
  'entries, named',
  [
    ((), ['frozen/image', 'frozen/mask']),
    ((('a', 'net/x', 'frozen/mask', 'exact'),), ['frozen/image']),
    (
      (('a', 'net/x/encoder', 'frozen/image/encoder', 'exact'),),
      ['frozen/mask'],
    ),
    ((('a', 'frozen', 'frozen', 'exact'),), []),
    ((('a', '', '', 'exact'),), ['frozen/image', 'frozen/mask']),
    ((('a', 'net', 'net', 'exact'),), ['frozen/image', 'frozen/mask']),
  ],
)
def test_frozen_parts_that_nothing_fills_are_named(entries, named):
  frozen = {'image': 0, 'mask': 0}
  with warnings.catch_warnings(record=True) as told:
    warnings.simplefilter('always')
    workdir._warn_of_random(frozen, entries)
  assert len(told) == bool(named)
  if named:
    assert str(told[0].message).startswith(f'{", ".join(named)}: frozen at ')


def test_prefixes_may_end_with_a_slash():
  entries = (('runs/a', 'net/', 'frozen/mask/', 'exact'), ('b', '', '', 'grow'))
  config = common.override(common.load_config(SEMFLOW), {})
  experiment = build.Experiment({**config, 'init_from': entries})
  assert experiment.init_from == (
    ('runs/a', 'net', 'frozen/mask', 'exact'),
    ('b', '', '', 'grow'),
  )


def test_how_answers_are_read_may_change_what_is_trained_may_not(tmp_path):
  config = common.load_config(SEMFLOW)
  workdir.save(build.Experiment(config), tmp_path)
  other = common.override(config, {'model.resize': 'colors'})
  assert workdir.load(tmp_path, other).model.resize == 'colors'
  other = common.override(config, {'model.latent_scale': 0.123})
  changed = rf'model\.latent_scale: {config.model.latent_scale} in .*0\.123'
  with pytest.raises(ValueError, match=changed):
    workdir.load(tmp_path, other)


def test_noise_of_synthesis_beyond_the_anchors_is_refused():
  config = common.load_config(SEMFLOW)
  changes = {'task.name': 'synthesis', 'synthesis.perturbation': 200.0}
  experiment = build.Experiment(common.override(config, changes))
  with pytest.raises(
    ValueError, match=r'synthesis\.perturbation=200.*below 125'
  ):
    _ = experiment.task


def test_hosts_paint_for_an_autoencoder_with_its_own_anchors():
  config = common.load_config('configs/image_autoencoder_camvid.py:smoke')
  pairs = (('paint', {}), *config.data.train_transforms)
  config = common.override(config, {'data.train_transforms': pairs})
  pairs = dict(build.Experiment(config).transform_pairs('train'))
  assert pairs['paint'] == {
    'num_classes': 11,
    **config.model.masks.anchors.to_dict(),
  }


@pytest.mark.parametrize(
  'recipe, task, metric, mode',
  [
    (SEMFLOW, 'synthesis', 'fid', 'min'),
    (SEMFLOW, 'synthesis', 'lpips_pairwise', 'min'),
    (SEMFLOW, 'synthesis', 'lpips_diversity', 'max'),
    (SEMFLOW, 'semantic', 'miou', 'max'),
    (AUTOENCODER, 'reconstruction', 'l1', 'min'),
    (AUTOENCODER, 'reconstruction', 'psnr', 'max'),
  ],
)
def test_the_best_error_is_the_smallest(tmp_path, recipe, task, metric, mode):
  changes = {'task.name': task, 'train.best_metric': metric}
  config = common.override(common.load_config(recipe), changes)
  experiment = build.Experiment(config)
  experiment.check_ranges()
  with workdir.checkpointer(experiment, tmp_path) as saved:
    assert (saved.best_metric, saved.best_mode) == (metric, mode)


def test_images_of_masks_are_asked_of_models_that_draw_them():
  changes = {'task.name': 'synthesis'}
  for recipe, name in (
    (AUTOENCODER, 'image_autoencoder'),
    ('configs/semflow_shapes.py:dsm,smoke', 'semantic_dsm'),
    ('configs/pix2seq_d_shapes.py:smoke', 'pix2seq_d'),
  ):
    config = common.override(common.load_config(recipe), changes)
    with pytest.raises(ValueError, match=rf"'{name}' makes none"):
      _ = build.Experiment(config).task


def test_one_sample_has_no_diversity_to_be_best_by():
  changes = {'task.name': 'synthesis', 'synthesis.num_samples': 1}
  changes['train.best_metric'] = 'lpips_diversity'
  config = common.override(common.load_config(SEMFLOW), changes)
  with pytest.raises(ValueError, match="'lpips_diversity' is no metric"):
    build.Experiment(config).check_ranges()


def test_noise_in_place_of_the_image_is_refused_before_the_start():
  for sampler in ('ddpm', 'ddim(eta=1.0)'):
    changes = {'sample.sampler': sampler}
    config = common.override(common.load_config(SEMFLOW), changes)
    with pytest.raises(ValueError, match='do not begin in noise'):
      build.Experiment(config).timesteps()


@pytest.mark.parametrize(
  'name, paints',
  [
    ('pix2seq_d_camvid', False),
    ('image_autoencoder_camvid', True),
    ('semflow_camvid', True),
    ('semflow_camvid:dsm', True),
  ],
)
def test_who_paints_masks_needs_all_classes(name, paints):
  file, *variant = name.split(':')
  config = common.load_config(':'.join([f'configs/{file}.py', *variant]))
  config = common.override(config, {'data.num_ids': 8})
  refused = pytest.raises(ValueError, match='num_ids=8 must be above')
  with refused if paints else contextlib.nullcontext():
    build.Experiment(config)._check_room()


def test_classes_of_a_layout_need_no_files():
  config = common.load_config('configs/semflow_celeb.py')
  assert len(build.Experiment(config).categories) == config.data.num_classes
  short = common.override(config, {'data.num_ids': 19})
  with pytest.raises(ValueError, match='num_ids=19 must be above'):
    build.Experiment(short).check_ranges()
  of_segments = common.override(short, {'task.name': 'panoptic'})
  with pytest.raises(ValueError, match='num_ids=19 must be above'):
    build.Experiment(of_segments).check_ranges()
  # Theirs has no void, so none is taken from label maps either.
  assert sorted(build.Experiment(config).label_numbers) == [*range(19)]
  config = common.override(config, {'data.num_classes': 7})
  with pytest.raises(ValueError, match=r'num_classes=7 but semantic_folder'):
    _ = build.Experiment(config).categories
