"""Images that one can look at: overlays, colour keys, panels, grids, curves.

Drawn with NumPy and Pillow; matplotlib, slow to import, serves curves alone
and is imported there.
"""

import colorsys
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from pix2seqd_jax import types
from pix2seqd_jax.encoding import panoptic_ids
from pix2seqd_jax.visualize import palettes

# Smaller images are enlarged, pixel by pixel, so that lines and text fit.
_LEAST_SIDE = 256
_PAPER = (255, 255, 255)
_INK = (32, 32, 32)
_LINE = (255, 255, 255)
_GAP = 6
# Pixels that are mixed at once, so that a large image costs no float copy.
_BAND = 1 << 20
# Viridis, by equal steps.
_HEAT = (
  (68, 1, 84),
  (59, 82, 139),
  (33, 145, 140),
  (94, 201, 98),
  (253, 231, 37),
)


def as_map(classes: np.ndarray) -> tuple[np.ndarray, tuple[types.Segment, ...]]:
  """Classes [h, w] -> (ids, segments): one segment for each class."""
  found = np.unique(classes[classes > 0]).tolist()
  return classes, tuple(types.Segment(c, c) for c in found)


def paint(
  ids: np.ndarray,
  segments: Sequence[types.Segment],
  categories: Sequence[types.Category],
  *,
  palette: str | None = None,
  each: bool = False,
) -> np.ndarray:
  """uint8 [h, w, 3]: each segment in its colour, void black.

  Instances of a class of things have shades of the colour of their class. Ids
  that no segment names are painted as void.

  Args:
    ids: [h, w], 0 = void.
    segments: names the ids.
    categories: class c is `categories[c - 1]`.
    palette: one of palettes.PALETTES; None for the categories' own colours.
    each: gives every segment a random colour of its own instead.
  """
  table, which = _painted(ids, segments, categories, palette, each)
  return np.take(table, which, axis=0)


def _painted(ids, segments, categories, palette, each):
  """Colours [n, 3] and the number of the colour of each pixel."""
  known = {}
  count: dict[int, int] = {}
  classes = palettes.colors(categories, palette)
  random = palettes.random(len(segments)) if each else None
  for i, segment in enumerate(sorted(segments, key=lambda s: s.id), 1):
    k = count.get(segment.class_id, 0)
    count[segment.class_id] = k + 1
    color = classes[segment.class_id]
    if each:
      color = random[i]
    elif categories[segment.class_id - 1].is_thing:
      color = _shade(color, k)
    known[segment.id] = color
  known[0] = classes[0]
  found, _, which = panoptic_ids.ranks(ids)
  rows = [known.get(name, known[0]) for name in found.tolist()]
  return np.array(rows, np.uint8).reshape(-1, 3), which


def _shade(color, k: int):
  """The k-th variation of a colour; the first is the colour itself."""
  if k == 0:
    return color
  hue, saturation, value = colorsys.rgb_to_hsv(*(color / 255))
  # Golden steps: neighbours in number are far apart, none comes twice.
  hue += 0.06 * ((k * palettes.GOLDEN + 0.5) % 1 - 0.5) * 2
  value = 0.55 + 0.45 * ((value + k * 0.382) % 1)
  saturation = np.clip(saturation * (0.7 + 0.6 * (k * 0.755 % 1)), 0, 1)
  shaded = colorsys.hsv_to_rgb(hue % 1, saturation, value)
  return np.round(np.array(shaded) * 255).astype(np.uint8)


