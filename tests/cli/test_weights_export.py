"""The command on checkpoints in PyTorch's names: there, on, and back."""

import json

import jax
import numpy as np
import pytest
import toy_part as toy
from safetensors.numpy import save_file

from pix2seqd_jax.architectures.clip_text import CLIPText
from pix2seqd_jax.architectures.sd_unet import SDUNet
from pix2seqd_jax.architectures.sd_vae import SDVAE
from pix2seqd_jax.cli import weights_import as command
from pix2seqd_jax.pretrained import mapping, save, sources
from pix2seqd_jax.train.checkpoints import weights


@pytest.fixture(autouse=True)
def toys(monkeypatch):
  """A family of two networks that differ in one name."""
  other = toy.PART._replace(mark='net.other')
  family = sources.Source(
    {'first': toy.PART, 'second': other}, {'one.': 'first', 'two.': 'second'}
  )
  monkeypatch.setitem(sources.SOURCES, 'toys', family)


@pytest.fixture
def checkpoint(tmp_path):
  """Both in one file, and something that is neither."""
  arrays = toy.theirs(prefix='one.') | toy.theirs(seed=1, prefix='two.net.')
  path = tmp_path / 'all.safetensors'
  save_file(arrays | {'betas': np.zeros(3)}, path)
  return str(path)


def run(*arguments):
  command.main([str(a) for a in arguments])


def same(ours, theirs):
  jax.tree.map(np.testing.assert_array_equal, dict(ours), dict(theirs))


def test_a_directory_that_models_start_from(checkpoint, tmp_path, capsys):
  out = tmp_path / 'out'
  run('--from', 'toys', '--checkpoint', checkpoint, '--out', out)
  said = capsys.readouterr().out
  assert f"(('{out}','second','<part of your model>','exact'),)" in said
  ours = toy.variables(seed=1)
  blank = {
    'net': {'backbone': jax.tree.map(np.zeros_like, ours['params'])},
    'stats': {'backbone': jax.tree.map(np.zeros_like, ours['batch_stats'])},
    'frozen': {'teacher': jax.tree.map(np.zeros_like, ours['params'])},
  }
  entries = (
    (str(out), 'second', 'backbone', 'exact'),
    (str(out), 'net/first', 'frozen/teacher', 'exact'),
  )
  params, _ = weights.init_from(blank, entries)
  same(params['net']['backbone'], ours['params'])
  same(params['stats']['backbone'], ours['batch_stats'])
  same(params['frozen']['teacher'], toy.variables()['params'])
  with pytest.raises(ValueError, match='out is not empty'):
    run('--from', 'toys', '--checkpoint', checkpoint, '--out', out)


def test_names_beside_the_parts_are_counted(checkpoint, capsys):
  run('--from', 'toys', '--checkpoint', checkpoint, '--dry-run')
  lines = capsys.readouterr().out.splitlines()
  counted = [line for line in lines if line.startswith('passed over')]
  assert counted == [
    'passed over: 1 x names of no part of it (model_ema, tables, ...)'
  ]


def test_several_files_of_one_network(tmp_path, monkeypatch):
  split = sources.Source({'net': toy.PART}, is_split=True)
  monkeypatch.setitem(sources.SOURCES, 'split', split)
  arrays = toy.theirs()
  names = sorted(arrays)
  for file, some in (('a', names[:5]), ('b', names[5:])):
    found = {name: arrays[name] for name in some}
    save_file(found, tmp_path / f'{file}.safetensors')
  same(sources.load('split', tmp_path)[1], toy.variables())
  save_file({names[0]: arrays[names[0]]}, tmp_path / 'c.safetensors')
  with pytest.raises(ValueError, match='that another file of its folder has'):
    sources.load('split', tmp_path)


def test_half_precision_alone_in_a_folder(tmp_path):
  arrays = {k: v.astype(np.float16) for k, v in toy.theirs().items()}
  save_file(arrays, tmp_path / 'model.fp16.safetensors')
  with pytest.raises(ValueError, match='--cast float32'):
    sources.load('toys', tmp_path, 'first')
  found = sources.load('toys', tmp_path, 'first', cast='float32')[1]
  rounded = jax.tree.map(np.float16, toy.variables())
  same(found, jax.tree.map(np.float32, rounded))


