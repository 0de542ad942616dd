"""Tables of SemFlow, by flows that have learnt nothing."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy_semflow import PARAMS, toy_flow

from benchmarks import counted, paper, semflow_runs, semflow_tables
from pix2seqd_jax.diffusion import process, samplers, sampling, schedules
from pix2seqd_jax.diffusion import sampler as sampler_lib
from pix2seqd_jax.diffusion import timesteps as timesteps_lib
from pix2seqd_jax.pretrained import perceptual
from pix2seqd_jax.types import Prediction


class Colours:
  """Means and corners in place of networks."""

  network, is_trained = 'random vgg', False

  def __init__(self, **files):
    pass

  def embed(self, images):
    return jnp.concatenate([images.mean((1, 2)), images[:, 0, 0]], -1)

  def distance(self, x, y):
    return jnp.abs(x.astype(float) - y).mean((1, 2, 3)) / 255


@pytest.fixture(autouse=True)
def runs(monkeypatch):
  """Folders are names of toys."""
  known = {
    'flow': toy_flow(),
    'bent': toy_flow(bend=0.9),
    'still': toy_flow(perturbation=0.0),
    'runs/dsm/': toy_flow(),
    'small': toy_flow(),
  }
  known['runs/dsm/'].config['model']['name'] = 'semantic_dsm'
  known['small'].config['data']['num_classes'] = 3
  lib = semflow_runs.workdirs
  monkeypatch.setattr(lib, 'load', lambda folder: known[folder])
  monkeypatch.setattr(lib, 'find_step', lambda folder, step: step or 7)
  monkeypatch.setattr(lib, 'load_params', lambda *args: PARAMS)
  monkeypatch.setattr(perceptual, 'Features', Colours)


def table(tmp_path, name, *runs, more=()):
  argv = ['--table', f'semflow_{name}', '--num_examples', '4']
  argv += ['--runs', *runs, '--out', str(tmp_path), *more]
  assert paper.main(argv) == 0
  text = (tmp_path / f'semflow_{name}.md').read_text()
  found = json.loads((tmp_path / f'semflow_{name}.json').read_text())
  return text, found['rows']


def test_steps_beside_the_baseline(tmp_path):
  text, rows = table(
    tmp_path, 'steps', 'flow', 'runs/dsm/', more=['--sample_steps', '1', '25']
  )
  assert '| steps | paper | flow, Euler | s/image | paper | dsm, DDIM' in text
  assert 'flow is above the baselines: ' in text and 'at step 7' in text
  cases = [(row['run'], row['sampler'], row['steps']) for row in rows]
  ways = [('flow', 'Euler'), ('dsm', 'DDIM'), ('dsm', 'DDPM')]
  assert cases == [(*way, steps) for steps in (1, 25) for way in ways]
  assert [row['paper_miou'] for row in rows[3:]] == [38.6, 13.6, 17.5]
  for row in rows:
    assert 0 <= row['miou'] <= 1 and row['seconds'] > 0
    assert row['calls'] == row['steps']


def test_a_flow_agrees_with_itself_from_seed_to_seed(tmp_path):
  more = ['--sample_steps', '2']
  _, rows = table(tmp_path, 'agreement', 'flow', 'runs/dsm/', more=more)
  flow, ddim, ddpm = rows
  for row in (flow, ddim):  # this toy has no noise; DDPM adds some
    assert row['agreement'] == row['all_agree'] == 1 and not row['miou_std']
  assert 0 < ddpm['all_agree'] <= ddpm['agreement'] < 1
  assert ddpm['miou_std'] > 0


def test_solvers_and_their_calls(tmp_path, monkeypatch):
  solvers = semflow_tables.SOLVERS
  assert [count for _, count in solvers] == [25, 13, 25, 1, 1]
  monkeypatch.setattr(semflow_tables, 'SOLVERS', (solvers[1], solvers[4]))
  text, rows = table(tmp_path, 'solvers', 'flow', 'runs/dsm/')
  assert {row['run'] for row in rows} == {'flow'}  # the baseline cannot draw
  calls = [row['segmentation']['calls'] for row in rows]
  assert calls[0] == 25
  # The first interval of .1 grows fivefold: .1, .5 and what is left.
  assert calls[1] == 1 + 3 * 6
  assert [row['synthesis']['calls_back'] for row in rows] == calls
  assert '| RK45 1e-5 | 1 |' in text


def test_images_by_steps(tmp_path):
  text, rows = table(
    tmp_path, 'synthesis', 'flow', more=['--sample_steps', '1', '5']
  )
  first, second = rows  # of a straight flow one step is as good as five
  for key in ('fid', 'lpips_pairwise', 'lpips_diversity'):
    assert first[key] == pytest.approx(second[key], rel=0.05)
  assert first['resegmentation_miou'] > 0.6
  assert 'FID and LPIPS: of stand-in networks' in text


def test_without_noise_all_samples_are_one(tmp_path):
  text, rows = table(tmp_path, 'perturbation', 'flow', 'still')
  assert len(rows) == 10 and 'have the brightness 0.' in text
  assert [row['given'] for row in rows[:5]] == [0, 4, 8, 12, 16]
  spread = [row['lpips_diversity'] for row in rows]
  assert spread[0] == spread[5] == 0
  assert spread[4] == pytest.approx(2 * spread[2], rel=0.1)
  # What the toy was trained with changes nothing in it.
  np.testing.assert_allclose(spread[:5], spread[5:])


def test_noise_that_would_mix_classes_is_left_out(tmp_path, monkeypatch):
  wide = toy_flow(perturbation=20.0)  # of 32
  monkeypatch.setattr(semflow_runs.workdirs, 'load', lambda folder: wide)
  text, rows = table(tmp_path, 'perturbation', 'flow')
  assert [row['given'] for row in rows] == [0, 10, 20, 30]
  assert 'Noise of 32 and more would make one class another' in text


def test_fillers_and_padding_have_no_brightness():
  image = np.full((3, 2, 2, 3), 51, np.uint8)
  image[1, 0] = 153
  image[2] = 255
  valid = np.ones((3, 2, 2), bool)
  valid[1, 1] = False
  batch = {'image': image, 'valid': valid, 'is_real': np.array([1, 1, 0], bool)}
  assert semflow_tables._brightness(batch) == pytest.approx([0.2, 0.6])


def test_straightness_of_runs(tmp_path, monkeypatch):
  monkeypatch.setattr(semflow_tables, 'PATH_STEPS', 20)
  monkeypatch.setattr(semflow_tables, 'PATHS', 1)
  more = ['--sample_steps', '1', '2']
  text, rows = table(tmp_path, 'straightness', 'flow', 'bent', more=more)
  for direction in ('segment', 'synthesize'):
    straight, bent = (row[direction]['relative'] for row in rows)
    assert straight < 1e-6
    # The variance of bend (2 t - 1) is bend^2 / 3.
    assert bent == pytest.approx(0.81 / 3, rel=0.1)
  assert '| run | S to masks | relative |' in text and 'FID, 2' in text


def test_bad_arguments(tmp_path, capsys):
  with pytest.raises(SystemExit):
    paper.main(['--table', 'semflow_steps'])
  assert 'needs --runs WORKDIR' in capsys.readouterr().err
  with pytest.raises(ValueError, match='small is of other data than flow'):
    table(tmp_path, 'steps', 'flow', 'small')
  with pytest.raises(ValueError, match='none of --runs makes images'):
    table(tmp_path, 'synthesis', 'runs/dsm/')


# Counting.


def test_calls_of_rk45_are_those_of_its_own_account():
  way = process.Process(schedules.Straight(), 'velocity')
  timesteps = timesteps_lib.uniform(1)
  x = jnp.ones((2, 3)) * jnp.array([[1.0], [30.0]])
  keys = jax.random.split(jax.random.key(0), 2)
  sampler = counted.counted(samplers.RK45(1e-5, 1e-5))

  def denoise(x_t, t, previous):
    return Prediction(x_t * jnp.sin(9 * t)[:, None])

  run = jax.jit(
    lambda x: sampling.sample(
      denoise,
      way,
      x,
      keys,
      timesteps=timesteps,
      sampler=sampler,
      with_memory=True,
    )[1]
  )
  effort = run(x)
  found = counted.calls(sampler, way, timesteps)
  assert found == pytest.approx(float(effort.calls.mean())) and found > 19
  assert counted.calls(sampler, way, timesteps, back=True) == 0
  assert counted.cut_short(sampler) == 0
  one = counted.calls(sampler, way, timesteps, real=[np.array([False, True])])
  assert one == float(effort.calls[1]) != found


def test_what_max_steps_cuts_short_is_told_but_for_fillers():
  way = process.Process(schedules.Straight(), 'velocity')
  sampler = counted.counted(samplers.RK45(1e-6, 1e-6, max_steps=3))
  keys = jax.random.split(jax.random.key(0), 4)

  def denoise(x_t, t, previous):
    return Prediction(x_t * jnp.sin(30 * t)[:, None])

  sampling.sample(
    *(denoise, way, jnp.ones((4, 3)), keys),
    timesteps=timesteps_lib.uniform(2),
    sampler=sampler,
  )
  assert counted.cut_short(sampler) == 8  # both intervals of each
  real = [np.arange(4) < 3]
  assert counted.cut_short(sampler, real=real) == 6
  case = {'run': 'a', 'sampler': 'RK45 1e-5'}
  ways = ({'cut_short': 0, 'cut_short_back': n} for n in (0, 6))
  told = dict(zip(('segmentation', 'synthesis'), ways, strict=True))
  [said] = semflow_tables._cut_short([case | told])
  assert 'RK45 1e-5 of a, synthesis: max_steps cut 6' in said


def test_other_samplers_are_as_they_promise():
  way, timesteps = (
    process.Process(schedules.Straight(), 'x0'),
    timesteps_lib.uniform(4),
  )
  for sampler in (samplers.Euler(), samplers.Heun()):
    assert counted.counted(sampler) is sampler
    promised = sampler_lib.evaluations(sampler, way, timesteps)
    assert counted.calls(sampler, way, timesteps) == promised
