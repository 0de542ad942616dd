"""Learning rates and optimizers, in optax, that match the reference's.

The reference trains with Keras' AdamW (pix2seq, github.com/google-research/
pix2seq): gradients clipped by their global norm, decoupled weight decay
lr * wd * p on every trainable, and Adam with eps outside the bias correction.
"""

import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from pix2seqd_jax import types
from pix2seqd_jax.train import sharding

Schedule = Callable[[Any], Any]


class Optimizer(NamedTuple):
  """An optax.GradientTransformation that also knows its rate and its frozen.

  `learning_rate(step)` is the rate of the update after `step` updates;
  `trained(tree)` says of each leaf of params['net'] whether it is trained.
  """

  init: Callable
  update: Callable
  learning_rate: Schedule
  trained: Callable[[types.PyTree], types.PyTree]


class KerasAdamState(NamedTuple):
  """Moments of the gradients; `count` updates so far."""

  count: Any
  mu: types.PyTree
  nu: types.PyTree


def _decay(name: str, p, end: float):
  """From 1 at p = 0 to `end` at p = 1."""
  if name == 'cosine':
    return end + (1 - end) * 0.5 * (1 + jnp.cos(jnp.pi * p))
  if name == 'linear':
    return end + (1 - end) * (1 - p)
  return jnp.ones_like(p)


def make_schedule(
  name: str = 'linear',
  *,
  base: float,
  warmup_steps: int = 0,
  total_steps: int,
  end_factor: float = 0.0,
  tail_steps: int = 0,
) -> Schedule:
  """step -> learning rate, float32.

  lr(t) = base * t / warmup below `warmup_steps`; from there, with
  p = (t - warmup) / (total - warmup - tail) held in [0, 1], 'linear' falls to
  base * end_factor, 'cosine' falls along half a cosine to the same value, and
  'constant' stays. The last `tail_steps` keep the final value.

  Raises:
    ValueError: on an unknown name, or when no step is left for the decay.
  """
  if name not in ('linear', 'cosine', 'constant'):
    raise ValueError(
      f"optimizer.schedule={name!r} must be 'linear', 'cosine' or 'constant'."
    )
  length = total_steps - warmup_steps - tail_steps
  if min(warmup_steps, tail_steps) < 0 or length < 1:
    raise ValueError(
      f'optimizer: total_steps={total_steps} leaves no step between '
      f'warmup_steps={warmup_steps} and tail_steps={tail_steps}, both at least '
      '0; lengthen the run or shorten them.'
    )
  if not base > 0 or not end_factor >= 0:
    raise ValueError(
      f'optimizer.learning_rate={base} must be above 0 and '
      f'optimizer.end_factor={end_factor} at least 0.'
    )

  def schedule(step):
    t = jnp.asarray(step, jnp.float32)
    p = jnp.clip((t - warmup_steps) / length, 0, 1)
    rate = base * _decay(name, p, end_factor)
    rising = base * t / max(warmup_steps, 1)
    return jnp.where(t < warmup_steps, rising, rate).astype(jnp.float32)

  return schedule


def scale_by_keras_adam(
  b1: float, b2: float, eps: float
) -> optax.GradientTransformation:
  """m / (sqrt(v) + eps) * sqrt(1 - b2^t) / (1 - b1^t), t from 1.

  optax's own form adds eps to sqrt(v_hat), so a parameter whose gradients are
  far below eps moves up to 1 / sqrt(1 - b2) times more there than in Keras.
  Moments are float32 whatever the gradients are.
  """

  def zeros(params):
    return jax.tree.map(
      lambda p: jnp.zeros(p.shape, jnp.promote_types(p.dtype, jnp.float32)),
      params,
    )

  def init(params):
    return KerasAdamState(
      jnp.zeros((), jnp.int32), zeros(params), zeros(params)
    )

  def update(grads, state, params=None):
    del params
    count = state.count + 1
    t = count.astype(jnp.float32)
    mu = jax.tree.map(lambda m, g: m + (g - m) * (1 - b1), state.mu, grads)
    nu = jax.tree.map(lambda v, g: v + (g * g - v) * (1 - b2), state.nu, grads)
    scale = jnp.sqrt(1 - b2**t) / (1 - b1**t)
    updates = jax.tree.map(lambda m, v: scale * m / (jnp.sqrt(v) + eps), mu, nu)
    return updates, KerasAdamState(count, mu, nu)

  return optax.GradientTransformation(init, update)


def _check_match(key: str, patterns: Sequence[str], paths) -> None:
  for pattern in patterns:
    if not any(re.search(pattern, path) for path in paths):
      raise ValueError(
        f'optimizer.{key}: the regex {pattern!r} matches no parameter; the '
        f'names look like {sorted(paths)[:3]}.'
      )


def _matches(patterns: Sequence[str], path: str) -> bool:
  return any(re.search(pattern, path) for pattern in patterns)


def _decays(decay_mask: str | Sequence[str], path: str) -> bool:
  if decay_mask == 'all':
    return True
  if decay_mask == 'kernels':
    return path.split('/')[-1] == 'kernel'
  return _matches(decay_mask, path)


