"""What is done to an example on the host, as data of the config.

A list of transforms is a tuple of (name, kwargs) pairs, applied in order; each
is a frozen dataclass called as `transform(example, rng) -> example`. Images
stay uint8 (float32 in [0, 1] is taken too). `ids` are always resized by the
nearest pixel. The semantics are those of Pix2Seq-D (arXiv 2210.06366).
"""

import dataclasses

import numpy as np

from pix2seqd_jax.data.formats.bad_examples import ExampleError, is_fault
from pix2seqd_jax.data.transforms import color
from pix2seqd_jax.data.transforms.flips import RandomFlip
from pix2seqd_jax.data.transforms.labels import Labels
from pix2seqd_jax.data.transforms.painting import Paint
from pix2seqd_jax.data.transforms.resize import (
  check_backend,
  jittered_size,
  resize_image,
  size_that_fits,
)
from pix2seqd_jax.encoding.panoptic_ids import resize_nearest
from pix2seqd_jax.registry import did_you_mean


def _check_size(transform):
  size = transform.size
  if isinstance(size, int):
    size = (size, size)
  if len(tuple(size)) != 2 or min(size) < 1:
    raise ValueError(
      f'{type(transform).__name__}: size={size} must be (height, width) >= 1.'
    )
  object.__setattr__(transform, 'size', tuple(int(n) for n in size))


_WHOLE = (slice(None), slice(None))


def cut(example, part):
  """An example of which a window is left, two slices."""
  keys = [k for k in ('image', 'ids', 'colors') if k in example]
  return example | {key: example[key][part] for key in keys}


def _resized(example, size, how, window=_WHOLE, mirror=False):
  """Resized to `size`, of which only the window is made, or its mirror."""
  image = resize_image(
    example['image'],
    size,
    how.method,
    window=window,
    mirror=mirror,
    backend=how.backend,
  )
  ids = resize_nearest(example['ids'], size, window)
  made = {'image': image, 'ids': ids[:, ::-1] if mirror else ids}
  if 'colors' in example:
    made['colors'] = resize_image(
      example['colors'], size, window=window, mirror=mirror
    )
  return example | made


@dataclasses.dataclass(frozen=True)
class ScaleJitter:
  """Resizes to U(scale) times the tight fit in `size`; sizes are truncated."""

  size: tuple[int, int]
  scale: tuple[float, float] = (1.0, 1.0)
  method: str = 'bilinear'
  backend: str = 'pillow'

  def __post_init__(self):
    _check_size(self)
    check_backend(self.backend)
    low, high = self.scale
    if not 0 < low <= high:
      raise ValueError(
        f'scale_jitter: scale={self.scale} must be (least, most) with '
        '0 < least <= most.'
      )
    if self.method not in ('bilinear', 'bicubic'):
      raise ValueError(
        f'scale_jitter: method={self.method!r} must be bilinear or bicubic.'
      )

  def draw(self, shape, rng):
    """The new size of an image of this shape."""
    low, high = self.scale
    scale = low + (high - low) * rng.random()
    return jittered_size(shape, self.size, scale)

  def __call__(self, example, rng):
    return _resized(example, self.draw(example['ids'].shape, rng), self)


@dataclasses.dataclass(frozen=True)
class FixedSizeCrop:
  """Cuts out at most `size`, at a random offset.

  The reference draws one number for both axes, so its crops lie on the
  diagonal; `independent=True` draws one for each.
  """

  size: tuple[int, int]
  independent: bool = False

  def __post_init__(self):
    _check_size(self)

  def draw(self, shape, rng):
    """The window out of an image of this shape."""
    package = [max(n - m, 0) for n, m in zip(shape, self.size)]
    first = rng.random()
    second = rng.random() if self.independent else first
    # float32, as the original multiplies.
    top, left = (
      int(np.float32(r) * np.float32(u))
      for r, u in zip(package, (first, second))
    )
    return np.s_[top : top + self.size[0], left : left + self.size[1]]

  def __call__(self, example, rng):
    return cut(example, self.draw(example['ids'].shape, rng))


