"""Reflow: a flow learns from the paths of an earlier one, to need fewer steps.

Liu et al. 2022, "Flow Straight and Fast: Learning to Generate and Transfer
Data with Rectified Flow", https://arxiv.org/abs/2209.03003, section 2.2 and
algorithm 1: trained on pairs of where a teacher's path begins and ends, paths
become straighter (theorem 3.7), and of straight ones a single step is exact.
Their distillation then trains that step alone.
"""

import dataclasses

import jax
import jax.numpy as jnp

from pix2seqd_jax.diffusion import samplers, sampling
from pix2seqd_jax.diffusion import timesteps as timesteps_lib
from pix2seqd_jax.models import semflow
from pix2seqd_jax.registry import MODELS, did_you_mean
from pix2seqd_jax.types import Aux, Encoded

DIRECTIONS = ('segment', 'synthesize', 'both')


@MODELS.register('semflow_reflow')
@dataclasses.dataclass(frozen=True)
class SemFlowReflow(semflow.SemFlow):
  """SemFlow with a teacher, whose weights are frozen/teacher.

  Only training needs it, but checkpoints keep it beside the student.

  Both come by config.init_from: ('runs/semflow', 'net/unet',
  'frozen/teacher', 'exact'), and the same to 'net/unet', from which the
  student starts.

  Attributes:
    direction: of the teacher's paths: 'segment' from images (no label is
      looked at), 'synthesize' from masks, or 'both', each half of a batch.
    teacher_steps: of Euler.
    one_step: distillation: the only time is that at which paths begin; sample
      with sample.steps=1.
  """

  direction: str = 'segment'
  teacher_steps: int = 25
  one_step: bool = False

  teacher = ('frozen/teacher/',)

  def __post_init__(self):
    super().__post_init__()
    if self.direction not in DIRECTIONS:
      raise ValueError(
        f'model.direction={self.direction!r} is unknown.'
        f'{did_you_mean(self.direction, DIRECTIONS)} Known: '
        f'{", ".join(DIRECTIONS)}.'
      )
    if self.teacher_steps < 1:
      raise ValueError(
        f'model.teacher_steps={self.teacher_steps} must be at least 1.'
      )

  def init(self, rng, batch):
    """Parameters; the teacher is the student."""
    params = super().init(rng, batch)
    frozen = {**params['frozen'], 'teacher': params['net']['unet']}
    return {**params, 'frozen': frozen}

  def loss_fn(self, params, batch, rng):
    """The training loss of a batch: (scalar, Aux(scalars, stats))."""
    k_pairs, k_time, k_net = jax.random.split(rng, 3)
    x_0, x_1, begin = self.pairs(params, batch, k_pairs)
    t = begin if self.one_step else self.times.sample(k_time, len(begin))
    loss = self.loss_at(
      *(params, batch, Encoded({}), x_0, x_1, t, None), train=True, rng=k_net
    )
    return loss, Aux(scalars={}, stats={})

  def pairs(self, params, batch, rng):
    """(x_0, x_1, the times at which their paths begin) of a batch.

    Raises:
      ValueError: 'both' of a single example.
    """
    k_image, k_mask = jax.random.split(rng)
    there = back = batch
    if self.direction == 'both':
      if len(batch['image']) < 2:
        raise ValueError(
          "model.direction='both' needs two examples at a time; raise "
          'data.batch_size, or lower optimizer.accumulate.'
        )
      # Every second example, which stays on the device where it is.
      there, back = (
        jax.tree.map(lambda x, i=i: x[i::2], batch) for i in range(2)
      )
    timesteps, found = timesteps_lib.uniform(self.teacher_steps), []
    if self.direction != 'synthesize':
      encoded = self.encode(params, there, k_image, train=True)
      x_1 = self.source(params, there, encoded, None, train=True)
      found.append(
        (self.follow(params, x_1, timesteps), x_1, jnp.ones(len(x_1)))
      )
    if self.direction != 'segment':
      x_0, _ = self.target(params, back, k_mask)
      x_1 = self.follow(params, x_0, timesteps_lib.reverse(timesteps))
      found.append((x_0, x_1, jnp.zeros(len(x_0))))
    return tuple(jnp.concatenate(parts) for parts in zip(*found, strict=True))

  def follow(self, params, x, timesteps):
    """Where the teacher's path from x ends."""
    teacher = {**params, 'net': {'unet': params['frozen']['teacher']}}

    def denoise(x_t, t, previous):
      return self.denoise(teacher, x_t, t, {})

    # Euler draws nothing; keys only say how many examples there are.
    keys = jax.random.split(jax.random.key(0), len(x))
    return sampling.sample(
      *(denoise, self.process, x, keys),
      timesteps=timesteps,
      sampler=samplers.Euler(),
      returns='state',
    )
