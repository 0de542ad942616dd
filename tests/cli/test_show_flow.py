"""Paths of a flow in both directions, and what is drawn of them."""

import json
import sys

import numpy as np
import pytest
from PIL import Image
from smoke import smoke_config
from toy_semflow import PARAMS, toy_flow

from pix2seqd_jax.cli import show_flow
from pix2seqd_jax.diffusion import straightness
from pix2seqd_jax.experiment import build
from pix2seqd_jax.inference import pipeline, synthesis
from pix2seqd_jax.models.image_autoencoder import signed_images

SIZE = (32, 32)


@pytest.fixture(scope='module')
def pipe():
  return pipeline.Pipeline(toy_flow(bend=0.5), PARAMS)


@pytest.fixture(scope='module')
def follower(pipe):
  return show_flow.Follower(pipe)


def mask(seed=0):
  return np.random.default_rng(seed).integers(1, 8, SIZE)


def image(seed=0):
  return np.random.default_rng(seed).integers(0, 256, (*SIZE, 3), np.uint8)


def test_paths_begin_at_what_is_given_and_end_at_the_answer(pipe, follower):
  there = follower.segment(image())
  np.testing.assert_array_equal(there.times, [1, 0.75, 0.5, 0.25, 0])
  batch, _ = pipe.experiment.single(
    {
      'image': image(),
      'ids': 0 * mask(),
      'segments': (),
      'index': 0,
      'file': '',
    }
  )
  np.testing.assert_allclose(there.states[0], signed_images(batch), atol=1e-6)
  answer = pipe.experiment.model.decode(PARAMS, there.states[-1], batch)
  seen = pipe.segment(image()).semantic()
  np.testing.assert_array_equal(answer['semantic'][0], seen)

  back = follower.synthesize(mask(), 3)
  np.testing.assert_array_equal(back.times, [0, 0.25, 0.5, 0.75, 1])
  batch, _ = synthesis.Synthesizer(pipe.experiment, PARAMS).batch(mask())
  drawn = pipe.synthesize(mask(), seed=3).images[0]
  shown = follower.images(back)
  np.testing.assert_array_equal(shown[-1], drawn)
  painted = pipe.experiment.model.palette.paint(mask())
  assert np.abs(shown[0].astype(int) - painted).max() <= 9  # 8 levels of noise


def test_speeds_are_those_of_the_network(follower):
  """shift (1 + bend (2 t - 1)), at the times at which it was asked."""
  for path in (follower.segment(image()), follower.synthesize(mask())):
    span = np.diff(path.times)
    speed = np.diff(path.states, axis=0) / span[:, None, None, None, None]
    expected = 0.125 * (1 + 0.5 * (2 * path.times[:-1] - 1))
    np.testing.assert_allclose(speed.mean((1, 2, 3, 4)), expected, rtol=1e-4)
    np.testing.assert_allclose(speed.std((1, 2, 3, 4)), 0, atol=1e-5)
    # Of n steps: bend^2 times the variance of 2 t - 1 over the mean squared.
    told = straightness.straightness(path.states)
    expected = np.var(expected) / np.mean(expected) ** 2
    assert told.relative == pytest.approx(expected, rel=1e-3)


def test_a_straight_flow_is_straight():
  straight = show_flow.Follower(pipeline.Pipeline(toy_flow(), PARAMS), 2)
  path = straight.segment(image())
  assert straightness.straightness(path.states).relative < 1e-9


def test_noise_makes_images_of_one_mask_differ(pipe):
  grid, numbers = show_flow.perturbations(
    pipe, mask(), factors=(0, 1, 2), num_samples=3, steps=2
  )
  assert list(numbers) == ['0', '1', '2']
  spread = [numbers[k]['diversity'] for k in numbers]
  assert spread[0] < 1e-6 and spread[2] == pytest.approx(2 * spread[1], rel=0.1)
  for told in numbers.values():
    assert told['brightness'] == pytest.approx(numbers['0']['brightness'], 0.02)
  assert grid.dtype == np.uint8 and grid.shape[1] > 4 * 256
  with pytest.raises(ValueError, match=r'factor 4,=32.* below 32'):
    show_flow.perturbations(pipe, mask(), factors=(4,))


def test_factors_that_would_mix_classes_are_left_out():
  wide = toy_flow(perturbation=20.0).model  # of 32: twice as much is too wide
  assert synthesis.noise_factors(wide) == (0, 0.5, 1, 1.5)
  with pytest.raises(ValueError, match='factor 2,=40'):
    synthesis.noise_factors(wide, (0, 2))


@pytest.fixture
def run(pipe, monkeypatch):
  """The pipeline in place of a work directory."""
  monkeypatch.setattr(
    pipeline.Pipeline, 'from_pretrained', lambda *args, **kwargs: pipe
  )


