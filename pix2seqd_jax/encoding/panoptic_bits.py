"""Analog bits of panoptic masks: those of the class, then those of the id.

Chen et al. 2023, https://arxiv.org/abs/2210.06366, sections 2 and 3.2: a mask
is two integers a pixel, and each becomes a word of bits in {-b, b}.
"""

import dataclasses

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from pix2seqd_jax.encoding import bits


@dataclasses.dataclass(frozen=True)
class PanopticBits:
  """(class, id) maps <-> [..., class_bits + instance_bits] analog bits.

  Attributes:
    num_classes: without void.
    num_ids: ids are 0..num_ids - 1, the null id 0 included.
    class_bits, instance_bits: of each of the two numbers.
    kind, order: of the code; see bits.Code.
    scale: b.
  """

  num_classes: int
  num_ids: int
  class_bits: int = 8
  instance_bits: int = 8
  kind: str = 'binary'
  order: str = 'lsb'
  scale: float | int = 0.1

  @property
  def codes(self) -> tuple[bits.Code, bits.Code]:
    """The codes of (class, id)."""
    sizes = self.class_bits, self.instance_bits
    return tuple(bits.Code(n, self.kind, self.order) for n in sizes)

  @property
  def limits(self) -> tuple[int, int]:
    """How many classes, void included, and how many ids there are."""
    return self.num_classes + 1, self.num_ids

  @property
  def num_bits(self) -> int:
    """Of a pixel: the channels of x_0."""
    return self.class_bits + self.instance_bits

  @property
  def num_logits(self) -> int:
    """Of a pixel: one for each word of either code."""
    return sum(code.num_codes for code in self.codes)

  def check(self, where: str) -> None:
    """Raises ValueError where a code has fewer words than there are numbers.

    Args:
      where: the config's section, for the message.
    """
    causes = (
      f'data.num_classes={self.num_classes} and void',
      f'data.num_ids={self.num_ids}',
    )
    keys = f'{where}.class_bits', f'{where}.instance_bits'
    for key, code, limit, cause in zip(keys, self.codes, self.limits, causes):
      if code.num_codes < limit:
        raise ValueError(
          f'{key}={code.num_bits} can name {code.num_codes} codes but {cause} '
          f'need {limit}; set {key} >= {(limit - 1).bit_length()}.'
        )

  def encode(self, semantic: bits.Ids, instance: bits.Ids) -> bits.Analog:
    """Class and id maps -> analog bits; NumPy in, NumPy out."""
    xp = np if isinstance(semantic, np.ndarray) else jnp
    pairs = zip(self.codes, (semantic, instance))
    return xp.concatenate([c.encode(x, self.scale) for c, x in pairs], -1)

  def decode(self, x_0: Float[Array, '*s n']) -> dict[str, Array]:
    """{'semantic', 'instance', 'score'}: bits are set where x_0 is above 0.

    Numbers out of range become the largest, as in the reference.
    """
    groups = x_0[..., : self.class_bits], x_0[..., self.class_bits :]
    semantic, instance = (
      jnp.minimum(code.decode(group), limit - 1)
      for code, group, limit in zip(self.codes, groups, self.limits)
    )
    score = bits.confidence(x_0, self.scale)
    return {'semantic': semantic, 'instance': instance, 'score': score}

  def split_logits(
    self, logits: Float[Array, '*s k']
  ) -> tuple[Float[Array, '*s c'], Float[Array, '*s i']]:
    """Logits of the classes' words, and of the ids'."""
    first = self.codes[0].num_codes
    return logits[..., :first], logits[..., first:]

  def expected(
    self, logits: Float[Array, '*s k'], only_possible: bool = False
  ) -> Float[Array, '*s n']:
    """E[bits] under a softmax of each group of logits: an estimate of x_0.

    Args:
      logits: [..., num_logits].
      only_possible: words that no class or id has get the probability 0.
    """
    limits = self.limits if only_possible else (None, None)
    groups = zip(self.codes, self.split_logits(logits), limits)
    parts = [code.expected(x, self.scale, limit) for code, x, limit in groups]
    return jnp.concatenate(parts, -1)
