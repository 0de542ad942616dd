"""Named palettes: a colour for each class of any list, void black.

`coco` is that of the categories of COCO panoptic (github.com/cocodataset/
panopticapi), `cityscapes` that of cityscapesScripts' labels.py; both know
classes by name.
"""

import colorsys
import functools
import itertools
from collections.abc import Iterator, Sequence

import numpy as np

from pix2seqd_jax import types

PALETTES = ('hues', 'random', 'coco', 'cityscapes')
GOLDEN = 0.618034
_SEED = 0
# Two random colours differ by at least this much in all, while that is easy.
_APART, _TRIES = 60, 50

_TABLES = {
  'cityscapes': """
road 804080, sidewalk f423e8, building 464646, wall 66669c, fence be9999, pole
999999, traffic light faaa1e, traffic sign dcdc00, vegetation 6b8e23, terrain
98fb98, sky 4682b4, person dc143c, rider ff0000, car 00008e, truck 000046, bus
003c64, train 005064, motorcycle 0000e6, bicycle 770b20, dynamic 6f4a00,
ground 510051, parking faaaa0, rail track e6968c, guard rail b4a5b4, bridge
966464, tunnel 96785a, polegroup 999999, caravan 00005a, trailer 00006e,
license plate 00008e
""",
  'coco': """
person dc143c, bicycle 770b20, car 00008e, motorcycle 0000e6, airplane 6a00e4,
bus 003c64, train 005064, truck 000046, boat 0000c0, traffic light faaa1e,
fire hydrant 64aa1e, stop sign dcdc00, parking meter af74af, bench fa001e,
bird a52a2a, cat ff4dff, dog 00e2fc, horse b6b6ff, sheep 005200, cow 78a69d,
elephant 6e4c00, bear ae39ff, zebra c76400, giraffe 480076, backpack ffb3f0,
umbrella 007d5c, handbag d10097, tie bcd0b6, suitcase 00dcb0, frisbee ff63a4,
skis 5c0049, snowboard 8581ff, sports ball 4eb4ff, kite 00e400, baseball bat
aefff3, baseball glove 2d59ff, skateboard 868667, surfboard 9194ae, tennis
racket ffd0ba, bottle c5e2ff, wine glass ab8601, cup 6d3f36, fork cf8aff,
knife 97005f, spoon 09503d, bowl 546933, banana 4a4169, apple a6c466, sandwich
d0c3d2, orange ff6d41, broccoli 008f95, carrot b300c2, hot dog d1636a, pizza
057900, donut e3ffcd, cake 93bad0, chair 994501, couch 035fa1, potted plant
a3ff00, bed 7700aa, dining table 00b6c7, toilet 00a578, tv b78258, laptop
5f2000, mouse 827287, remote 6e8185, keyboard a64a76, cell phone db8eb9,
microwave 4fd272, oven b25a3e, toaster 41460f, sink 7fa773, refrigerator
3b696a, book 8e6c2d, clock c4ac00, vase 5f3650, scissors 804cff, teddy bear
c93901, hair drier f6007a, toothbrush bfa2d0, banner ffff80, blanket 93d3cb,
bridge 966464, cardboard a8abac, counter 9270c6, curtain d2aa64, door-stuff
5c8859, floor-wood da58b8, flower f18100, fruit d911ff, gravel 7c4ab5, house
464646, light ffe4ff, mirror-stuff 9ad000, net c1005c, pillow 4c5b71, platform
ffb4c3, playingfield 6a9ab0, railroad e6968c, river 3c8fff, road 804080, roof
5c5237, sand fed47c, sea 494dae, shelf ffa062, snow ffffff, stairs 68546d,
tent a9a483, towel e1c7ff, wall-brick 89364a, wall-stone 879edf, wall-tile
07f6e7, wall-wood 6bffc8, water-other 3a2995, window-blind b7798e,
window-other ff4961, tree-merged 6b8e23, fence-merged be9999, ceiling-merged
928b8d, sky-other-merged 4682b4, cabinet-merged 86c79c, table-merged d1e28c,
floor-other-merged 60246c, pavement-merged 606060, mountain-merged 40aa40,
grass-merged 98fb98, dirt-merged d0e5e4, paper-merged cebaab,
food-other-merged 98a140, building-other-merged 747000, rock-merged 00728f,
wall-other-merged 66669c, rug-merged fa8dff
""",
}


def colors(
  categories: Sequence[types.Category], palette: str | None = None
) -> np.ndarray:
  """uint8 [num_classes + 1, 3]: a colour for each class, void (0) black.

  The colour of a class depends on its number and its name alone, not on how
  many others there are.

  Args:
    categories: class c is `categories[c - 1]`.
    palette: None gives a category its own colour, and one of 'hues' where it
      has none. 'hues' are far from their neighbours'; 'random' are random and
      distinct, the same in every run; 'coco' and 'cityscapes' go by the name
      of the class, with 'random' for the names that they do not know.

  Raises:
    ValueError: there is no palette of this name.
  """
  if palette is not None and palette not in PALETTES:
    raise ValueError(
      f'palette={palette!r} is unknown; known are {", ".join(PALETTES)}, and '
      "None for the categories' own colours."
    )
  if palette == 'random':
    return random(len(categories)).copy()
  if palette in _TABLES:
    spare, known = random(len(categories)), _named(palette)
    rows = [
      known.get(category.name.strip().lower(), spare[i])
      for i, category in enumerate(categories, 1)
    ]
  else:
    own = palette is None
    rows = [
      (own and category.color) or _hue(i)
      for i, category in enumerate(categories)
    ]
  return np.array([(0, 0, 0), *rows], np.uint8)


@functools.lru_cache(maxsize=8)
def random(num: int) -> np.ndarray:
  """uint8 [num + 1, 3]: black, then `num` random colours, all distinct.

  The first ones are the same for every `num`. Read-only.
  """
  found = np.zeros((num + 1, 3), np.int64)
  candidates = _candidates()
  for i in range(1, num + 1):
    for k, candidate in enumerate(candidates):
      apart = np.abs(found[:i] - candidate).sum(1).min()
      if apart >= (_APART if k < _TRIES else 1):
        found[i] = candidate
        break
  found = found.astype(np.uint8)
  found.flags.writeable = False
  return found


def _candidates() -> Iterator[np.ndarray]:
  # RandomState's numbers are promised to stay the same in every NumPy.
  state = np.random.RandomState(_SEED)
  return (state.randint(0, 256, 3) for _ in itertools.count())


def _hue(i: int):
  """Golden steps around the circle: far in hue from the neighbours'."""
  hue = (0.02 + i * GOLDEN) % 1
  saturation = (0.75, 0.95, 0.55)[i // 3 % 3]
  value = (0.95, 0.7, 0.85)[i // 5 % 3]
  color = colorsys.hsv_to_rgb(hue, saturation, value)
  return [round(255 * c) for c in color]


@functools.cache
def _named(palette: str) -> dict[str, tuple[int, ...]]:
  """'road 804080, ...' -> {'road': (128, 64, 128), ...}."""
  entries = ' '.join(_TABLES[palette].split()).split(', ')
  pairs = (entry.rsplit(' ', 1) for entry in entries)
  return {name: tuple(bytes.fromhex(color)) for name, color in pairs}
