"""Losses of LDMSeg's autoencoder of masks, at points (arXiv 2401.10227, 3.2).

Points are drawn as in PointRend (https://arxiv.org/abs/1912.08193): some where
the prediction is least certain, the rest anywhere. No mask of an id is ever
made, and the gradient of one id or one image is found before the next one is
looked at, so that memory is that of one array like the logits.

Which points are least certain is said by weights of all candidates, 0 or 1,
and not by an index: that is faster than sorting, and candidates that tie share
what is left.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

# {'candidates': [b, n, 2], 'fresh': [b, m, 2]}, (x, y) in [0, 1].
Draws = dict[str, Array]


class PointSampling(NamedTuple):
  """How points are chosen.

  Attributes:
    num_points: of an image, or of an image's id.
    oversample: candidates for each point; 0 draws all points anywhere.
    importance: the fraction of points that are the least certain candidates.
  """

  num_points: int = 12544
  oversample: float | int = 3
  importance: float | int = 0.75

  @property
  def num_uncertain(self) -> int:
    """How many candidates are taken."""
    return int(self.importance * self.num_points) if self.oversample else 0

  def draw(self, key: Array, num_examples: int, dtype: Any) -> Draws:
    """Uniform points, candidates and those that are taken in any case."""
    counts = {
      'candidates': int(self.num_points * self.oversample),
      'fresh': self.num_points - self.num_uncertain,
    }
    keys = jax.random.split(key, 2)
    return {
      name: jax.random.uniform(key, (num_examples, count, 2), dtype)
      for key, (name, count) in zip(keys, counts.items(), strict=True)
    }


class PointLosses(NamedTuple):
  """Of a batch; `total` alone has a gradient, in the logits alone.

  Attributes:
    total: ce_weight ce + mask_weight (bce + dice).
    ce: softmax cross-entropy at points of each image, void (id 0) left out:
      the mean over all points of all images that lie on an id.
    bce: binary cross-entropy of each mask, mean over its points, then over
      masks.
    dice: 1 - (2 sum(p t) + 1) / (sum(p) + sum(t) + 1), mean over masks.
    num_masks: pairs of an image and an id in it.
  """

  total: Float[Array, '']
  ce: Float[Array, '']
  bce: Float[Array, '']
  dice: Float[Array, '']
  num_masks: Float[Array, '']


def point_losses(
  logits: Float[Array, 'b h w k'],
  ids: Int[Array, 'b H W'],
  draws: Draws,
  draw_fn: Callable[[Array], Draws],
  sampling: PointSampling = PointSampling(),
  *,
  max_segments: int | None = None,
  ce_weight: float | int = 1.0,
  mask_weight: float | int = 1.0,
) -> PointLosses:
  """Cross-entropy of each image, and BCE and Dice of each of its ids.

  The mask predicted for an id is the sigmoid of its logit. The mask expected is
  1 at its pixels, 0 at all others (void ones too), and between them its value
  at a point is interpolated; for the cross-entropy the nearest pixel's id is.

  The gradient is found on the way forward, in one array of the logits' size,
  to which the images and then the ids add one by one: beside it there is
  never more than the logits of an image, or of an id.

  Args:
    logits: of each id; any size, placed over the whole image.
    ids: 0..k - 1.
    draws: points of the images; see PointSampling.draw, [b, ...].
    draw_fn: i -> the points of each image's i-th id, [b, ...].
    sampling: how many of the candidates count.
    max_segments: of an image; ids beyond that number count nothing for the
      masks. None allows k - 1.
    ce_weight, mask_weight: see PointLosses.total.

  Returns:
    The losses.
  """
  most = logits.shape[-1] - 1
  slots = _ids_of(ids, most + 1, min(max_segments or most, most))
  given = _Given(ids, draws, draw_fn, sampling, slots, ce_weight, mask_weight)
  # A function: arrays of its own must not be arguments of a custom_vjp.
  total, told = _total(functools.partial(_losses, given), logits)
  return PointLosses(total, *told)


class _Given(NamedTuple):
  """All but the logits."""

  ids: Any
  draws: Draws
  draw_fn: Callable[[Array], Draws]
  sampling: PointSampling
  slots: tuple[Any, Any]  # ids of an image, and which of them there are
  ce_weight: float | int
  mask_weight: float | int


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _total(losses, logits):
  """-> (the loss, what PointLosses tells beside it)."""
  return losses(logits, has_gradient=False)[0]


def _losses(given, logits, has_gradient):
  """-> ((the loss, ...), its gradient in the logits or None)."""
  ce, count, gradient = _images(given, logits, has_gradient)
  count = jnp.maximum(count, 1)
  num_masks = jnp.sum(given.slots[1]).astype(logits.dtype)
  fraction = given.mask_weight / jnp.maximum(num_masks, 1)
  if has_gradient:
    gradient = gradient * (given.ce_weight / count)
  (bce, dice), gradient = _masks(given, logits, gradient, fraction)
  bce, dice = (x / jnp.maximum(num_masks, 1) for x in (bce, dice))
  ce = ce / count
  total = given.ce_weight * ce + given.mask_weight * (bce + dice)
  return (total, (ce, bce, dice, num_masks)), gradient


def _images(given, logits, has_gradient):
  """Sums of cross-entropies and of their weights, image by image."""

  def of_one(plane, ids, draws):
    points = jnp.concatenate([draws['candidates'], draws['fresh']], 0)[None]
    values = sample_bilinear(plane[None], points)[0]  # [n, k]
    best = lax.top_k(lax.stop_gradient(values), 2)[0]
    weights = _weights(best[:, 1] - best[:, 0], draws, given.sampling)
    labels = sample_nearest(ids[None], points)[0]
    log_p = jax.nn.log_softmax(values)
    losses = -jnp.take_along_axis(log_p, labels[:, None], -1)[:, 0]
    weights = jnp.where(labels == 0, 0, weights)
    return jnp.sum(weights * losses), jnp.sum(weights)

  def step(sums, inputs):
    found, gradient = _maybe_grad(of_one, has_gradient)(*inputs)
    return jax.tree.map(jnp.add, sums, found), gradient

  zeros = (jnp.zeros((), logits.dtype),) * 2
  inputs = (logits, given.ids, given.draws)
  (loss, count), gradient = lax.scan(step, zeros, inputs)
  return loss, count, gradient


def _masks(given, logits, gradient, fraction):
  """Sums of BCE and Dice, id by id; `share` of their gradient is added."""

  def of_one(plane, slot, there, draws):
    points = jnp.concatenate([draws['candidates'], draws['fresh']], 1)
    values = sample_bilinear(plane[..., None], points)[..., 0]  # [b, n]
    certainty = jnp.abs(lax.stop_gradient(values))
    weights = _weights(-certainty, draws, given.sampling)
    expected = _soft_targets(given.ids, slot, points).astype(values.dtype)
    bce = _mean_bce(values, expected, weights, given.sampling.num_points)
    dice = _dice(values, expected, weights)
    bce, dice = (jnp.sum(jnp.where(there, x, 0)) for x in (bce, dice))
    return bce + dice, (bce, dice)

  rows = jnp.arange(len(logits))

  def step(carry, inputs):
    sums, gradient = carry
    slot, there, i = inputs
    plane = jax.vmap(lambda x, s: x[..., s])(logits, slot)
    (_, found), slope = _maybe_grad(of_one, gradient is not None)(
      plane, slot, there, given.draw_fn(i)
    )
    if gradient is not None:
      gradient = gradient.at[rows, :, :, slot].add(fraction * slope)
    return (jax.tree.map(jnp.add, sums, found), gradient), None

  slots, is_there = given.slots
  zeros = (jnp.zeros((), logits.dtype),) * 2
  inputs = (slots.T, is_there.T, jnp.arange(slots.shape[1]))
  return lax.scan(step, (zeros, gradient), inputs)[0]


def _maybe_grad(fn, has_gradient):
  """fn -> (fn's, its gradient in the first argument or None)."""
  if has_gradient:
    return jax.value_and_grad(fn, has_aux=True)
  return lambda *args: (fn(*args), None)


def _forward(losses, logits):
  return losses(logits, has_gradient=True)


def _backward(losses, gradient, cotangents):
  del losses
  return (cotangents[0] * gradient,)


_total.defvjp(_forward, _backward)


def _mean_bce(logits, expected, weights, num_points):
  losses = (
    jnp.maximum(logits, 0)
    - logits * expected
    + jnp.log1p(jnp.exp(-abs(logits)))
  )
  return jnp.sum(weights * losses, -1) / num_points


def _dice(logits, expected, weights):
  p = weights * jax.nn.sigmoid(logits)
  overlap = 2 * jnp.sum(p * expected, -1)
  return 1 - (overlap + 1) / (jnp.sum(p + weights * expected, -1) + 1)


def _ids_of(ids, num_ids, num_slots):
  """The ids of each image in rising order, then absent ones: [b, slots]."""
  rows = jnp.arange(ids.shape[0])[:, None, None]
  found = jnp.zeros((ids.shape[0], num_ids), bool).at[rows, ids].set(True)
  found = found.at[:, 0].set(False)
  order = jnp.argsort(~found, axis=-1, stable=True)[:, :num_slots]
  return order, jnp.take_along_axis(found, order, -1)


def _weights(uncertainty, draws, sampling):
  """1 for the least certain candidates and for all fresh points, else 0."""
  count = draws['candidates'].shape[-2]
  candidates = largest(uncertainty[..., :count], sampling.num_uncertain)
  return jnp.concatenate(
    [candidates, jnp.ones_like(uncertainty[..., count:])], -1
  )


def largest(values: Float[Array, '*b n'], k: int) -> Float[Array, '*b n']:
  """1 for the k largest of a row, 0 for the rest; ties at the border share.

  By bisection of the bits of the k-th largest value: a sort costs more.
  """
  if k <= 0 or values.shape[-1] == 0:
    return jnp.zeros_like(values)
  if k >= values.shape[-1]:
    return jnp.ones_like(values)
  kind, bits = {4: (jnp.int32, 31), 8: (jnp.int64, 63)}[values.dtype.itemsize]
  lowest = jnp.array(jnp.iinfo(kind).min, kind)
  # Integers that are ordered as the numbers are; + 0 makes -0 equal to 0.
  raw = lax.bitcast_convert_type(values + 0.0, kind)
  order = jnp.where(raw < 0, lowest - raw, raw)

  def halve(i, least):
    """`least` is the greatest number so far that k values reach."""
    step = jnp.where(
      i == 0, lowest, jnp.left_shift(jnp.array(1, kind), bits - i)
    )
    higher = jnp.where(i == 0, jnp.zeros_like(least), least + step)
    enough = jnp.sum(order >= higher, -1, keepdims=True) >= k
    return jnp.where(enough, higher, least)

  start = jnp.full((*values.shape[:-1], 1), lowest)
  border = lax.fori_loop(0, bits + 1, halve, start)
  above, ties = order > border, order == border
  left = k - jnp.sum(above, -1, keepdims=True)
  fraction = left / jnp.sum(ties, -1, keepdims=True)
  return jnp.where(above, 1, jnp.where(ties, fraction, 0)).astype(values.dtype)


def sample_bilinear(
  maps: Float[Array, 'b h w k'], points: Float[Array, 'b n 2']
) -> Float[Array, 'b n k']:
  """Values at points (x, y) in [0, 1] over the whole map; 0 beyond its edges.

  Pixel centres are at (i + 1/2) / size, so that within half a pixel of an edge
  values fade to 0, as in PyTorch's grid_sample with align_corners=False.
  """
  flat = maps.reshape(maps.shape[0], -1, maps.shape[-1])
  total = 0
  for index, weight in _corners(maps.shape[1:3], points):
    values = jnp.take_along_axis(flat, index[..., None], 1)
    total += weight[..., None].astype(maps.dtype) * values
  return total


def sample_nearest(
  ids: Int[Array, 'b h w'], points: Float[Array, 'b n 2']
) -> Int[Array, 'b n']:
  """The id of the pixel that holds each point, 0 beyond the edges."""
  h, w = ids.shape[1:]
  x = jnp.round(points[..., 0] * w - 0.5)
  y = jnp.round(points[..., 1] * h - 0.5)
  index, is_inside = _flat_index(x, y, h, w)
  found = jnp.take_along_axis(ids.reshape(ids.shape[0], -1), index, 1)
  return jnp.where(is_inside, found, 0)


def _soft_targets(ids, slot, points):
  """The bilinear value of (ids == slot) at points: [b, n]."""
  flat = ids.reshape(ids.shape[0], -1)
  return sum(
    weight * (jnp.take_along_axis(flat, index, 1) == slot[:, None])
    for index, weight in _corners(ids.shape[1:], points)
  )


def _corners(size, points):
  """The four pixels around each point: (flat index, weight), [b, n]."""
  h, w = size
  x, y = points[..., 0] * w - 0.5, points[..., 1] * h - 0.5
  left, top = jnp.floor(x), jnp.floor(y)
  for dx in (0, 1):
    for dy in (0, 1):
      index, is_inside = _flat_index(left + dx, top + dy, h, w)
      weight = (1 - abs(x - left - dx)) * (1 - abs(y - top - dy))
      yield index, jnp.where(is_inside, weight, 0)


def _flat_index(x, y, h, w):
  is_inside = (x >= 0) & (x < w) & (y >= 0) & (y < h)
  column = jnp.clip(x, 0, w - 1).astype(jnp.int32)
  row = jnp.clip(y, 0, h - 1).astype(jnp.int32)
  return row * w + column, is_inside