def _multiplier(groups, path: str) -> float:
  for pattern, multiplier in groups:
    if re.search(pattern, path):
      return float(multiplier)
  return 1.0


def _core(name: str, b1: float, b2: float, eps: float) -> list:
  if name in ('adamw', 'adam', 'lamb'):
    return [scale_by_keras_adam(b1, b2, eps)]
  if name == 'torch_adamw':
    return [optax.scale_by_adam(b1, b2, eps)]
  if name == 'sgd':
    return [optax.trace(decay=b1)] if b1 else []
  raise ValueError(
    f"optimizer.name={name!r} must be 'adamw', 'torch_adamw', 'adam', 'sgd' or "
    "'lamb'."
  )


def _decay_part(weight_decay: float, decay_mask) -> list:
  if not weight_decay:
    return []

  def mask(tree):
    return sharding.map_paths(lambda p, _: _decays(decay_mask, p), tree)

  return [optax.add_decayed_weights(weight_decay, mask=mask)]


def _group_part(groups) -> list:
  if not groups:
    return []

  def scale(updates, params):
    del params
    return sharding.map_paths(
      lambda path, u: u * _multiplier(groups, path), updates
    )

  return [optax.stateless(scale)]


def _frozen(chain, trained) -> optax.GradientTransformation:
  """`chain` sees only what is trained; the rest gets zero updates."""

  def rest(tree):
    return jax.tree.map(lambda b: not b, trained(tree))

  return optax.chain(
    optax.masked(chain, trained), optax.masked(optax.set_to_zero(), rest)
  )


def _checked_masks(decay_mask, groups, freeze):
  """trained(tree) -> bools; raises where a regex matches nothing."""
  regexes = () if isinstance(decay_mask, str) else tuple(decay_mask)
  if isinstance(decay_mask, str) and decay_mask not in ('all', 'kernels'):
    raise ValueError(
      f"optimizer.decay_mask={decay_mask!r} must be 'all', 'kernels' or a "
      'tuple of regexes.'
    )

  def trained(tree):
    return sharding.map_paths(lambda path, _: not _matches(freeze, path), tree)

  def check(tree):
    paths = list(sharding.flat_paths(tree))
    _check_match('freeze', freeze, paths)
    _check_match('groups', [pattern for pattern, _ in groups], paths)
    _check_match('decay_mask', regexes, paths)
    if all(_matches(freeze, path) for path in paths):
      raise ValueError(
        f'optimizer.freeze={tuple(freeze)} freezes every parameter; leave '
        'something to train.'
      )

  return trained, check


def make_optimizer(
  name: str = 'adamw',
  schedule: Schedule | float = 1e-3,
  *,
  b1: float = 0.9,
  b2: float = 0.999,
  eps: float = 1e-8,
  weight_decay: float = 0.0,
  clip_norm: float | None = 1.0,
  decay_mask: str | Sequence[str] = 'all',
  groups: Sequence[tuple[str, float]] = (),
  freeze: Sequence[str] = (),
) -> Optimizer:
  """clip -> adam or momentum -> + wd * p -> * -lr(t) * group.

  Regexes are searched in the paths inside params['net'].

  Args:
    name: 'adamw', 'torch_adamw' (PyTorch's, which LDMSeg and SemFlow were
      trained with), 'adam' (no decay), 'sgd' (momentum b1), 'lamb'.
    schedule: step -> rate, or a number.
    b1: decay of the first moment; momentum of 'sgd'.
    b2: decay of the second moment.
    eps: added to sqrt(v) before the bias correction (Keras); after it in
      'torch_adamw'.
    weight_decay: decoupled, multiplied by the learning rate.
    clip_norm: bound of the global norm of the gradients, or None.
    decay_mask: which decay: 'all' (the reference: biases and norms too),
      'kernels', or regexes.
    groups: (regex, multiplier of the learning rate); the first match counts.
    freeze: regexes of parameters that stay; they have no optimizer state, get
      zero updates, and are left out of the global norm.

  Raises:
    ValueError: on unknown names; in `init`, on a regex that matches nothing.
  """
  if name == 'adam' and weight_decay:
    raise ValueError(
      f"optimizer.weight_decay={weight_decay} has no effect in 'adam'; use "
      "optimizer.name='adamw'."
    )
  freeze, groups = tuple(freeze), tuple(groups)
  trained, check = _checked_masks(decay_mask, groups, freeze)
  rate = schedule if callable(schedule) else optax.constant_schedule(schedule)
  chain = optax.chain(
    *([] if clip_norm is None else [optax.clip_by_global_norm(clip_norm)]),
    *_core(name, b1, b2, eps),
    *_decay_part(weight_decay, decay_mask),
    *([optax.scale_by_trust_ratio()] if name == 'lamb' else []),
    optax.scale_by_learning_rate(rate),
    *_group_part(groups),
  )
  if freeze:
    chain = _frozen(chain, trained)

  def init(params):
    check(params)
    return chain.init(params)

  return Optimizer(init, chain.update, rate, trained)
