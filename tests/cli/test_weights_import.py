"""The command that turns a checkpoint of others into a directory of ours."""

import json
import re

import jax
import numpy as np
import pytest
from smoke import smoke_config

from pix2seqd_jax.cli import weights_import as command
from pix2seqd_jax.experiment import build, workdir
from pix2seqd_jax.inference.pipeline import Pipeline
from pix2seqd_jax.pretrained import pix2seq_tf
from pix2seqd_jax.train import sharding
from pix2seqd_jax.train.checkpoints import archive, weights

SOURCE = 'pix2seq-tf'
CONFIG = 'configs/pix2seq_d_shapes.py:smoke'


@pytest.fixture(scope='module')
def experiment():
  return build.Experiment(smoke_config())


@pytest.fixture(scope='module')
def checkpoint(experiment):
  """Every variable of a tiny original: raw, averaged, and what is beside."""
  flat = sharding.flat_paths(command.wanted_tree(experiment, 'all'))
  rng = np.random.default_rng(0)
  end = '.ATTRIBUTES/VARIABLE_VALUE'
  found = {f'save_counter/{end}': np.int64(1), f'optimizer/iter/{end}': 0}
  for path, shape in flat.items():
    name = pix2seq_tf.their_name(tuple(path.split('/')))
    for suffix in ('', '_ema'):
      root, _, rest = name.partition('/')
      value = rng.normal(size=shape.shape).astype(np.float32)
      # Variances are positive.
      value = np.abs(value) + 0.1 if 'variance' in rest else 0.1 * value
      found[f'model/{root}{suffix}/{rest}/{end}'] = value
  return found


@pytest.fixture
def reading(monkeypatch, checkpoint):
  """Lets the command read that dict, or another."""

  def read(variables):
    converter = command.CONVERTERS[SOURCE]
    monkeypatch.setitem(
      command.CONVERTERS, SOURCE, converter._replace(read=lambda _: variables)
    )

  read(checkpoint)
  return read


def arguments(*rest):
  return ['--from', SOURCE, '--checkpoint', 'ckpt', '--config', CONFIG, *rest]


def same(ours, theirs, suffix=''):
  """Whether each of our leaves is the variable of that name."""
  for path, value in sharding.flat_paths(ours).items():
    name = pix2seq_tf.their_name(tuple(path.split('/')))
    root, _, rest = name.partition('/')
    name = f'model/{root}{suffix}/{rest}/.ATTRIBUTES/VARIABLE_VALUE'
    np.testing.assert_array_equal(value, theirs[name], err_msg=name)


def test_a_pipeline_from_the_whole(reading, checkpoint, tmp_path, capsys):
  out = tmp_path / 'original'
  command.main(arguments('--out', str(out)))
  assert re.search(r'wrote .*original; start', capsys.readouterr().out)
  for ema in (False, True):
    pipe = Pipeline.from_pretrained(out, ema=ema)
    params = {name: pipe.params[name] for name in ('net', 'stats')}
    same(params, checkpoint, '_ema' if ema else '')
  result = pipe.segment(np.full((40, 50, 3), 200, np.uint8), steps=1)
  assert result.segmentation.shape == (40, 50)
  told = json.loads((out / 'pretrained.json').read_text())
  assert told == {'from': SOURCE, 'checkpoint': 'ckpt', 'part': 'all'}
  with pytest.raises(ValueError, match='original is not empty'):
    command.main(arguments('--out', str(out)))


