"""Videos: what is read back is what was written."""

import sys
import types

import numpy as np
import pytest
from PIL import Image, ImageSequence

from pix2seqd_jax.visualize import video as video_lib


def frames(count=5, size=(9, 15)):
  """Of few colours, which a palette holds."""
  rng = np.random.default_rng(0)
  colors = rng.integers(0, 256, (8, 3), np.uint8)
  return [colors[rng.integers(0, 8, size)] for _ in range(count)]


def test_a_gif_shows_every_frame_for_its_time_and_begins_again(tmp_path):
  expected = frames()
  path = video_lib.write(tmp_path / 'new' / 'a.gif', expected, fps=20, hold=2)
  with Image.open(path) as video:
    assert video.n_frames == 5 and video.info['loop'] == 0
    times = []
    for frame, ours in zip(
      ImageSequence.Iterator(video), expected, strict=True
    ):
      times.append(frame.info['duration'])
      np.testing.assert_array_equal(np.asarray(frame.convert('RGB')), ours)
  assert times == [2000, 50, 50, 50, 2000]


def test_one_frame_is_a_video(tmp_path):
  path = video_lib.write(tmp_path / 'a.GIF', frames(1))
  with Image.open(path) as video:
    assert video.size == (15, 9)


@pytest.fixture
def ffmpeg(monkeypatch):
  """Stands for imageio-ffmpeg, and keeps what it is told."""
  told = {'frames': []}

  def write_frames(path, size, *, fps, macro_block_size):
    told.update(path=path, size=size, fps=fps, block=macro_block_size)
    try:
      while True:
        told['frames'].append((yield))
    finally:
      told['closed'] = True

  module = types.SimpleNamespace(write_frames=write_frames)
  monkeypatch.setitem(sys.modules, 'imageio_ffmpeg', module)
  return told


def test_an_mp4_has_even_sides_and_holds_its_ends(tmp_path, ffmpeg):
  expected = frames(3)
  video_lib.write(tmp_path / 'a.mp4', expected, fps=4, hold=0.5)
  assert ffmpeg['size'] == (14, 8) and ffmpeg['block'] == 2
  assert ffmpeg['closed'] and ffmpeg['path'].endswith('a.mp4')
  order = [0, 0, 1, 2, 2]
  for frame, i in zip(ffmpeg['frames'], order, strict=True):
    np.testing.assert_array_equal(frame, expected[i][:8, :14])


def test_an_mp4_without_its_package_says_what_to_do(tmp_path, monkeypatch):
  monkeypatch.setitem(sys.modules, 'imageio_ffmpeg', None)
  with pytest.raises(ValueError, match=r'imageio-ffmpeg .*; or write a GIF'):
    video_lib.write(tmp_path / 'new' / 'a.mp4', frames(2))
  assert not list(tmp_path.iterdir())


def test_bad_arguments(tmp_path):
  with pytest.raises(ValueError, match=r'must end with \.gif or \.mp4'):
    video_lib.write(tmp_path / 'a.webm', frames())
  path = tmp_path / 'a.gif'
  with pytest.raises(ValueError, match='at least one frame'):
    video_lib.write(path, [])
  with pytest.raises(ValueError, match=r'not float64 \(2, 2, 3\)'):
    video_lib.write(path, [np.zeros((2, 2, 3))])
  with pytest.raises(ValueError, match=r'one size, not \[\(8, 15\), \(9, 15\)'):
    video_lib.write(path, [*frames(1), *frames(1, (8, 15))])
  for bad in ({'fps': 0}, {'fps': 101}, {'hold': -1}):
    with pytest.raises(ValueError, match='must lie in'):
      video_lib.write(path, frames(), **bad)
  assert not path.exists()
