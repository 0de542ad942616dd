"""Folders and archives are one thing; an archive cannot do harm."""

import concurrent.futures
import json
import pickle
import stat
import struct
import zipfile

import numpy as np
import pytest

from pix2seqd_jax.data.formats import storage
from pix2seqd_jax.data.formats.faults import DataError

_FILES = {
  'val/a.bin': b'aaaa' * 100,
  'val/x/b.bin': bytes(range(256)),
  'val/.hidden': b'no',
  'notes.json': b'{"n": 1}',
}


@pytest.fixture(params=['folder', 'stored', 'deflated'])
def place(request, tmp_path):
  """The same files in a folder and in archives."""
  if request.param == 'folder':
    root = tmp_path / 'files'
    for name, data in _FILES.items():
      (root / name).parent.mkdir(parents=True, exist_ok=True)
      (root / name).write_bytes(data)
    return root
  method = {'stored': zipfile.ZIP_STORED, 'deflated': zipfile.ZIP_DEFLATED}
  path = tmp_path / 'files.zip'
  with zipfile.ZipFile(path, 'w', method[request.param]) as file:
    for name, data in _FILES.items():
      file.writestr(name, data)
  return path


def test_a_folder_and_an_archive_give_the_same(place):
  whole, part = storage.Storage(place), storage.Storage(place / 'val')
  assert whole.names() == ['notes.json', 'val/a.bin', 'val/x/b.bin']
  assert part.names() == ['a.bin', 'x/b.bin']
  for name in whole.names():
    assert whole.read(name) == _FILES[name]
    assert storage.read_file(place / name) == _FILES[name]
  assert part.read('./x/b.bin') == _FILES['val/x/b.bin']
  assert part.has('a.bin') and not part.has('b.bin') and not part.has('x')
  again = pickle.loads(pickle.dumps(part))
  assert again.read('a.bin') == _FILES['val/a.bin']
  assert part.label('a.bin') == str(place / 'val' / 'a.bin')


def test_what_is_not_there(place):
  found = storage.Storage(place)
  with pytest.raises(DataError, match=r'files.*none\.bin') as caught:
    found.read('none.bin')
  assert caught.value.fault.rule == 'missing_file'
  for name in ('../a.bin', '/etc/passwd', 'val/../../x', 'c:a', ''):
    for call in (found.read, found.has):
      with pytest.raises(DataError, match=r'some\.json: file name') as caught:
        call(name, 'some.json')
      assert caught.value.fault.rule == 'unsafe_name'
  with pytest.raises(ValueError, match=r'data\.images=.*train'):
    storage.Storage(place / 'train', key='images')
  with pytest.raises(ValueError, match=r'does not exist|no member'):
    storage.read_file(place / 'train' / 'a.bin')


def test_threads_may_read_at_once(tmp_path):
  rng = np.random.default_rng(0)
  files = {f'{i}.bin': rng.bytes(3000 + i) for i in range(30)}
  with zipfile.ZipFile(tmp_path / 'a.zip', 'w', zipfile.ZIP_DEFLATED) as file:
    for name, data in files.items():
      file.writestr(name, data)
  found = storage.Storage(tmp_path / 'a.zip')
  names = sorted(files) * 20
  with concurrent.futures.ThreadPoolExecutor(8) as pool:
    assert list(pool.map(found.read, names)) == [files[n] for n in names]


def _archive(tmp_path, name='a.bin', data=b'data', method=zipfile.ZIP_STORED):
  path = tmp_path / 'a.zip'
  with zipfile.ZipFile(path, 'w', method) as file:
    file.writestr(name, data)
  return path


def _directory_entry(path, change):
  """Changes the entry of the only member in the archive's table."""
  raw = bytearray(path.read_bytes())
  change(raw, raw.index(b'PK\x01\x02'))
  path.write_bytes(raw)


def _set(offset, form, value):
  return lambda raw, at: struct.pack_into(form, raw, at + offset, value)


@pytest.mark.parametrize(
  'change,words',
  [
    (_set(8, '<H', 1), 'is encrypted'),
    (_set(10, '<H', 14), 'is packed by lzma'),
    (_set(24, '<I', 3 << 30), 'would unpack 4 bytes to 3,221,225,472'),
    (_set(16, '<I', 5), 'check sum'),
    (_set(20, '<I', 400), 'cut off'),
    (_set(42, '<I', 7), 'is damaged|no member where'),
    (_set(38, '<I', (stat.S_IFLNK | 0o777) << 16), 'is a link'),
  ],
)
def test_members_that_are_refused(tmp_path, change, words):
  path = _archive(tmp_path)
  _directory_entry(path, change)
  with pytest.raises(DataError, match=words) as caught:
    storage.Storage(path).read('a.bin')
  assert caught.value.fault.rule == 'unreadable_archive'
  assert 'a.zip' in str(caught.value) and 'a.bin' in str(caught.value)


def test_a_bomb_is_not_unpacked(tmp_path):
  """It says that it is small, but would grow without end."""
  path = _archive(tmp_path, data=bytes(8 << 20), method=zipfile.ZIP_DEFLATED)
  _directory_entry(path, _set(24, '<I', 1000))
  member = storage.Archive(path)
  assert len(member._unpack(member.members['a.bin'])) <= 1001
  with pytest.raises(DataError, match='check sum'):
    storage.Storage(path).read('a.bin')


def test_archives_that_are_refused(tmp_path):
  path = tmp_path / 'a.zip'
  for data in (b'', b'no zip', _archive(tmp_path).read_bytes()[:-10]):
    path.write_bytes(data)
    with pytest.raises(DataError, match=r'a\.zip is not a zip archive'):
      storage.Storage(path)
  with pytest.warns(UserWarning), zipfile.ZipFile(path, 'w') as file:
    file.writestr('a', b'1')
    file.writestr('a', b'2')
    file.writestr('empty', b'')
  with pytest.raises(DataError, match='stands there twice'):
    storage.Storage(path).read('a')
  with pytest.raises(DataError, match=r'empty is empty \(zero bytes\)'):
    storage.Storage(path).read('empty')


def test_any_damage_is_our_own_error(tmp_path):
  """Each byte of an archive changed: the right bytes, or a ValueError."""
  text = json.dumps({'a': list(range(40))}).encode()
  whole = _archive(tmp_path, data=text, method=zipfile.ZIP_DEFLATED)
  raw, silent = whole.read_bytes(), 0
  for at in range(len(raw)):
    path = tmp_path / 'b.zip'
    path.write_bytes(raw[:at] + bytes([raw[at] ^ 0x55]) + raw[at + 1 :])
    try:
      found = storage.Archive(path).read('a.bin')
    except ValueError:
      continue
    assert found == text
    silent += 1
  assert 0 < silent < len(raw)  # dates and the like mean nothing


def test_links_out_of_a_folder(tmp_path):
  inside = tmp_path / 'in'
  inside.mkdir()
  (tmp_path / 'secret').write_bytes(b's')
  (inside / 'link').symlink_to(tmp_path / 'secret')
  (inside / 'circle').symlink_to(inside / 'circle')
  with pytest.raises(DataError, match='link that leaves'):
    storage.Storage(inside).read('link')
  for name in ('circle', 'a' * 300, 'a/' * 3000):
    with pytest.raises(DataError):
      storage.Storage(inside).read(name)
  assert storage.Storage(inside, follow_links=True).read('link') == b's'