@pytest.mark.parametrize('averaged', [True, False])
def test_a_run_from_the_encoder_of_a_detector(
  reading, checkpoint, experiment, tmp_path, averaged
):
  """Of a detector there are no averages, and other parts beside it."""
  detector = {
    name: value
    for name, value in checkpoint.items()
    if averaged or not re.match('model/(.*_ema|denoiser|encoder_fuse)/', name)
  }
  detector['model/decoder/token_embedding'] = np.zeros((3, 4), np.float32)
  reading(detector)
  out = tmp_path / 'detector'
  command.main(arguments('--out', str(out), '--part', 'encoder'))
  assert archive.steps_in(out) == [0]
  shapes = command.wanted_tree(experiment, 'all')
  blank = jax.tree.map(lambda s: np.zeros(s.shape, s.dtype), shapes)
  for rule in ('exact', 'partial'):
    entry = (str(out), 'encoder', 'encoder', rule)
    params, report = weights.init_from({**blank, 'frozen': {}}, (entry,))
    assert "'encoder' -> 'encoder'" in report
    for name, tree in params.items():
      part = {name: {'encoder': tree.get('encoder', {})}}
      same(part, checkpoint, '_ema' if averaged else '')
    assert not any(
      leaf.any() for leaf in jax.tree.leaves(params['net']['denoiser'])
    )
  with pytest.raises(ValueError, match=r'config\.json does not exist'):
    workdir.load(out)


def test_a_dry_run_reads_and_writes_nothing(reading, checkpoint, capsys):
  class Unread:
    def __init__(self, value):
      self.shape = np.shape(value)

    def __array__(self, *_, **__):
      raise AssertionError('read')

  reading({name: Unread(value) for name, value in checkpoint.items()})
  command.main(arguments('--dry-run'))
  lines = capsys.readouterr().out.splitlines()
  mapped = [line for line in lines if ' -> ' in line]
  raw = [n for n in checkpoint if re.match('model/(?!.*_ema/)', n)]
  assert sorted(line.split(' -> ')[0] for line in mapped) == sorted(raw)
  assert (
    'model/denoiser/conv_in/bias/.ATTRIBUTES/VARIABLE_VALUE -> '
    'net/denoiser/conv_in/bias (16,)' in mapped
  )
  assert lines[-1] == 'with averaged copies of all of them'
  assert f'{len(raw)} arrays' in lines[len(raw)]


def test_an_average_that_is_not_whole(reading, checkpoint, tmp_path):
  broken = dict(checkpoint)
  del broken['model/encoder_ema/stem_ln/beta/.ATTRIBUTES/VARIABLE_VALUE']
  reading(broken)
  with pytest.raises(ValueError, match='missing: encoder/stem_ln/beta'):
    command.main(arguments('--out', str(tmp_path / 'x')))
  assert not (tmp_path / 'x').exists()


def test_classes_from_a_file(reading, tmp_path):
  path = tmp_path / 'annotations.json'
  num_classes = smoke_config().data.num_classes
  entries = [
    {'id': 10 * i, 'name': f'class {i}', 'isthing': 1}
    for i in range(1, num_classes + 2)
  ]
  path.write_text(json.dumps({'images': [], 'categories': entries}))
  more = ('--out', str(tmp_path / 'x'), '--categories', str(path))
  with pytest.raises(ValueError, match=r'has 8 classes but data.num_classes=7'):
    command.main(arguments(*more))
  path.write_text(json.dumps(entries[:num_classes]))
  command.main(arguments(*more))
  names = [c.name for c in workdir.load(tmp_path / 'x').categories]
  assert names == [f'class {i}' for i in range(1, num_classes + 1)]


def test_overrides_reach_the_config(reading, tmp_path):
  wider = '--config.model.merge.out_dim=24'
  with pytest.raises(ValueError, match='misshapen: denoiser/conv_in/kernel'):
    command.main(arguments('--out', str(tmp_path / 'x'), wider))


@pytest.mark.parametrize(
  'rest, words',
  [
    ((), '--out DIRECTORY or --dry-run'),
    (('--dry-run', '--colour=1'), 'unknown argument --colour'),
  ],
)
def test_bad_flags(rest, words, capsys):
  with pytest.raises(SystemExit):
    command.parse(arguments(*rest))
  assert words in capsys.readouterr().err


def test_a_part_that_is_not_there(reading):
  with pytest.raises(ValueError, match='offers all, encoder'):
    command.main(arguments('--dry-run', '--part', 'decoder'))
  blind = '--config.model.conditional=none'
  with pytest.raises(ValueError, match=r"--part=encoder: .*\['denoiser'\]"):
    command.main(arguments('--dry-run', '--part', 'encoder', blind))