def test_files_of_held_out_examples(run, tmp_path):
  written = show_flow.write(
    'run', tmp_path, num=2, steps=3, frames=3, samples=1
  )
  kinds = ['segment.png', 'segment.gif', 'synthesize.png', 'synthesize.gif']
  kinds += ['perturbation.png', 'perturbation.json']
  names = [f'000{i}_{kind}' for i in range(2) for kind in kinds]
  names += ['straightness.png', 'straightness.json']
  assert [path.name for path in written] == names
  for path in written:
    if path.suffix == '.json':
      continue
    with Image.open(path) as image:
      frames = 4 if path.suffix == '.gif' else 1  # three steps, and the start
      assert getattr(image, 'n_frames', 1) == frames
  told = json.loads((tmp_path / 'straightness.json').read_text())
  assert set(told) == {'segment', 'synthesize'}
  for direction in told.values():
    assert direction['paths'] == 2 and direction['steps'] == 3
    assert 0.05 < direction['relative'] < 0.11
  # A strip of three has the first state, the last and one between them.
  strip = Image.open(tmp_path / '0000_segment.png')
  assert 3 * 256 < strip.width < 4 * 256


def test_files_of_the_user(run, tmp_path):
  Image.fromarray(image()).save(tmp_path / 'a.png')
  (tmp_path / 'masks').mkdir()
  Image.fromarray(mask().astype(np.uint8)).save(tmp_path / 'masks' / 'a.png')
  told = {'steps': 2, 'frames': 2, 'factors': ()}
  written = show_flow.write(
    'run',
    tmp_path / 'out',
    inputs=[tmp_path / 'a.png'],
    masks=[tmp_path / 'masks'],
    **told,
  )
  names = ['a_segment.png', 'a_segment.gif']
  names += ['a_2_synthesize.png', 'a_2_synthesize.gif']
  names += ['straightness.png', 'straightness.json']
  assert [path.name for path in written] == names


def test_names_with_dots_stay_apart(run, tmp_path):
  for name in ('a.1', 'a.2'):
    labels = mask().astype(np.uint8)
    Image.fromarray(labels).save(tmp_path / f'{name}.png')
  written = show_flow.write(
    'run',
    tmp_path / 'out',
    masks=[tmp_path / 'a.1.png', tmp_path / 'a.2.png'],
    steps=2,
    frames=2,
    factors=(1,),
    samples=1,
  )
  assert len(set(written)) == len(written) == 2 * 4 + 2
  assert all(path.exists() for path in written)


def test_all_files_are_read_before_the_work(run, tmp_path, monkeypatch):
  Image.fromarray(mask().astype(np.uint8)).save(tmp_path / 'a.png')
  (tmp_path / 'b.png').write_bytes(b'no image')
  masks = [tmp_path / 'a.png', tmp_path / 'b.png']
  with pytest.raises(ValueError, match=r'b\.png is not an image'):
    show_flow.write('run', tmp_path / 'out', masks=masks, steps=2)
  monkeypatch.setitem(sys.modules, 'imageio_ffmpeg', None)
  with pytest.raises(ValueError, match='MP4 needs imageio-ffmpeg'):
    show_flow.write('run', tmp_path / 'out', video_format='mp4', steps=2)
  with pytest.raises(ValueError, match='factor 9,=72'):
    show_flow.write('run', tmp_path / 'out', factors=(9,), steps=2)
  assert not (tmp_path / 'out').exists()


def test_a_run_of_a_model_without_a_way_back(tmp_path, monkeypatch):
  bits = pipeline.Pipeline(build.Experiment(smoke_config()), {})
  monkeypatch.setattr(
    pipeline.Pipeline, 'from_pretrained', lambda *args, **kwargs: bits
  )
  with pytest.raises(ValueError, match=r"'pix2seq_d' makes no images"):
    show_flow.write('run', tmp_path)


def test_bad_arguments(run, pipe, tmp_path):
  for kwargs, said in (
    ({'video_format': 'webm'}, "video='webm' must be one of gif, mp4"),
    ({'frames': 1}, 'frames=1 must be at least 2'),
    ({'steps': 1}, 'steps=1 must be 2 or more'),
  ):
    with pytest.raises(ValueError, match=said):
      show_flow.write('run', tmp_path, **kwargs)
  bits = pipeline.Pipeline(build.Experiment(smoke_config()), {})
  with pytest.raises(ValueError, match=r"'pix2seq_d' makes no images"):
    show_flow.Follower(bits)
  assert not list(tmp_path.iterdir())


def test_the_command_says_what_is_wrong(tmp_path, capsys):
  with pytest.raises(SystemExit) as stopped:
    show_flow.main(['--workdir', str(tmp_path), '--output', str(tmp_path)])
  assert stopped.value.code == 1
  assert 'config.json does not exist' in capsys.readouterr().err
