"""The command: its exit codes, its JSON, its words."""

import json
import shutil

import pytest
from panoptic_layout import Layout

from pix2seqd_jax.cli import validate_data


@pytest.fixture
def layout(tmp_path):
  made = Layout(tmp_path / 'set')
  made.write()
  return made


def _flags(layout):
  return [text for k, v in layout.args.items() for text in (f'--{k}', str(v))]


def test_a_sound_data_set_ends_with_0(layout, capsys):
  assert validate_data.main(_flags(layout)) == 0
  out, err = capsys.readouterr()
  assert out == 'coco_panoptic: 4 examples, no fault.\n'
  assert err == 'coco_panoptic: 4 of 4\n'


def test_faults_end_with_1_and_are_listed(layout, capsys):
  (layout.root / 'i' / '2.jpg').write_bytes(b'')
  layout.data['annotations'][3]['segments_info'][0]['category_id'] = 5
  layout.data['images'][0]['file_name'] = '\ud800.jpg'  # no terminal shows it
  layout.write()
  assert validate_data.main([*_flags(layout), '--threads=1']) == 1
  out = capsys.readouterr().out
  assert 'FAULT empty_file: ' in out and '2.jpg is empty' in out
  assert 'FAULT unknown_category: ' in out and '3.png has a segment of' in out
  assert 'coco_panoptic: 3 faults' in out
  assert validate_data.main([*_flags(layout), '--json']) == 1
  found = json.loads(capsys.readouterr().out)
  assert not found['ok']
  [part] = found['parts']
  assert part['num_faults'] == 3 and part['num_examples'] == 4
  assert part['by_rule']['empty_file'] == 1
  rules = {row['rule']: row for row in part['found']}
  assert rules['empty_file']['file'] == str(layout.root / 'i' / '2.jpg')
  assert set(rules['empty_file']) == {'rule', 'file', 'message', 'is_warning'}


def test_an_archive_is_validated_as_it_is(layout, tmp_path, capsys):
  (layout.root / 'p' / '1.png').write_bytes(b'no')
  packed = shutil.make_archive(tmp_path / 'all', 'zip', layout.root)
  places = {'images': 'i', 'panoptic': 'p', 'annotations': 'a.json'}
  flags = [f'--{key}={packed}/{name}' for key, name in places.items()]
  assert validate_data.main([*flags, '--json']) == 1
  [part] = json.loads(capsys.readouterr().out)['parts']
  [fault] = part['found']
  assert fault['rule'] == 'unreadable_map'
  assert fault['file'] == f'{packed}/p/1.png'


def test_a_config_names_both_splits(layout, capsys):
  """Its own paths are overridden, as on the command line of a run."""
  flags = ['--config', 'configs/pix2seq_d_nuclei.py:smoke']
  flags += [f'--config.data.root={layout.root}']
  for split in ('train', 'eval'):
    flags += [
      f'--config.data.{split}.images=i',
      f'--config.data.{split}.panoptic=p',
      f'--config.data.{split}.annotations=a.json',
    ]
  assert validate_data.main(flags) == 0
  out = capsys.readouterr().out
  assert 'coco_panoptic, train: 4 examples' in out
  assert 'coco_panoptic, eval: 4 examples' in out
  assert validate_data.main([*flags, '--split=eval', '--json']) == 0
  assert len(json.loads(capsys.readouterr().out)['parts']) == 1


@pytest.mark.parametrize(
  'flags,words',
  [
    (['--image', 'x'], "Did you mean 'images'"),
    (['--images', 'x'], 'lacks panoptic, annotations'),
    (['--name', 'coco_panoptik'], "Did you mean 'coco_panoptic'"),
    (['--config', 'none.py'], 'none.py'),
    (['--config', 'none.py', '--name', 'shapes'], 'not both'),
    (['--config', 'configs/pix2seq_d_shapes.py', '--images', 'x'], 'unknown'),
    (['--config', 'configs/pix2seq_d_shapes.py', '--split', 'val'], "'val'"),
    (['--threads', '0'], '--threads=0'),
    (['stray'], 'stray'),
  ],
)
def test_a_wrong_command_ends_with_2(flags, words, capsys):
  assert validate_data.main(flags) == 2
  assert words in capsys.readouterr().err


def test_nuclei_and_camvid_are_sound(shared, capsys):
  root = shared / 'data'
  flags = ['--config', 'configs/pix2seq_d_nuclei.py', '--split', 'eval']
  flags += [f'--config.data.root={root / "nuclei"}']
  assert validate_data.main([*flags, '--config.data.eval.max_examples=20']) == 0
  flags = ['--name', 'semantic_folder', '--layout', 'camvid']
  flags += ['--images', str(root / 'camvid/images/val'), '--max_examples=5']
  flags += ['--labels', str(root / 'camvid/labels/val')]
  assert validate_data.main(flags) == 0
  assert 'semantic_folder: 5 examples, no fault.' in capsys.readouterr().out