@dataclasses.dataclass(frozen=True)
class SquareCrop:
  """Cuts out a square of the shorter side, at a random place along the longer.

  SemFlow's (arXiv 2405.20282, its release) before the resize.
  """

  def __call__(self, example, rng):
    h, w = example['ids'].shape
    side = min(h, w)
    first = int(rng.integers(max(h, w) - side + 1))
    top, left = (first, 0) if h > w else (0, first)
    return cut(example, np.s_[top : top + side, left : left + side])


@dataclasses.dataclass(frozen=True)
class _Geometry:
  """A jitter with the crop, and the flip if any, right behind it, at once.

  What the crop leaves out is never made. The draws are those of one after the
  other.
  """

  jitter: ScaleJitter
  crop: FixedSizeCrop
  flip: RandomFlip | None = None

  def __call__(self, example, rng):
    size = self.jitter.draw(example['ids'].shape, rng)
    window = self.crop.draw(size, rng)
    mirror = self.flip is not None and self.flip.draw(rng)
    if mirror:
      example = self.flip.swapped(example)
    return _resized(example, size, self.jitter, window, mirror)


@dataclasses.dataclass(frozen=True)
class ColorJitter:
  """SimCLRv2's colour jitter; nothing where strength is 0.

  With where='device' the host only draws, adding `color` float32 [9], and the
  training step changes the image (train/augment.py). That sees the image
  as it is at the end, so only a flip and the padding may follow.
  """

  strength: float = 1.0
  where: str = 'host'

  def __post_init__(self):
    if self.strength < 0:
      raise ValueError(f'color_jitter: strength={self.strength} must be >= 0.')
    if self.where not in ('host', 'device'):
      raise ValueError(
        f'color_jitter: where={self.where!r} must be host or device.'
      )

  def __call__(self, example, rng):
    if not self.strength:
      return example
    if self.where == 'device':
      return example | {'color': color.draw(self.strength, rng)}
    image = example['image']
    is_bytes = image.dtype == np.uint8
    if is_bytes:
      image = image.astype(np.float32) / np.float32(255)
    image = color.jitter(image, self.strength, rng)
    if is_bytes:
      image = (np.clip(image, 0, 1) * 255 + 0.5).astype(np.uint8)
    return example | {'image': image}


@dataclasses.dataclass(frozen=True)
class ResizeToFit:
  """Resizes to the largest size of the same aspect within `size` (eval).

  With `stretch` to `size` itself, whatever the aspect, as LDMSeg does in
  training too.
  """

  size: tuple[int, int]
  method: str = 'bilinear'
  backend: str = 'pillow'
  stretch: bool = False

  def __post_init__(self):
    _check_size(self)
    check_backend(self.backend)

  def __call__(self, example, rng):
    size = self.size
    if not self.stretch:
      size = size_that_fits(example['ids'].shape, size)
    return _resized(example, size, self)


@dataclasses.dataclass(frozen=True)
class DropSmall:
  """Segments of fewer pixels become void; first, it sees the original size."""

  min_pixels: int

  def __post_init__(self):
    if self.min_pixels < 0:
      raise ValueError(
        f'drop_small: min_pixels={self.min_pixels} must be 0 or more.'
      )

  def __call__(self, example, rng):
    ids = example['ids']
    keeps = np.bincount(ids.ravel()) >= self.min_pixels
    return example | {'ids': np.where(keeps[ids], ids, 0).astype(ids.dtype)}


@dataclasses.dataclass(frozen=True)
class Pad:
  """Pads at the bottom and right to `size`.

  Adds `valid` bool [h, w], False where padded, and `unpadded` = (h, w). The
  fill of the image is `fill` here; the device paints 0.3 where not valid.
  """

  size: tuple[int, int]
  fill: float = 0

  __post_init__ = _check_size

  def __call__(self, example, rng):
    h, w = example['ids'].shape
    if h > self.size[0] or w > self.size[1]:
      raise ValueError(
        f'pad: the image is {h} x {w}, larger than size={self.size}; put '
        'fixed_size_crop or resize_to_fit before pad.'
      )
    if (h, w) == self.size:
      return example | {'valid': np.ones(self.size, bool), 'unpadded': (h, w)}
    made = {
      'image': self._padded(example['image'], self.fill),
      'ids': self._padded(example['ids'].astype(np.int32), 0),
      'valid': self._padded(np.ones((h, w), bool), False),
      'unpadded': (h, w),
    }
    if 'colors' in example:
      made['colors'] = self._padded(example['colors'], 255)  # void is white
    return example | made

  def _padded(self, part, fill):
    h, w = part.shape[:2]
    padded = np.full((*self.size, *part.shape[2:]), fill, part.dtype)
    padded[:h, :w] = part
    return padded


