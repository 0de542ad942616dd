"""The weight of each pixel's loss."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def instance_weight(
  instance: Int[Array, 'b h w'], max_instances: int, p: float | int
) -> Float[Array, 'b h w']:
  """Small segments weigh more: w = (1 / (area + 1))^p, mean 1 an example.

  arXiv 2210.06366, section 3.2. The area is the number of pixels of the id in
  this example at this resolution. The paper writes 1 / area^p; area + 1 is
  the reference's code. Id 0 (void, padding) counts as one segment, and ids of
  max_instances or more weigh 0^p, as there. Areas are counted into bins: no
  one-hot of h w max_instances numbers is made.

  Args:
    instance: ids from 0 on.
    max_instances: counts id 0.
    p: 0 weighs all pixels alike, 1 all segments (about).

  Returns:
    float32; all zeros for an example that has no id below max_instances.

  Raises:
    ValueError: max_instances < 1 or p < 0.
  """
  if max_instances < 1 or p < 0:
    raise ValueError(
      f'max_instances={max_instances} must be at least 1 and the loss '
      f'weight p={p} at least 0.'
    )

  def one(ids):
    # The last bin collects the ids out of range.
    flat = jnp.minimum(ids.reshape(-1), max_instances)
    areas = jnp.zeros(max_instances + 1, jnp.int32).at[flat].add(1)
    weights = (1.0 / (areas.astype(jnp.float32) + 1.0)) ** p
    weights = weights.at[max_instances].set(0.0**p)
    total = jnp.sum(weights * areas)
    weights = weights * jnp.where(total > 0, flat.size / total, 0.0)
    return weights[flat].reshape(ids.shape)

  return jax.vmap(one)(instance)
