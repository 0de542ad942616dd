"""The command: configs and readers by name, a kill, what is said of faults."""

import json
import signal
import subprocess
import sys

import pytest
import tiny_coco

from pix2seqd_jax.cli import convert_data
from pix2seqd_jax.data.readers import coco_panoptic, shapes
from pix2seqd_jax.data.readers.array_record import ArrayRecord
from pix2seqd_jax.experiment import flags


def _flags(layout):
  return [f'--{key}={value}' for key, value in layout.items()]


def test_a_reader_by_its_name(tmp_path, capsys):
  layout = tiny_coco.write(tmp_path / 'files')
  out = tmp_path / 'out'
  given = ['--name=coco_panoptic', *_flags(layout), f'--out={out}']
  assert convert_data.main([*given, '--split', 'val', '--shards', '2']) == 0
  assert '6 examples in 2 shard' in capsys.readouterr().out
  found = ArrayRecord(out, 'val')
  tiny_coco.assert_same(found, coco_panoptic.CocoPanoptic(**layout))
  source = json.loads((out / 'val.json').read_text())['source']
  assert source == {'name': 'coco_panoptic', 'arguments': layout}
  with pytest.raises(ValueError, match='--overwrite'):
    convert_data.main([*given, '--split=val'])
  assert convert_data.main([*given, '--split=val', '--overwrite']) == 0


def test_a_config_with_overrides(tmp_path):
  given = ['--config=configs/pix2seq_d_shapes.py:smoke', '--split=eval']
  given += ['--config.data.eval.num_examples', '5', f'--out={tmp_path}']
  convert_data.main(given)
  assert len(ArrayRecord(tmp_path, 'eval')) == 5


@pytest.mark.parametrize(
  'given,words',
  [
    ([], 'one of the two'),
    (['--name=shapes', '--config=x.py'], 'one of the two'),
    (['--name=shape'], "Did you mean 'shapes'"),
    (['--name=shapes', '--num_exampels=3'], "Did you mean 'num_examples'"),
    (['--name=shapes', '--num_examples'], 'lacks its value'),
    (['--name=shapes', 'x'], "unexpected argument 'x'"),
    (['--name=coco_panoptic'], 'lacks images, panoptic, annotations'),
    (['--config=nowhere.py'], 'no file nowhere.py'),
    (['--config=configs/pix2seq_d_shapes.py:smoke', '--a=1'], '--a'),
    (
      ['--config=configs/pix2seq_d_shapes.py:smoke', '--split=val'],
      '--split=val',
    ),
    (
      ['--config=configs/pix2seq_d_shapes.py:smoke', '--config.datas.a=1'],
      "no section 'datas'",
    ),
  ],
)
def test_bad_arguments(tmp_path, given, words):
  with pytest.raises(ValueError, match=words):
    convert_data.main([*given, f'--out={tmp_path}'])


def test_our_own_errors_have_no_traceback(monkeypatch):
  def run():
    raise ValueError('the shard is cut off')

  with pytest.raises(SystemExit, match=r'^ValueError: the shard is cut off$'):
    flags.main(run)
  monkeypatch.setenv('PIX2SEQD_TRACEBACK', '1')
  with pytest.raises(ValueError, match='the shard'):
    flags.main(run)


_CHILD = """
import sys, time
from pix2seqd_jax.data import shapes
from pix2seqd_jax.data.convert import Conversion
source = shapes.Shapes(num_examples=40, size=(16, 20))
count = 0
def on_example():
  global count
  count += 1
  print('.', flush=True)
  if count == 23:  # three examples of the fifth file: here it is killed
    time.sleep(600)
Conversion(source, sys.argv[1], 'train', num_shards=8).run(
  num_threads=2, on_example=on_example)
"""


def test_a_killed_conversion_goes_on_to_the_same_bytes(tmp_path):
  from pix2seqd_jax.data.convert import Conversion

  source = shapes.Shapes(num_examples=40, size=(16, 20))
  out = tmp_path / 'out'
  child = subprocess.Popen(
    [sys.executable, '-c', _CHILD, str(out)], stdout=subprocess.PIPE
  )
  for _ in range(23):
    child.stdout.readline()
  child.send_signal(signal.SIGKILL)
  child.communicate()
  with pytest.raises(ValueError, match='not finished'):
    ArrayRecord(out)
  started = []
  Conversion(source, out, 'train', num_shards=8).run(on_start=started.append)
  assert started[0] == 20
  Conversion(source, tmp_path / 'whole', 'train', num_shards=8).run()
  for path in (tmp_path / 'whole').iterdir():
    assert (out / path.name).read_bytes() == path.read_bytes()
  # Nothing else was left, the lock of the dead process included.
  assert len(list(out.iterdir())) == len(list((tmp_path / 'whole').iterdir()))
