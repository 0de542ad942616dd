"""Masks of parts of faces become one map; the command, twice."""

import numpy as np
import pytest
from PIL import Image

from pix2seqd_jax.cli import convert_data
from pix2seqd_jax.data.readers import celeb_masks, layouts
from pix2seqd_jax.data.readers.semantic_folder import SemanticFolder

SIZE = (6, 8)


def box(rows, columns):
  mask = np.zeros(SIZE, np.uint8)
  mask[rows, columns] = 255
  return mask


PARTS = {
  'hair': box(slice(0, 2), slice(None)),
  'skin': box(slice(1, 6), slice(1, 7)),
  'l_eye': box(slice(3, 4), slice(5, 6)),
}


@pytest.fixture
def faces(tmp_path):
  """Two faces as they are published; face 12 has channels of three."""
  root = tmp_path / 'CelebAMask-HQ'
  for number, folder in ((3, '0'), (12, '1')):
    for name, mask in PARTS.items():
      path = root / celeb_masks.MASKS / folder / f'{number:05d}_{name}.png'
      path.parent.mkdir(parents=True, exist_ok=True)
      image = Image.fromarray(mask)
      (image.convert('RGB') if number == 12 else image).save(path)
    path = root / celeb_masks.IMAGES / f'{number}.jpg'
    path.parent.mkdir(exist_ok=True)
    Image.new('RGB', (2 * SIZE[1], 2 * SIZE[0]), (200, 90, 9)).save(path)
  (root / celeb_masks.MAPPING).write_text(
    'idx  orig_idx  orig_file\n3 162769 162770.jpg\n12 162770 162771.jpg\n'
    '13 9 000010.jpg\n'
  )
  return root


def test_later_parts_cover_earlier_ones():
  """By the definition: the last part of the list that holds the pixel."""
  rng = np.random.default_rng(0)
  parts = {n: rng.random(SIZE) < 0.3 for n in layouts.CELEB_PARTS[::-1]}
  found = celeb_masks.merged(parts)
  for y, x in np.ndindex(SIZE):
    held = [i for i, n in enumerate(layouts.CELEB_PARTS, 1) if parts[n][y, x]]
    assert found[y, x] == max(held, default=0)


def test_the_command_makes_what_the_reader_reads(faces, tmp_path, capsys):
  out = tmp_path / 'out'
  given = ['--celeb', str(faces), '--out', str(out), '--threads=2']
  assert convert_data.main(given) == 0
  assert '2 faces' in capsys.readouterr().out
  for split, name in (('train', '3.jpg'), ('val', '12.jpg')):
    source = SemanticFolder(
      out / 'images', out / 'labels', layout='celeb', names=out / f'{split}.txt'
    )
    (example,) = source
    assert example['file'] == name and example['image'].shape == (*SIZE, 3)
    np.testing.assert_array_equal(
      example['ids'], celeb_masks.merged(PARTS) + np.int32(1)
    )
  assert (out / 'test.txt').read_text() == ''
  # A second run leaves what is there, and mends what is not.
  label = out / 'labels' / '3.png'
  Image.new('L', SIZE[::-1]).save(label)
  (out / 'labels' / '12.png').unlink()
  convert_data.main(given)
  assert not np.asarray(Image.open(label)).any()
  assert np.asarray(Image.open(out / 'labels' / '12.png')).any()


def test_255_is_no_part(faces, tmp_path):
  convert_data.main(['--celeb', str(faces), '--out', str(tmp_path / 'out')])
  out = tmp_path / 'out'
  Image.new('L', SIZE[::-1], 255).save(out / 'labels' / '3.png')
  source = SemanticFolder(out / 'images', out / 'labels', layout='celeb')
  with pytest.raises(ValueError, match='has the values 255, which are no'):
    list(source)


def test_what_can_be_wrong(faces, tmp_path):
  out = ['--out', str(tmp_path / 'out')]
  with pytest.raises(ValueError, match='has no masks'):
    convert_data.main(['--celeb', str(tmp_path / 'nowhere'), *out])
  with pytest.raises(ValueError, match='--celeb goes with --out'):
    convert_data.main(['--celeb', str(faces), '--name=shapes', *out])
  masks = faces / celeb_masks.MASKS
  odd = masks / '0' / '00003_l_eyes.png'
  Image.new('L', SIZE[::-1]).save(odd)
  with pytest.raises(ValueError, match=r"'l_eyes'.* Did you mean 'l_eye'"):
    convert_data.main(['--celeb', str(faces), *out])
  odd.unlink()
  Image.new('L', (3, 3)).save(masks / '0' / '00003_nose.png')
  with pytest.raises(ValueError, match=r'00003_hair\.png and .* 2 sizes'):
    convert_data.main(['--celeb', str(faces), *out])
  (masks / '0' / '00003_nose.png').unlink()
  (faces / celeb_masks.IMAGES / '3.jpg').unlink()
  with pytest.raises(ValueError, match=r'3\.jpg, the face itself, is missing'):
    convert_data.main(['--celeb', str(faces), *out])
  Image.new('L', (3, 3)).save(masks / 'mask.png')
  with pytest.raises(ValueError, match=r'are called like 00042_l_eye\.png'):
    convert_data.main(['--celeb', str(faces), *out])