def overlay(
  image: np.ndarray,
  ids: np.ndarray,
  segments: Sequence[types.Segment],
  categories: Sequence[types.Category],
  alpha: float = 0.55,
  legend: bool = True,
  *,
  palette: str | None = None,
  each: bool = False,
) -> np.ndarray:
  """The image under its coloured segments, with borders and a legend.

  Args:
    image: uint8 [h, w, 3].
    ids: [h, w], 0 = void, which darkens the image.
    segments: names the ids.
    categories: class c is `categories[c - 1]`.
    alpha: 0 shows the image and the borders, 1 the colours alone.
    legend: names and counts of the classes below the image; not where
      `each` is set.
    palette, each: as in `paint`.

  Returns:
    uint8 [h', w', 3]; an image smaller than 256 pixels is enlarged by a whole
    factor, and the legend adds rows.
  """
  if image.shape != (*ids.shape, 3) or image.dtype != np.uint8:
    raise ValueError(
      f'overlay needs image uint8 [h, w, 3] and ids [h, w] of one size; got '
      f'{image.dtype} {image.shape} and {ids.shape}: resize the ids (nearest).'
    )
  factor = _factor(ids.shape)
  table, which = _painted(ids, segments, categories, palette, each)
  mixed = _enlarge(_mix(image, table, which, alpha), factor)
  mixed[_borders(_enlarge(which, factor))] = _LINE
  if not legend or each:
    return mixed
  items = _items([(ids, segments)], categories, palette)
  return np.concatenate([mixed, _legend(items, mixed.shape[1])])


