"""Mirrored images, and what their classes are called then."""

import dataclasses

from pix2seqd_jax.data.transforms.resize import flip


@dataclasses.dataclass(frozen=True)
class RandomFlip:
  """Mirrors left and right, image and ids together; adds `flipped`.

  `swap` has pairs of class numbers, 1..C, that change places in a mirrored
  image, such as a left and a right eye; else a mirrored left eye is called
  left.
  """

  chance: float = 0.5
  swap: tuple[tuple[int, int], ...] = ()

  def __post_init__(self):
    if not 0 <= self.chance <= 1:
      raise ValueError(f'random_flip: chance={self.chance} must lie in [0, 1].')
    fits = isinstance(self.swap, tuple | list) and all(
      isinstance(p, tuple | list) and len(p) == 2 for p in self.swap
    )
    numbers = [number for pair in self.swap for number in pair] if fits else []
    if (
      not fits
      or any(type(n) is not int or n < 1 for n in numbers)
      or len(set(numbers)) < len(numbers)
    ):
      raise ValueError(
        f'random_flip: swap={self.swap} must be pairs of class numbers from 1 '
        'on, each number once, such as ((5, 6), (7, 8)).'
      )

  def draw(self, rng):
    """Whether to mirror; the original does at the upper end of the draw."""
    return not rng.random() < 1 - self.chance

  def swapped(self, example):
    """The example with classes of `swap` exchanged, the pixels as they are."""
    if not self.swap:
      return example
    other = {a: b for pair in self.swap for a, b in (pair, pair[::-1])}
    segments = tuple(
      s._replace(class_id=other.get(s.class_id, s.class_id))
      for s in example['segments']
    )
    return example | {'segments': segments}

  def __call__(self, example, rng):
    if not self.draw(rng):
      return example
    made = {'image': flip(example['image']), 'ids': example['ids'][:, ::-1]}
    if 'colors' in example:
      made['colors'] = flip(example['colors'])
    # For data.latents.
    return self.swapped(example) | made | {'flipped': True}