def test_one_part(checkpoint, tmp_path):
  out = tmp_path / 'out'
  arguments = ('--from', 'toys', '--checkpoint', checkpoint, '--out', out)
  run(*arguments, '--part', 'second')
  assert list(weights.load_params(out)['net']) == ['second']
  told = json.loads((out / 'pretrained.json').read_text())
  assert told['part'] == 'second'
  assert told['networks']['second']['module'] == 'Net'
  assert told['networks']['second']['fields']['depth'] == 3


def test_a_dry_run_reads_and_writes_nothing(
  checkpoint, tmp_path, capsys, monkeypatch
):
  def unread(*_):
    raise AssertionError('read')

  monkeypatch.setattr(mapping.Plan, 'tree', unread)
  run('--from', 'toys', '--checkpoint', checkpoint, '--dry-run')
  lines = capsys.readouterr().out.splitlines()
  mapped = [line for line in lines if ' -> ' in line]
  assert len(mapped) == 2 * len(toy.theirs())
  assert 'one.conv_in.weight -> params/conv_in/kernel (3, 3, 5, 6)' in mapped
  assert {p.name for p in tmp_path.iterdir()} == {'all.safetensors'}


@pytest.mark.parametrize('prefix', [None, 'net/second', 'second/'])
def test_the_way_back(checkpoint, tmp_path, prefix):
  out, back = tmp_path / 'out', tmp_path / 'back'
  run('--from', 'toys', '--checkpoint', checkpoint, '--out', out)
  arguments = ['--to', 'toys', '--checkpoint', out, '--out', back]
  arguments += ['--part', 'second']
  arguments += ['--prefix', prefix] if prefix else []
  if prefix == 'net/second':  # of one collection, and this one has two
    with pytest.raises(ValueError, match='missing: batch_stats/bn/mean'):
      run(*arguments)
    return
  run(*arguments)
  same(sources.load('toys', back, 'second')[1], toy.variables(seed=1))


def test_averaged_weights_or_raw(tmp_path):
  raw, averaged = toy.variables(seed=2), toy.variables(seed=3)

  def params(found):
    return {
      'net': {'part': found['params']},
      'stats': {'part': found['batch_stats']},
    }

  weights.save_params(tmp_path / 'run', 5, params(raw), params(averaged))
  arguments = ('--to', 'toys', '--part', 'first', '--prefix', 'part')
  arguments += ('--checkpoint', tmp_path / 'run')
  run(*arguments, '--out', tmp_path / 'a')
  same(sources.load('toys', tmp_path / 'a', 'first')[1], averaged)
  run(*arguments, '--out', tmp_path / 'b', '--raw')
  same(sources.load('toys', tmp_path / 'b', 'first')[1], raw)


@pytest.mark.parametrize(
  'arguments, words',
  [
    (('--from', 'toys', '--part', 'third', '--dry-run'), "part='third': toys"),
    (('--to', 'toys', '--part', 'first', '--dry-run'), '--to needs --out'),
    (('--to', 'toys', '--part', 'all', '--out', 'x'), "part='all': toys has"),
    (
      ('--to', 'toys', '--part', 'first', '--prefix', 'unet', '--out', 'x'),
      '--prefix=unet: .* has first, second',
    ),
    (
      ('--from', 'pix2seq-tf', '--cast', 'keep', '--dry-run'),
      '--cast and --key do not go with',
    ),
    (
      ('--from', 'sd15', '--categories', 'c.json', '--dry-run'),
      '--categories=c.json goes with --config',
    ),
  ],
)
def test_refused(checkpoint, tmp_path, monkeypatch, arguments, words):
  monkeypatch.chdir(tmp_path)
  run('--from', 'toys', '--checkpoint', checkpoint, '--out', 'out')
  taken = 'out' if '--to' in arguments else checkpoint
  with pytest.raises(ValueError, match=words):
    run(*arguments, '--checkpoint', taken)
  assert not (tmp_path / 'x').exists()