TRANSFORMS = {
  'scale_jitter': ScaleJitter,
  'fixed_size_crop': FixedSizeCrop,
  'square_crop': SquareCrop,
  'random_flip': RandomFlip,
  'paint': Paint,
  'color_jitter': ColorJitter,
  'resize_to_fit': ResizeToFit,
  'drop_small': DropSmall,
  'pad': Pad,
  'labels': Labels,
}


def _joined(transforms):
  """See `_Geometry`."""
  joined = []
  for transform in transforms:
    last = joined[-1] if joined else None
    if isinstance(transform, FixedSizeCrop) and isinstance(last, ScaleJitter):
      joined[-1] = _Geometry(last, transform)
    elif (
      isinstance(transform, RandomFlip)
      and isinstance(last, _Geometry)
      and last.flip is None
    ):
      joined[-1] = _Geometry(last.jitter, last.crop, transform)
    else:
      joined.append(transform)
  return joined


class Compose:
  """Transforms in order. An error names the file that it came from."""

  def __init__(self, transforms):
    self.transforms = tuple(_joined(transforms))

  def __call__(self, example, rng):
    for transform in self.transforms:
      try:
        example = transform(example, rng)
      except Exception as error:
        file = example.get('file', 'an example')
        raise ExampleError(
          f'{file} (index {example.get("index")}): {error}',
          file,
          is_fault(error),
        ) from error
    return example


def build_transforms(pairs):
  """A tuple of (name, kwargs) -> `Compose`.

  Raises:
    ValueError: for an unknown name or keyword, or a value out of range.
  """
  if isinstance(pairs, Compose):
    return pairs
  built = []
  for pair in pairs:
    try:
      name, kwargs = pair
      kwargs = dict(kwargs)
    except (TypeError, ValueError) as error:
      raise ValueError(
        f'data.transforms has {pair!r}, which is no (name, kwargs) pair, such '
        "as ('random_flip', {'chance': 0.5})."
      ) from error
    if name not in TRANSFORMS:
      raise ValueError(
        f'data.transforms has {name!r}, which is unknown.'
        f'{did_you_mean(name, TRANSFORMS)} Known: {", ".join(TRANSFORMS)}.'
      )
    fields = dataclasses.fields(TRANSFORMS[name])
    known = [f.name for f in fields if f.init]
    for key in kwargs:
      if key not in known:
        raise ValueError(
          f'data.transforms: {name} has no argument {key!r}.'
          f'{did_you_mean(key, known)} Known: {", ".join(known)}.'
        )
    for field in fields:
      if field.init and field.default is dataclasses.MISSING:
        if field.name not in kwargs:
          raise ValueError(f'data.transforms: {name} needs {field.name!r}.')
    built.append(TRANSFORMS[name](**kwargs))
  _check_order(built)
  return Compose(built)


def _check_order(built):
  """Raises ValueError where the device would see another image."""
  for i, transform in enumerate(built):
    if isinstance(transform, ColorJitter) and transform.where == 'device':
      later = built[i + 1 :]
      again = (ScaleJitter, FixedSizeCrop, ResizeToFit, ColorJitter)
      if any(isinstance(t, again) for t in later):
        raise ValueError(
          "data.transforms: color_jitter with where='device' is done last, on "
          'the finished image; put scale_jitter, fixed_size_crop and '
          'resize_to_fit before it, and have it once.'
        )
    if isinstance(transform, Paint):
      for later in built[i + 1 :]:
        if isinstance(later, DropSmall) or getattr(later, 'swap', ()):
          raise ValueError(
            "data.transforms: 'paint' makes colours of classes, but drop_small "
            'or the swap of random_flip behind it changes classes; put it '
            'behind them.'
          )
