"""The command that writes images of label maps."""

import shutil

import numpy as np
import pytest
from PIL import Image
from smoke import smoke_config
from toy_semflow import PARAMS, toy_flow

from pix2seqd_jax.cli import synthesize
from pix2seqd_jax.experiment import build
from pix2seqd_jax.inference import pipeline
from pix2seqd_jax.train import evaluate

SIZE = (24, 40)


@pytest.fixture(scope='module')
def pipe():
  return pipeline.Pipeline(toy_flow(), PARAMS)


@pytest.fixture
def run(pipe, monkeypatch):
  """The pipeline in place of a work directory."""
  monkeypatch.setattr(
    pipeline.Pipeline, 'from_pretrained', lambda *args, **kwargs: pipe
  )


@pytest.fixture
def masks(tmp_path):
  """Two label maps."""
  folder = tmp_path / 'masks'
  folder.mkdir()
  rng = np.random.default_rng(0)
  for name in ('a', 'b'):
    values = rng.integers(1, 8, SIZE).astype(np.uint8)
    Image.fromarray(values).save(folder / f'{name}.png')
  return folder


def read(path):
  return np.asarray(Image.open(path))


def test_images_of_the_users_masks(run, pipe, masks, tmp_path):
  out = tmp_path / 'out'
  told = {'num_samples': 2, 'seed': 3, 'progress': False}
  written = synthesize.write('run', out, masks=[masks], **told)
  names = ['a_1.png', 'a_2.png', 'b_1.png', 'b_2.png']
  assert [path.name for path in written] == names
  assert sorted(out.iterdir()) == [out / 'images', out / 'panels']
  assert {p.name for p in (out / 'panels').iterdir()} == {'a.png', 'b.png'}
  assert all(read(path).shape[1:] == (32, 3) for path in written)
  assert np.any(read(written[2]) != read(written[3]))
  # The first sample is what one alone would be, whatever is drawn beside it.
  alone = synthesize.write(
    'run', tmp_path / 'one', masks=[masks / 'b.png'], seed=3, progress=False
  )
  assert [path.name for path in alone] == ['b.png']
  np.testing.assert_array_equal(read(alone[0]), read(written[2]))


def test_each_mask_has_noise_of_its_own(run, masks, tmp_path):
  shutil.copy(masks / 'a.png', masks / 'b.png')
  told = {'masks': [masks], 'progress': False}
  a, b = map(read, synthesize.write('run', tmp_path / 'out', **told))
  assert np.any(a != b)
  told['perturbation'] = 0.0
  a, b = map(read, synthesize.write('run', tmp_path / 'still', **told))
  np.testing.assert_array_equal(a, b)


def test_held_out_masks_have_the_images_of_the_evaluation(
  run, pipe, tmp_path, monkeypatch
):
  experiment = toy_flow(task='synthesis')
  for config in (experiment.config, pipe.experiment.config):
    monkeypatch.setitem(config['synthesis'], 'perturbation', 12.5)
  experiment.config['eval']['num_examples'] = 3
  seen = []
  evaluate.evaluate(
    experiment.model,
    experiment.task,
    PARAMS,
    experiment.eval_batches(),
    sample_fn=experiment.sample_fn(),
    seed=experiment.sample_seed,
    on_example=lambda found, meta: seen.append(found.image),
    progress=False,
  )
  written = synthesize.write('run', tmp_path, num=3, progress=False)
  for path, image in zip(written, seen, strict=True):
    np.testing.assert_array_equal(read(path), image)


def test_images_as_large_as_their_masks(run, pipe, masks, tmp_path):
  told = {'masks': [masks / 'a.png'], 'progress': False}
  [small] = synthesize.write('run', tmp_path / 'small', **told)
  [large] = synthesize.write('run', tmp_path / 'large', size='mask', **told)
  assert read(small).shape != (*SIZE, 3) == read(large).shape
  shown = Image.fromarray(read(small)).resize(SIZE[::-1], Image.BICUBIC)
  np.testing.assert_array_equal(read(large), shown)


def test_images_of_held_out_masks(run, pipe, tmp_path):
  written = synthesize.write('run', tmp_path, num=3, progress=False)
  assert [path.name for path in written] == [f'000{i}.png' for i in range(3)]


def test_what_is_wrong_is_said_first(run, masks, tmp_path, capsys, monkeypatch):
  out, broken = tmp_path / 'out', tmp_path / 'broken.png'
  broken.write_bytes(b'no image')  # told of after the arguments
  for kwargs, said in (
    ({'size': 'masks'}, "--size='masks' must be one of network, mask"),
    ({'num': 0}, '--num=0 is of held-out masks: at least 1'),
    ({'num': 2, 'masks': [masks]}, '--num=2 .* not beside --masks'),
    ({'num_samples': 0}, 'num_samples=0 must be at least 1'),
    ({'seed': -1}, '--seed=-1 must be 0 or more'),
    ({'seed': 2**32}, '--seed=4294967296 must be'),
    ({'values': 'ids'}, "--values='ids' is of --masks"),
    ({'perturbation': 99.0, 'masks': [broken]}, 'perturbation=99.0 must be'),
    ({'steps': 0, 'masks': [broken]}, 'steps'),
    ({'masks': [tmp_path / 'none']}, 'none'),
  ):
    with pytest.raises(ValueError, match=said):
      synthesize.write('run', out, **kwargs)
  assert not out.exists()
  with pytest.raises(SystemExit) as stopped:
    synthesize.main(['--workdir', 'x', '--output', str(out), '--size', 'big'])
  assert stopped.value.code == 1 and '--size=' in capsys.readouterr().err
  bits = pipeline.Pipeline(build.Experiment(smoke_config()), {})
  monkeypatch.setattr(
    pipeline.Pipeline, 'from_pretrained', lambda *args, **kwargs: bits
  )
  with pytest.raises(ValueError, match=r"'pix2seq_d' makes no images"):
    synthesize.write('run', out, masks=[masks])
