"""Images of every mode, broken files, names that try to leave."""

import numpy as np
import pytest
from PIL import Image

from pix2seqd_jax.data.formats import files


@pytest.fixture
def colors():
  rng = np.random.default_rng(0)
  return rng.integers(0, 256, (6, 9, 3), np.uint8)


@pytest.mark.parametrize('suffix', ['png', 'bmp', 'tif'])
def test_rgb_is_read_as_it_was_written(tmp_path, colors, suffix):
  path = tmp_path / f'a.{suffix}'
  Image.fromarray(colors).save(path)
  read = files.read_image(path)
  assert read.dtype == np.uint8
  np.testing.assert_array_equal(read, colors)


def test_gray_and_alpha(tmp_path, colors):
  gray = colors[..., 0]
  alpha = np.full_like(gray, 100)
  Image.fromarray(gray).save(tmp_path / 'gray.png')
  both = Image.fromarray(np.stack([gray, alpha], -1), mode='LA')
  both.save(tmp_path / 'la.png')
  Image.fromarray(np.dstack([colors, alpha])).save(tmp_path / 'rgba.png')
  Image.fromarray(gray > 99).save(tmp_path / 'one.png')
  repeated = np.repeat(gray[..., None], 3, -1)
  for name in ('gray', 'la'):
    read = files.read_image(tmp_path / f'{name}.png')
    np.testing.assert_array_equal(read, repeated)
  read = files.read_image(tmp_path / 'rgba.png')
  np.testing.assert_array_equal(read, colors)
  read = files.read_image(tmp_path / 'one.png')
  np.testing.assert_array_equal(read, (repeated > 99) * np.uint8(255))


@pytest.mark.parametrize('transparent', [False, True])
def test_palette(tmp_path, transparent):
  index = np.arange(12, dtype=np.uint8).reshape(3, 4)
  palette = np.arange(36, dtype=np.uint8)[::-1]
  image = Image.fromarray(index)
  image.putpalette(palette.tobytes())
  extra = {'transparency': 3} if transparent else {}
  image.save(tmp_path / 'p.png', **extra)
  read = files.read_image(tmp_path / 'p.png')
  np.testing.assert_array_equal(read, palette.reshape(12, 3)[index])


@pytest.mark.parametrize('suffix', ['png', 'tif'])
def test_sixteen_bits_are_scaled(tmp_path, suffix):
  values = np.array([[0, 257, 65535], [32896, 128, 514]], np.uint16)
  path = tmp_path / f'deep.{suffix}'
  Image.fromarray(values).save(path)
  read = files.read_image(path)
  assert read.dtype == np.uint8
  expected = np.round(values / 257).astype(int)
  for channel in range(3):
    assert np.abs(read[..., channel] - expected).max() <= 1
  assert read[0, 2, 0] == 255 and read[0, 0, 0] == 0


def test_cmyk(tmp_path, colors):
  flat = np.broadcast_to(colors[:1, :1], (16, 16, 3))
  path = tmp_path / 'ink.jpg'
  Image.fromarray(flat).convert('CMYK').save(path, quality=95)
  read = files.read_image(path)
  assert read.shape == (16, 16, 3)
  assert np.abs(read.astype(int) - flat).max() < 8


@pytest.mark.parametrize('orientation', range(1, 9))
def test_exif_orientation_is_applied(tmp_path, orientation):
  # 8 x 16 blocks, so that JPEG keeps them apart.
  blocks = np.array([[0, 100, 200], [250, 150, 50]], np.uint8)
  image = np.repeat(blocks.repeat(16, 0).repeat(16, 1)[..., None], 3, -1)
  stored = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a),
    7: lambda a: a.swapaxes(0, 1)[::-1, ::-1],
    8: lambda a: np.rot90(a, -1),
  }[orientation](image)
  turned = Image.fromarray(np.ascontiguousarray(stored))
  exif = turned.getexif()
  exif[0x0112] = orientation
  path = tmp_path / 'turned.jpg'
  turned.save(path, exif=exif, quality=95)
  upright = files.read_image(path)
  assert upright.shape == image.shape
  assert np.abs(upright.astype(int) - image).max() < 8
  raw = files.read_image(path, exif=False)
  assert raw.shape == stored.shape


