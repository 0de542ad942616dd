"""Images -> a video: GIF by Pillow alone, MP4 where imageio-ffmpeg is."""

import os
import pathlib
from collections.abc import Sequence

import numpy as np
from PIL import Image

FORMATS = ('gif', 'mp4')
_COLORS = 255  # of a GIF; one more would be its transparent one


def write(
  path: str | os.PathLike,
  frames: Sequence[np.ndarray],
  *,
  fps: float | int = 10,
  hold: float | int = 1.5,
) -> pathlib.Path:
  """Writes a video, NAME.gif (which begins again) or NAME.mp4.

  Args:
    path: its folder is made if it does not exist.
    frames: uint8 [h, w, 3], all of one size. Those of an MP4 lose a row or
      a column where their number is odd: its colours come in pairs.
    fps: frames in a second; a GIF counts hundredths of one.
    hold: seconds for which the first and the last frame stand.

  Returns:
    The path.

  Raises:
    ValueError: no frame, frames of several sizes, numbers out of range,
      another ending, or an MP4 without imageio-ffmpeg.
  """
  path = pathlib.Path(path)
  kind = path.suffix.lower().lstrip('.')
  if kind not in FORMATS:
    raise ValueError(f'video {path}: the name must end with .gif or .mp4.')
  _check(frames, fps, hold)
  if kind == 'mp4':
    ffmpeg()
  path.parent.mkdir(parents=True, exist_ok=True)
  if kind == 'gif':
    _write_gif(path, frames, fps, hold)
  else:
    _write_mp4(path, frames, fps, hold)
  return path


def _check(frames, fps, hold):
  if not len(frames):
    raise ValueError('a video needs at least one frame.')
  for frame in frames:
    if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[-1] != 3:
      raise ValueError(
        f'frames of a video are uint8 [h, w, 3], not {frame.dtype} '
        f'{frame.shape}.'
      )
  sizes = {frame.shape[:2] for frame in frames}
  if len(sizes) > 1:
    raise ValueError(
      f'frames of a video must be of one size, not {sorted(sizes)}; resize '
      'them.'
    )
  if not (0 < fps <= 100 and 0 <= hold <= 60):
    raise ValueError(
      f'fps={fps} must lie in (0, 100] and hold={hold} in [0, 60] seconds.'
    )


def _write_gif(path, frames, fps, hold):
  # One palette for all frames, of what they show together: one of its own for
  # each would flicker.
  step = max(1, len(frames) // 16)
  together = np.concatenate([*frames[::step], frames[-1]])
  palette = Image.fromarray(together).quantize(_COLORS)
  images = [
    Image.fromarray(frame).quantize(palette=palette, dither=Image.Dither.NONE)
    for frame in frames
  ]
  times = [max(20, round(1000 / fps))] * len(frames)
  times[0] = times[-1] = max(times[0], round(1000 * hold))
  images[0].save(
    path,
    format='GIF',
    save_all=True,
    append_images=images[1:],
    duration=times,
    loop=0,
  )


def ffmpeg():
  """The package that writes MP4; raises ValueError where it is missing."""
  try:
    import imageio_ffmpeg
  except ImportError as error:
    raise ValueError(
      'a video as MP4 needs imageio-ffmpeg (pip install imageio-ffmpeg); or '
      'write a GIF.'
    ) from error
  return imageio_ffmpeg


def _write_mp4(path, frames, fps, hold):
  height, width = (n // 2 * 2 for n in frames[0].shape[:2])
  still = max(1, round(hold * fps))
  shown = [frames[0]] * still + list(frames[1:-1]) + [frames[-1]] * still
  writer = ffmpeg().write_frames(
    str(path), (width, height), fps=fps, macro_block_size=2
  )
  writer.send(None)
  try:
    for frame in shown:
      writer.send(np.ascontiguousarray(frame[:height, :width]))
  finally:
    writer.close()