def _mix(image, table, which, alpha):
  """(1 - alpha) image + alpha colour to the nearest level, by 256ths."""
  part = round(256 * alpha)
  table = table.astype(np.uint16) * part + 128
  mixed = np.empty_like(image)
  rows = max(1, _BAND // max(1, image.shape[1]))
  for i in range(0, len(image), rows):
    band = image[i : i + rows].astype(np.uint16)
    band *= 256 - part
    band += np.take(table, which[i : i + rows], axis=0)
    band >>= 8
    mixed[i : i + rows] = band
  return mixed


def color_key(
  categories: Sequence[types.Category],
  palette: str | None = None,
  *,
  width: int = 960,
) -> np.ndarray:
  """An image of every class: its colour, its id and its name; void first.

  Args:
    categories: any number of them; column by column, in their order.
    palette: as in `paint`.
    width: in pixels, at least 120; names that do not fit are shortened.

  Returns:
    uint8 [h, width, 3].
  """
  if width < 120:
    raise ValueError(f'color_key: width={width} must be at least 120 pixels.')
  size = 14
  font = ImageFont.load_default(size)
  texts = ['void', *(f'{c.id}  {c.name}' for c in categories)]
  colors = palettes.colors(categories, palette).tolist()
  longest = max(map(font.getlength, texts))
  least = int(size + longest) + 3 * _GAP
  columns = min(len(texts), max(1, (width - _GAP) // least))
  rows = -(-len(texts) // columns)
  columns = -(-len(texts) // rows)
  wide, high = (width - _GAP) // columns, size + _GAP
  canvas = Image.new('RGB', (width, rows * high + _GAP), _PAPER)
  draw = ImageDraw.Draw(canvas)
  for i, (text, color) in enumerate(zip(texts, colors, strict=True)):
    x, y = _GAP + i // rows * wide, _GAP + i % rows * high
    draw.rectangle((x, y, x + size - 1, y + size - 1), tuple(color), _INK)
    text = _fit(text, font, wide - size - 2 * _GAP)
    draw.text((x + size + _GAP, y + size // 2), text, _INK, font, anchor='lm')
  return np.asarray(canvas)


def heat(values: np.ndarray, *, legend: bool = True) -> np.ndarray:
  """Values in [0, 1], [h, w] -> uint8 [h', w', 3], dark to bright (viridis).

  Enlarged as `overlay` does; `legend` adds a scale below.
  """
  steps = np.linspace(0, 1, len(_HEAT))
  table = np.stack(
    [np.interp(np.linspace(0, 1, 256), steps, c) for c in zip(*_HEAT)], -1
  )
  table = np.round(table).astype(np.uint8)
  levels = np.clip(np.nan_to_num(values) * 255 + 0.5, 0, 255).astype(np.uint8)
  image = _enlarge(np.take(table, levels, axis=0), _factor(values.shape))
  if not legend:
    return image
  width = image.shape[1]
  size = _font_size(width)
  scale = np.linspace(0, 255, max(1, width - 6 * size)).astype(np.uint8)
  canvas = Image.new('RGB', (width, size + 2 * _GAP), _PAPER)
  bar = np.repeat(table[scale][None], size, 0)
  canvas.paste(Image.fromarray(bar), (3 * size, _GAP))
  draw, middle = ImageDraw.Draw(canvas), _GAP + size // 2
  font = ImageFont.load_default(size)
  draw.text((3 * size - _GAP, middle), '0', _INK, font, anchor='rm')
  draw.text((width - 3 * size + _GAP, middle), '1', _INK, font, anchor='lm')
  return np.concatenate([image, np.asarray(canvas)])


def panel(
  image: np.ndarray,
  truth: tuple[np.ndarray, Sequence[types.Segment]] | None,
  prediction: tuple[np.ndarray, Sequence[types.Segment]] | None,
  categories: Sequence[types.Category],
  *,
  alpha: float = 0.8,
  captions: Sequence[str] = ('image', 'truth', 'prediction'),
  legend: bool = True,
) -> np.ndarray:
  """A strip: image | truth | prediction, one legend below; uint8.

  `truth` and `prediction` are (ids [h, w], segments); None leaves one out.
  """
  maps = [m for m in (truth, prediction) if m is not None]
  captions = [
    caption
    for caption, what in zip(captions, (image, truth, prediction))
    if what is not None
  ]
  images = [_enlarge(image, _factor(image.shape[:2]))]
  images += [
    overlay(image, *m, categories, alpha=alpha, legend=False) for m in maps
  ]
  strip = grid(images, len(images), captions)
  return with_legend(strip, maps, categories) if legend else strip


def captioned(image: np.ndarray, caption: str) -> np.ndarray:
  """An image under a line of text, enlarged where it is small; uint8."""
  return panel(image, None, None, (), captions=(caption,), legend=False)


def with_legend(
  image: np.ndarray,
  maps: Sequence[tuple[np.ndarray, Sequence[types.Segment]]],
  categories: Sequence[types.Category],
) -> np.ndarray:
  """The image, uint8, above the colours and names of the maps' classes."""
  items = _items(maps, categories, count=False)
  return np.concatenate([image, _legend(items, image.shape[1])])


def grid(
  images: Sequence[np.ndarray],
  columns: int,
  captions: Sequence[str] | None = None,
) -> np.ndarray:
  """Images uint8 [h, w, 3] of any sizes side by side, a caption over each.

  Each stands in the top left corner of a cell as large as the largest; what is
  left is white.
  """
  if not len(images) or columns < 1:
    raise ValueError(
      f'a grid needs images and columns >= 1; got {len(images)} images '
      f'in {columns} columns.'
    )
  height = max(p.shape[0] for p in images)
  width = max(p.shape[1] for p in images)
  size = _font_size(width)
  head = size + _GAP if captions else 0
  rows = -(-len(images) // columns)
  columns = min(columns, len(images))
  cell = (height + head + _GAP, width + _GAP)
  canvas = Image.new(
    'RGB', (columns * cell[1] - _GAP, rows * cell[0] - _GAP), _PAPER
  )
  draw = ImageDraw.Draw(canvas)
  font = ImageFont.load_default(size)
  for i, image in enumerate(images):
    y, x = i // columns * cell[0], i % columns * cell[1]
    canvas.paste(Image.fromarray(image), (x, y + head))
    if captions:
      text = _fit(captions[i], font, width)
      draw.text((x + 2, y + head // 2), text, _INK, font, anchor='lm')
  return np.asarray(canvas)


def curves(
  path: str | os.PathLike,
  lines: Mapping[str, tuple[Sequence[float], Sequence[float]]],
  *,
  title: str = '',
  x_label: str = 'step',
  y_label: str = '',
) -> None:
  """Draws lines, name -> (x, y), into a PNG or SVG file."""
  from matplotlib import figure

  canvas = figure.Figure(figsize=(6, 3.6), layout='constrained')
  axes = canvas.subplots()
  for name, (x, y) in lines.items():
    axes.plot(x, y, label=name, marker='.' if len(x) < 40 else None)
  axes.set(title=title, xlabel=x_label, ylabel=y_label)
  axes.grid(alpha=0.3)
  if len(lines) > 1:
    axes.legend(frameon=False)
  pathlib.Path(path).parent.mkdir(parents=True, exist_ok=True)
  canvas.savefig(path, dpi=120)


def save_png(path: str | os.PathLike, array: np.ndarray) -> None:
  """Writes uint8 [h, w, 3] or [h, w] as PNG; makes the folder if need be."""
  if array.dtype != np.uint8:
    raise ValueError(
      f'save_png writes uint8, not {array.dtype}; scale to 0..255 and convert.'
    )
  pathlib.Path(path).parent.mkdir(parents=True, exist_ok=True)
  Image.fromarray(np.ascontiguousarray(array)).save(path, format='PNG')


def _factor(size) -> int:
  return max(1, -(-_LEAST_SIDE // max(1, *size)))


def _enlarge(array, factor: int):
  return array if factor == 1 else array.repeat(factor, 0).repeat(factor, 1)


def _borders(ids):
  """Where a pixel's right or lower neighbour has another id; thicker if big."""
  border = np.zeros(ids.shape, bool)
  right, down = ids[:, 1:] != ids[:, :-1], ids[1:] != ids[:-1]
  border[:, :-1] |= right
  border[:-1] |= down
  if max(ids.shape) > 3 * _LEAST_SIDE:
    border[:, 1:] |= right
    border[1:] |= down
  return border


def _items(
  maps, categories, palette=None, count: bool = True
) -> list[tuple[Any, str]]:
  """Colour and text of each class in the maps, things first, by class."""
  colors = palettes.colors(categories, palette)
  numbers: dict[int, int] = {}
  for _, segments in maps:
    for segment in segments:
      numbers[segment.class_id] = numbers.get(segment.class_id, 0) + 1
  order = sorted(numbers, key=lambda c: (not categories[c - 1].is_thing, c))
  items = []
  for c in order:
    category, text = categories[c - 1], categories[c - 1].name
    if count and (category.is_thing or numbers[c] > 1):
      text += f' ({numbers[c]})'
    items.append((tuple(colors[c].tolist()), text))
  if any((ids == 0).any() for ids, _ in maps):
    items.append(((0, 0, 0), 'void'))
  return items


def _legend(items, width: int) -> np.ndarray:
  """Swatches with names, in as many rows as the width asks for."""
  size = _font_size(width)
  font = ImageFont.load_default(size)
  row = size + _GAP
  x, y, places = _GAP, _GAP, []
  for color, text in items:
    text = _fit(text, font, width - size - 3 * _GAP)
    wide = size + _GAP + font.getlength(text) + 2 * _GAP
    if x > _GAP and x + wide - 2 * _GAP > width:
      x, y = _GAP, y + row
    places.append((x, y, color, text))
    x += wide
  canvas = Image.new('RGB', (width, y + row), _PAPER)
  draw = ImageDraw.Draw(canvas)
  for x, y, color, text in places:
    draw.rectangle((x, y, x + size - 1, y + size - 1), color, _INK)
    draw.text((x + size + _GAP, y + size // 2), text, _INK, font, anchor='lm')
  return np.asarray(canvas)


def _fit(text: str, font, width: float) -> str:
  """The text, shortened until it is no wider than `width` pixels."""
  if font.getlength(text) <= width:
    return text
  while text and font.getlength(text + '...') > width:
    text = text[:-1]
  return text + '...'


def _font_size(width: int) -> int:
  return int(np.clip(width // 40, 12, 16))