@pytest.mark.parametrize('linear', [False, True])
def test_heads_and_projections_survive_the_way_back(tmp_path, capsys, linear):
  """Neither shows in our arrays."""
  module = SDUNet(
    channels=(32, 64),
    has_attention=(True, False),
    num_layers=1,
    num_heads=4,
    context_dim=6,
    linear=linear,
  )
  part = sources.part_of('sd15', 'unet')
  values = jax.tree.map(
    lambda leaf: np.zeros(leaf.shape, np.float32), dict(part.shapes(module))
  )
  save.save(part, module, values, tmp_path / 'sd' / 'unet')
  (tmp_path / 'sd' / 'unet' / 'config.json').rename(tmp_path / 'config.json')
  config = json.loads((tmp_path / 'config.json').read_text())
  told = {k: config[k] for k in ('attention_head_dim', 'norm_num_groups')}
  (tmp_path / 'sd' / 'unet' / 'config.json').write_text(json.dumps(told))
  out, back = tmp_path / 'out', tmp_path / 'back'
  run('--from', 'sd15', '--checkpoint', tmp_path / 'sd', '--out', out)
  arguments = ('--to', 'sd15', '--part', 'unet', '--prefix', 'net/unet')
  run(*arguments, '--checkpoint', out, '--out', back)
  assert json.loads((back / 'config.json').read_text()) == config
  # A run of one's own tells nothing: the arrays decide, and 1.x is the rule.
  (out / 'pretrained.json').unlink()
  run(*arguments, '--checkpoint', out, '--out', tmp_path / 'own')
  found = json.loads((tmp_path / 'own' / 'config.json').read_text())
  assert not found['use_linear_projection']
  assert 'assumed, as no array shows it: num_heads=8' in capsys.readouterr().out
  # A config of theirs tells.
  like = ('--like', tmp_path / 'config.json')
  run(*arguments, '--checkpoint', out, '--out', tmp_path / 'like', *like)
  found = json.loads((tmp_path / 'like' / 'config.json').read_text())
  assert found == config
  with pytest.raises(ValueError, match=r'--like=.* is no config\.json'):
    run(*arguments, '--checkpoint', out, '--out', tmp_path / 'y', '--like', 'z')


def test_one_files_parts_take_no_config_and_any_wrapper(tmp_path):
  arrays = toy.theirs(prefix='module.one.') | toy.theirs(prefix='two.net.')
  save_file(arrays, tmp_path / 'all.safetensors')
  (tmp_path / 'config.json').write_text(json.dumps({'is_conv': False}))
  found = sources.find('toys', tmp_path / 'all.safetensors')
  assert list(found) == ['first', 'second']
  assert found['first'].module.is_conv


def test_stable_diffusion(tmp_path):
  """Folders of diffusers -> a directory of ours -> the same bytes."""
  modules = {
    'unet': SDUNet(
      channels=(8, 16),
      has_attention=(True, False),
      groups=4,
      num_layers=1,
      num_heads=2,
      context_dim=6,
    ),
    'vae': SDVAE(block_out_channels=(8, 16), groups=4, layers_per_block=1),
    'text_encoder': CLIPText(
      vocab_size=20, width=8, num_layers=2, num_heads=2, mlp_dim=16
    ),
  }
  rng = np.random.default_rng(0)
  for name, module in modules.items():
    part = sources.part_of('sd15', name)
    values = jax.tree.map(
      lambda leaf: rng.normal(size=leaf.shape).astype(np.float32),
      dict(part.shapes(module)),
    )
    save.save(part, module, values, tmp_path / 'sd' / name)
  out = tmp_path / 'out'
  run('--from', 'sd15', '--checkpoint', tmp_path / 'sd', '--out', out)
  for name in modules:
    back = tmp_path / name
    run(
      *('--to', 'sd15', '--part', name),
      *('--checkpoint', out, '--out', back),
    )
    for file in ('config.json', sources.part_of('sd15', name).file):
      theirs = tmp_path / 'sd' / name / file
      assert (back / file).read_bytes() == theirs.read_bytes()