def test_broken_images_name_the_file(tmp_path, colors):
  whole = tmp_path / 'whole.png'
  Image.fromarray(colors.repeat(20, 0).repeat(20, 1)).save(whole)
  cut = tmp_path / 'cut.png'
  cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
  empty = tmp_path / 'empty.jpg'
  empty.touch()
  text = tmp_path / 'text.jpg'
  text.write_text('not an image')
  deep = tmp_path / 'float.tif'
  Image.fromarray(np.ones((3, 3), np.float32)).save(deep)
  for path, words in (
    (cut, 'cut off or damaged'),
    (empty, r'empty \(zero bytes\)'),
    (text, 'not an image'),
    (deep, "mode 'F'"),
    (tmp_path / 'none.jpg', 'does not exist'),
    (tmp_path, 'is no file'),
  ):
    with pytest.raises(ValueError, match=words) as caught:
      files.read_image(path)
    assert path.name in str(caught.value)
  for path in (cut, empty, text, tmp_path / 'none.png'):
    with pytest.raises(ValueError, match=path.name):
      files.read_panoptic_png(path)


def test_panoptic_ids(tmp_path):
  ids = np.array([[0, 1, 255], [256, 65536, (1 << 24) - 1]])
  colors = np.stack([ids & 255, ids >> 8 & 255, ids >> 16], -1)
  Image.fromarray(colors.astype(np.uint8)).save(tmp_path / 'm.png')
  read = files.read_panoptic_png(tmp_path / 'm.png')
  assert read.dtype == np.int32
  np.testing.assert_array_equal(read, ids)


@pytest.mark.parametrize('mode', ['L', 'P', 'RGBA', 'LA'])
def test_a_panoptic_png_of_another_mode_is_refused(tmp_path, mode):
  Image.new(mode, (4, 4)).save(tmp_path / 'm.png')
  with pytest.raises(ValueError, match=rf"m.png is a PNG of mode '{mode}'"):
    files.read_panoptic_png(tmp_path / 'm.png')


def test_a_panoptic_map_must_be_lossless(tmp_path):
  Image.new('RGB', (4, 4)).save(tmp_path / 'm.png', 'JPEG')
  with pytest.raises(ValueError, match='JPEG'):
    files.read_panoptic_png(tmp_path / 'm.png')


@pytest.mark.parametrize(
  'name',
  [
    '../a.png',
    'x/../../a.png',
    'x\\..\\a.png',
    '..',
    '/etc/passwd',
    '\\\\host\\a.png',
    'C:\\a.png',
    'c:a.png',
    '',
    ' ',
    'a\0b',
  ],
)
def test_names_cannot_leave_their_folder(tmp_path, name):
  with pytest.raises(ValueError, match=r'some\.json: file name'):
    files.safe_join(tmp_path, name, where='some.json')


@pytest.mark.parametrize('name', ['a.png', 'x/a.png', './a.png', 'a..b.png'])
def test_names_below_are_joined(tmp_path, name):
  assert files.safe_join(tmp_path, name) == tmp_path / name


def test_links_out_of_the_folder_are_refused(tmp_path):
  inside = tmp_path / 'inside'
  inside.mkdir()
  (tmp_path / 'secret.png').touch()
  (inside / 'link.png').symlink_to(tmp_path / 'secret.png')
  (inside / 'up').symlink_to(tmp_path)
  (inside / 'real.png').touch()
  (inside / 'near.png').symlink_to(inside / 'real.png')
  for name in ('link.png', 'up/secret.png'):
    with pytest.raises(ValueError, match='link that leaves'):
      files.safe_join(inside, name)
    assert files.safe_join(inside, name, follow_links=True).is_file()
  files.safe_join(inside, 'near.png')
  # A folder that is itself reached by a link is fine.
  files.safe_join(inside / 'up' / 'inside', 'real.png')


def test_images_of_folders(tmp_path, colors):
  for name in ('b.png', 'a.JPG', '.hidden.png', 'notes.txt'):
    (tmp_path / name).touch()
  (tmp_path / 'sub.png').mkdir()
  found = files.list_images(tmp_path, tmp_path / 'b.png')
  assert [p.name for p in found] == ['a.JPG', 'b.png', 'b.png']
  with pytest.raises(ValueError, match=r'sub\.png has no images'):
    files.list_images(tmp_path / 'sub.png')
  with pytest.raises(ValueError, match='does not exist'):
    files.list_images(tmp_path / 'none')


def test_writing_is_whole_or_not_at_all(tmp_path):
  path = tmp_path / 'x' / 'a.bin'
  files.write_atomically(path, b'one')
  files.write_atomically(path, b'two')
  assert path.read_bytes() == b'two'
  with pytest.raises(TypeError):
    files.write_atomically(path, 3)
  assert path.read_bytes() == b'two'
  assert [p.name for p in path.parent.iterdir()] == ['a.bin']
