"""Generated scenes: sky, ground, water, and things told apart by shape.

No files: scene i is a function of (seed, split, i). It is the default data
set and the sandbox of the tests, so it is made to show a broken model: things
touch and hide each other, and with `hue=0` only their shape tells the class.
"""

import zlib

import numpy as np

from pix2seqd_jax.data.readers import drawing
from pix2seqd_jax.registry import DATASETS, did_you_mean
from pix2seqd_jax.types import Category, Segment

SPLITS = ('train', 'eval', 'test')
STUFF = ('sky', 'ground', 'water')
_STUFF_COLORS = ((135, 190, 235), (150, 120, 70), (40, 80, 160))
# A stuff region smaller than this fraction of the image is void.
_SMALLEST_STUFF = 0.004
_NUMBERS = ('no', 'a', 'two', 'three', 'four', 'five', 'six', 'seven', 'eight')


@DATASETS.register('shapes')
class Shapes:
  """Scenes drawn on demand; a `types.Source` whose examples have a `caption`.

  Args:
    split: 'train', 'eval' or 'test': random streams that share no scene.
    num_examples: how many scenes the split has.
    size: (h, w) in pixels, or one number for both.
    num_things: (least, most) things put in a scene; one that would be almost
      hidden, or that finds no free place with occlusion=0, is left out.
    thing_size: (least, most) diameter, as a fraction of the shorter side.
    things: the classes of things, out of `drawing.SHAPES`.
    hue: 0: hues say nothing of the class (the hard sandbox); 1: each class
      has hues of its own; between: hues of the classes overlap.
    noise: standard deviation of the pixel noise, in [0, 1] units.
    occlusion: the chance that a thing is put against another one, touching or
      covering it; 0: no two things overlap.
    min_visible: a thing is left out where less than this fraction of it shows.
    seed: of the whole data set.

  Raises:
    ValueError: when an argument is out of its range.
  """

  def __init__(
    self,
    split='train',
    *,
    num_examples: int = 10_000,
    size: int | tuple[int, int] = 64,
    num_things: tuple[int, int] = (1, 5),
    thing_size: tuple[float, float] = (0.2, 0.5),
    things: tuple[str, ...] = tuple(drawing.SHAPES),
    hue: float = 0.5,
    noise: float = 0.03,
    occlusion: float = 0.5,
    min_visible: float = 0.3,
    seed: int = 0,
  ):
    self.size = (size, size) if isinstance(size, int) else tuple(size)
    self.split, self.num_examples, self.seed = split, num_examples, seed
    self.num_things, self.thing_size = tuple(num_things), tuple(thing_size)
    self.things, self.hue, self.noise = tuple(things), hue, noise
    self.occlusion, self.min_visible = occlusion, min_visible
    self._check()
    self._stream = zlib.crc32(split.encode())
    colors = [
      tuple(int(255 * c) for c in drawing.hsv(i / len(self.things), 0.8, 0.9))
      for i in range(len(self.things))
    ]
    names = STUFF + self.things
    self.categories = tuple(
      Category(i + 1, name, i >= len(STUFF), color)
      for i, (name, color) in enumerate(
        zip(names, _STUFF_COLORS + tuple(colors))
      )
    )

  def _check(self):
    if self.split not in SPLITS:
      raise ValueError(
        f'data.split={self.split!r} is no split of shapes.'
        f'{did_you_mean(self.split, SPLITS)} Known: {", ".join(SPLITS)}.'
      )
    for name in self.things:
      if name not in drawing.SHAPES:
        raise ValueError(
          f'data.things has {name!r}, which is no shape.'
          f'{did_you_mean(name, drawing.SHAPES)} '
          f'Known: {", ".join(drawing.SHAPES)}.'
        )
    if not self.things or len(set(self.things)) != len(self.things):
      raise ValueError(
        f'data.things={self.things} must name at least one shape, each once.'
      )
    if self.num_examples < 1 or min(self.size) < 8 or len(self.size) != 2:
      raise ValueError(
        f'data.num_examples={self.num_examples} must be at least 1 and '
        f'data.size={self.size} two numbers of at least 8 pixels.'
      )
    for name, low in (('num_things', 0), ('thing_size', 0.02)):
      pair = getattr(self, name)
      if len(pair) != 2 or not low <= pair[0] <= pair[1]:
        raise ValueError(
          f'data.{name}={pair} must be (least, most), least >= {low}.'
        )
    for name in ('hue', 'noise', 'occlusion', 'min_visible'):
      if not 0 <= getattr(self, name) <= 1:
        raise ValueError(
          f'data.{name}={getattr(self, name)} must lie in [0, 1].'
        )

  def __len__(self):
    return self.num_examples

  def __getitem__(self, index):
    index = int(index)
    if not 0 <= index < self.num_examples:
      raise IndexError(f'scene {index} of {self.num_examples}')
    rng = np.random.default_rng((self.seed, self._stream, index))
    image, stuff = drawing.landscape(rng, self.size)
    layers = self._layers(rng)
    ids, kept = self._compose(stuff, layers)
    for layer in kept:
      drawing.paint(image, layer)
    if self.noise:
      pixels = rng.standard_normal(image.shape, dtype=np.float32)
      image += pixels * np.float32(self.noise)
    image = (np.clip(image, 0, 1) * 255 + 0.5).astype(np.uint8)
    ids, segments = self._number(ids, kept)
    return {
      'image': image,
      'ids': ids,
      'segments': segments,
      'index': index,
      'file': f'shapes_{self.split}_{index:06d}.png',
      'caption': self._caption(segments),
    }

  def _layers(self, rng):
    """The things of a scene, back to front, before any is left out."""
    count = int(rng.integers(self.num_things[0], self.num_things[1] + 1))
    radii = rng.uniform(*self.thing_size, count) * min(self.size) / 2
    places = []
    for radius in radii:
      place = self._place(rng, radius, places)
      if place is not None:
        places.append((*place, radius))
    layers = []
    for y, x, radius in places:
      kind = int(rng.integers(len(self.things)))
      layers.append(
        drawing.Layer.draw(
          self.size,
          kind,
          self.things[kind],
          (y, x, radius, rng.uniform(0, 2 * np.pi)),
          self._color(rng, kind),
        )
      )
    return layers

  def _place(self, rng, radius, places):
    """A centre: against an earlier thing, or the freest of some tries."""
    h, w = self.size
    if places and rng.random() < self.occlusion:
      y, x, other = places[int(rng.integers(len(places)))]
      turn = rng.uniform(0, 2 * np.pi)
      far = (radius + other) * rng.uniform(0.45, 0.95)
      y, x = y + far * np.sin(turn), x + far * np.cos(turn)
      return min(max(y, 0), h - 1), min(max(x, 0), w - 1)
    inside = min(radius, 0.5 * min(h, w))
    tries = inside + rng.random((8, 2)) * (np.array([h, w]) - 2 * inside)
    if not places:
      return tuple(tries[0])
    there = np.array(places)
    gaps = np.hypot(*(tries[:, None] - there[None, :, :2]).transpose(2, 0, 1))
    free = (gaps - there[:, 2] - radius).min(axis=1)
    best = int(free.argmax())
    if self.occlusion == 0 and free[best] < 1:
      return None
    return tuple(tries[best])

  def _color(self, rng, kind):
    count = len(self.things)
    width = (1 - self.hue) + self.hue * 0.5 / count
    tone = (kind / count + width * rng.uniform(-0.5, 0.5)) % 1
    return drawing.hsv(tone, rng.uniform(0.55, 0.95), rng.uniform(0.6, 1))

  def _compose(self, stuff, layers):
    """Ids with things on top of stuff; leaves out what is almost hidden."""
    areas = np.array([layer.inside.sum() for layer in layers], int)
    ids = self._stack(stuff, layers)
    first = len(STUFF) + 1
    seen = np.bincount(ids.ravel(), minlength=first + len(layers))[first:]
    shown = (seen > 0) & (seen >= self.min_visible * areas)
    kept = [layer for layer, show in zip(layers, shown) if show]
    # Leaving a thing out only uncovers others: one repetition is enough.
    return (ids if shown.all() else self._stack(stuff, kept)), kept

  def _stack(self, stuff, layers):
    ids = stuff.astype(np.int32)
    for i, layer in enumerate(layers):
      ids[layer.window][layer.inside] = len(STUFF) + 1 + i
    return ids

  def _number(self, ids, kept):
    """Numbers what shows 1..n, stuff first; too little stuff becomes void."""
    kinds = list(range(1, len(STUFF) + 1))
    kinds += [len(STUFF) + 1 + layer.kind for layer in kept]
    areas = np.bincount(ids.ravel(), minlength=len(kinds) + 1)[1:]
    areas[: len(STUFF)] *= areas[: len(STUFF)] >= _SMALLEST_STUFF * ids.size
    table = np.zeros(len(kinds) + 1, np.int32)
    table[1:][areas > 0] = np.arange(1, (areas > 0).sum() + 1)
    segments = tuple(
      Segment(int(table[i + 1]), kind)
      for i, kind in enumerate(kinds)
      if table[i + 1]
    )
    return table[ids], segments

  def _caption(self, segments):
    names = [self.categories[s.class_id - 1].name for s in segments]
    things = [
      f'{_word(names.count(name))} {name}{"s" * (names.count(name) > 1)}'
      for name in self.things
      if name in names
    ]
    stuff = [f'the {name}' for name in STUFF if name in names]
    return f'{_and(things) or "nothing"} in front of {_and(stuff)}'


def _word(number):
  return _NUMBERS[number] if number < len(_NUMBERS) else str(number)


def _and(words):
  return ' and '.join(filter(None, [', '.join(words[:-1]), *words[-1:]]))
