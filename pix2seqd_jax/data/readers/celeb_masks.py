"""CelebAMask-HQ as it is published -> images and label maps of one size.

Lee et al. 2020, https://arxiv.org/abs/1907.11922. A face has one mask for
each part that it shows, CelebAMask-HQ-mask-anno/*/00042_l_eye.png, 512 x 512,
and an image of 1024 x 1024, CelebA-HQ-img/42.jpg. What this makes is read by
semantic_folder, layout 'celeb'.
"""

import concurrent.futures
import os
import pathlib
import re

import numpy as np
from PIL import Image

from pix2seqd_jax.data.formats import files
from pix2seqd_jax.data.formats.faults import refuse
from pix2seqd_jax.data.readers import layouts
from pix2seqd_jax.data.transforms.resize import resize_image
from pix2seqd_jax.registry import did_you_mean

MASKS, IMAGES = 'CelebAMask-HQ-mask-anno', 'CelebA-HQ-img'
MAPPING = 'CelebA-HQ-to-CelebA-mapping.txt'
_NAME = re.compile(r'(\d+)_(\w+)\.png')
# CelebA's own split, by the number of an image there.
_FIRST_VAL, _FIRST_TEST = 162_770, 182_637
_QUALITY = 95


def merged(parts):
  """Masks of parts -> the label map, uint8 [h, w]; 0 is the background.

  Where masks overlap, the part that comes later in `layouts.CELEB_PARTS`
  shows: lips over skin, hair over both.

  Args:
    parts: {name of the part: [h, w], not 0 where it is}.

  Raises:
    ValueError: no part, one of another name, or masks of several sizes.
  """
  for name in parts:
    if name not in layouts.CELEB_PARTS:
      raise ValueError(
        f'there is no part of a face called {name!r}.'
        f'{did_you_mean(name, layouts.CELEB_PARTS)} '
        f'Known: {", ".join(layouts.CELEB_PARTS)}.'
      )
  sizes = {np.shape(mask) for mask in parts.values()}
  if len(sizes) != 1:
    raise ValueError(f'the masks of one face have {len(sizes)} sizes: {sizes}.')
  labels = np.zeros(sizes.pop(), np.uint8)
  for number, name in enumerate(layouts.CELEB_PARTS, 1):
    if name in parts:
      labels[np.asarray(parts[name]) != 0] = number
  return labels


class Faces:
  """The faces of a folder, to be written one by one.

  Args:
    folder: the unpacked data set.
    out: gets labels/42.png, images/42.jpg of the same size and, where the
      folder has the mapping to CelebA, train.txt, val.txt and test.txt.

  Raises:
    ValueError: the folder lacks masks or images; a mask of no known name.
  """

  def __init__(self, folder: str | os.PathLike, out: str | os.PathLike):
    self._folder, self.out = pathlib.Path(folder), pathlib.Path(out)
    self._parts: dict[int, dict[str, pathlib.Path]] = {}
    for path in sorted((self._folder / MASKS).rglob('*.png')):
      found = _NAME.fullmatch(path.name)
      if not found:
        refuse(
          'bad_argument',
          str(path),
          f'{path} is no mask of a part of a face; masks are called like '
          '00042_l_eye.png.',
        )
      self._parts.setdefault(int(found[1]), {})[found[2]] = path
    if not self._parts:
      where = self._folder / MASKS
      refuse('missing_file', str(where), f'{where} has no masks (*.png).')
    self.numbers = sorted(self._parts)

  def __len__(self):
    return len(self.numbers)

  def write(self, num_threads: int = 4, on_face=lambda: None) -> None:
    """Writes all faces that are not there yet, and the lists of the split."""
    for name in ('labels', 'images'):
      (self.out / name).mkdir(parents=True, exist_ok=True)
    with concurrent.futures.ThreadPoolExecutor(num_threads) as pool:
      for _ in pool.map(self._write_one, self.numbers):
        on_face()
    self._write_lists()

  def _write_one(self, number):
    label = self.out / 'labels' / f'{number}.png'
    if label.exists():
      return
    parts = {k: _mask(path) for k, path in self._parts[number].items()}
    try:
      labels = merged(parts)
    except ValueError as error:
      first = next(iter(self._parts[number].values()))
      refuse('unreadable_map', str(first), f'{first} and its like: {error}')
    path = self._folder / IMAGES / f'{number}.jpg'
    if not path.is_file():
      refuse('missing_file', str(path), f'{path}, the face itself, is missing.')
    image = files.decode_image(path.read_bytes(), str(path))
    image = resize_image(image, labels.shape, 'bicubic')
    _save(
      Image.fromarray(np.ascontiguousarray(image)),
      self.out / 'images' / f'{number}.jpg',
      quality=_QUALITY,
      subsampling=0,
    )
    _save(Image.fromarray(labels), label)  # last: it says that both are there

  def _write_lists(self):
    path = self._folder / MAPPING
    if not path.is_file():
      return
    splits = {'train': [], 'val': [], 'test': []}
    for line in path.read_text().split('\n')[1:]:
      words = line.split()
      if len(words) >= 2 and int(words[0]) in self._parts:
        splits[_split(int(words[1]))].append(words[0])
    for name, numbers in splits.items():
      text = ''.join(f'{number}\n' for number in numbers)
      (self.out / f'{name}.txt').write_text(text)


def _split(number):
  if number < _FIRST_VAL:
    return 'train'
  return 'val' if number < _FIRST_TEST else 'test'


def _mask(path):
  """[h, w]; the files are gray or have three equal channels."""
  mask = files.decode_image(path.read_bytes(), str(path))
  return mask[..., 0]


def _save(image, path, **options):
  """At once or not at all."""
  part = path.with_name(f'{path.name}.part')
  with part.open('wb') as file:
    kind = 'PNG' if path.suffix == '.png' else 'JPEG'
    image.save(file, kind, **options)
  os.replace(part, path)
