"""What every diffusion method shares: one training loss, one sampling call.

A paper fills in `encode`, `source`, `target` and `denoise`; `loss_fn` and
`sample` follow from equation (1), x_t = alpha(t) x_0 + sigma(t) x_1.
"""

import abc
from typing import Any

import jax
import jax.numpy as jnp

from pix2seqd_jax.diffusion import guidance as guidance_lib
from pix2seqd_jax.diffusion import inpainting as inpainting_lib
from pix2seqd_jax.diffusion import noise, sampling, time_sampling
from pix2seqd_jax.diffusion import process as process_lib
from pix2seqd_jax.diffusion import sampler as sampler_lib
from pix2seqd_jax.diffusion import timesteps as timesteps_lib
from pix2seqd_jax.types import (
  Aux,
  Batch,
  Condition,
  Encoded,
  Params,
  Prediction,
  State,
  Timesteps,
  Weight,
)


class DiffusionModel(abc.ABC):
  """The derived half of a model; see types.Model for what it must offer.

  A subclass is a frozen dataclass with a `process` and the four blanks, and
  may set `self_condition_rate` (the fraction of examples that are trained with
  a first estimate of x_0 beside x_t), `returns` (see sampling.RETURNS),
  `source_is_noise` (False where x_1 is data, so that no step may draw noise),
  `draws_images` (True where `start` leads from a given mask to an image)
  and `loss` (when it is not the squared error of the regression target).
  """

  process: process_lib.Process
  times: Any = time_sampling.Uniform()
  self_condition_rate: float = 0.0
  returns: Any = 'last_x0'
  source_is_noise: bool = True
  draws_images: bool = False

  @abc.abstractmethod
  def encode(
    self, params: Params, batch: Batch, rng: Any, *, train: bool = False
  ) -> Encoded:
    """Inputs -> condition, once an image, however many steps follow."""

  @abc.abstractmethod
  def source(
    self,
    params: Params,
    batch: Batch,
    encoded: Encoded,
    keys: Any,
    *,
    train: bool = False,
  ) -> State:
    """x_1, from one key an example."""

  @abc.abstractmethod
  def target(
    self, params: Params, batch: Batch, rng: Any
  ) -> tuple[State, Weight]:
    """x_0 from the labels, and the weight of each element's loss (or None)."""

  @abc.abstractmethod
  def denoise(
    self,
    params: Params,
    x_t: State,
    t: Any,
    condition: Condition,
    *,
    previous: State | None = None,
    train: bool = False,
    rng: Any = None,
  ) -> Prediction:
    """One call of the network at time t [b]."""

  def known(self, params: Params, batch: Batch) -> Any:
    """What batch['given'] tells of x_0 (inpainting.Known), or None.

    Raises ValueError where a mask is given that the model cannot heed.
    """
    del params
    if 'known' in batch.get('given', {}):
      raise ValueError(
        f'a {type(self).__name__} cannot complete masks; use one that diffuses '
        "what a mask is encoded to (model.name='ldmseg')."
      )

  def start(self, params: Params, batch: Batch, keys: Any) -> State | None:
    """x_0 that batch['given'] tells whole, to be led back to its source.

    None, as here, where sampling leads from the source to the data. There is
    one key a sample: those of an example side by side, [b * n].
    """
    return None

  def loss(
    self, prediction: Prediction, x_0: State, x_1: State, t: Any, batch: Batch
  ) -> State:
    """The loss of each element, before weights: here the squared error."""
    expected = self.process.regression_target(x_0, x_1, t)
    return jax.tree.map(
      lambda ours, theirs: jnp.square(ours - theirs), prediction.value, expected
    )

  def loss_fn(self, params: Params, batch: Batch, rng: Any):
    """The training loss of a batch: (scalar, Aux(scalars, stats))."""
    k_encode, k_target, k_source, k_time, k_net = jax.random.split(rng, 5)
    num_examples = batch['image'].shape[0]
    encoded = self.encode(params, batch, k_encode, train=True)
    x_0, weight = self.target(params, batch, k_target)
    x_1 = self.source(
      params,
      batch,
      encoded,
      jax.random.split(k_source, num_examples),
      train=True,
    )
    t = self.times.sample(k_time, num_examples)
    loss = self.loss_at(
      params, batch, encoded, x_0, x_1, t, weight, train=True, rng=k_net
    )
    return loss, Aux(scalars={}, stats=encoded.stats)

  def loss_at(
    self,
    params: Params,
    batch: Batch,
    encoded: Encoded,
    x_0: State,
    x_1: State,
    t: Any,
    weight: Weight,
    *,
    train: bool,
    rng: Any = None,
  ):
    """The mean weighted loss at given noise and times: all of the randomness
    but dropout is in the arguments."""
    k_first, k_net = (None, None) if rng is None else jax.random.split(rng)
    x_t = self.process.mix(x_0, x_1, t)
    previous = None
    if self.self_condition_rate > 0:
      previous = self._first_estimate(
        params, x_t, t, encoded.condition, train=train, rng=k_first
      )
    prediction = self.denoise(
      params,
      x_t,
      t,
      encoded.condition,
      previous=previous,
      train=train,
      rng=k_net,
    )
    losses = self.loss(prediction, x_0, x_1, t, batch)
    if weight is not None:
      losses = jax.tree.map(jnp.multiply, losses, weight)
    return sum(jnp.mean(leaf) for leaf in jax.tree.leaves(losses))

  def _first_estimate(self, params, x_t, t, condition, *, train, rng):
    """x_0 estimated from nothing, for the first rate x b examples; zeros for
    the rest (the reference's data self-conditioning). No gradient."""
    zeros = jax.tree.map(jnp.zeros_like, x_t)
    first = self.denoise(
      params, x_t, t, condition, previous=zeros, train=train, rng=rng
    )
    estimate = self.process.endpoints(x_t, first.value, t).x_0
    num_examples = t.shape[0]
    told = jnp.arange(num_examples) < int(
      num_examples * self.self_condition_rate
    )

    def keep(leaf):
      where = told.reshape((-1,) + (1,) * (leaf.ndim - 1))
      return jax.lax.stop_gradient(jnp.where(where, leaf, 0))

    return jax.tree.map(keep, estimate)

  def sample(
    self,
    params: Params,
    batch: Batch,
    keys: Any,
    *,
    timesteps: Timesteps,
    sampler: Any,
    num_samples: int = 1,
    guidance: float | int = 1.0,
    returns: Any = None,
    callback: Any = None,
    inpainting: str = 'x0',
    strength: float | int = 1.0,
  ) -> State:
    """Samples x_0 for each example; labels are neither needed nor read.

    Where `start` tells x_0, it is led to x_1 instead, over the same times.

    Args:
      params: as from `init`; only read.
      batch: inputs (see types.inputs_only).
      keys: [b] typed PRNG keys: a sample does not depend on its batch.
      timesteps: the times.
      sampler: one of diffusion.samplers.
      num_samples: of each example, side by side: the result is [b * n, ...].
      guidance: scale of classifier-free guidance; see diffusion.guidance.
      returns: in place of the model's own; see sampling.RETURNS.
      callback: after each step; see sampling.sample.
      inpainting: of what is given; see diffusion.inpainting.VARIANTS.
      strength: below 1, starts from the given x_0 noised to that time.

    Raises:
      ValueError: as sampling.sample, guidance of a model without a null, or a
        sampler that draws noise where x_1 is none.
    """
    sampler_lib.check_source(sampler, self.source_is_noise)
    encoded = self.encode(params, batch, None, train=False)
    known = self.known(params, batch)
    if num_samples > 1:
      encoded, known, keys = _repeat(encoded, known, keys, num_samples)
    k_source, k_steps = (noise.fold_step(keys, i) for i in range(2))
    x, x_1 = self.start(params, batch, k_source), None
    if x is not None:
      timesteps, returns = timesteps_lib.reverse(timesteps), 'state'
    else:
      x = x_1 = self.source(params, batch, encoded, k_source)
    if strength != 1:
      timesteps, x = inpainting_lib.start(
        self.process, timesteps, known, x_1, strength
      )
    return sampling.sample(
      *(self._guided(params, encoded, guidance), self.process, x, k_steps),
      timesteps=timesteps,
      sampler=sampler,
      returns=self.returns if returns is None else returns,
      callback=callback,
      self_condition=self.self_condition_rate > 0,
      known=known and known._replace(x_1=x_1),
      inpainting=inpainting,
    )

  def _guided(self, params, encoded, scale):
    """(x_t, t, previous) -> Prediction."""

    def denoise(x_t, t, condition, previous):
      return self.denoise(params, x_t, t, condition, previous=previous)

    return guidance_lib.guide(denoise, encoded.condition, encoded.null, scale)


def run(
  net: Any, params: Any, *inputs: Any, train: bool = False, rng: Any = None
) -> State:
  """What a denoising network gives, at least float32; `rng` is of dropout."""
  rngs = None if rng is None else {'dropout': rng}
  out = net.apply({'params': params}, *inputs, train=train, rngs=rngs)
  return out.astype(jnp.promote_types(out.dtype, jnp.float32))


def _repeat(encoded, known, keys, num_samples):
  """Every example n times, side by side, with keys of its own."""

  def repeat(tree):
    return jax.tree.map(
      lambda leaf: (
        leaf
        if leaf.shape[0] == 1 != keys.shape[0]  # one null for all
        else jnp.repeat(leaf, num_samples, axis=0)
      ),
      tree,
    )

  encoded = encoded._replace(
    condition=repeat(encoded.condition), null=repeat(encoded.null)
  )
  known = repeat(known)
  each = [noise.fold_sample(keys, i) for i in range(num_samples)]
  return encoded, known, jnp.stack(each, axis=1).reshape(-1)
