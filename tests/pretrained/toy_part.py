"""A network with one of each thing that a converter meets, and its Part."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from pix2seqd_jax.pretrained import part


class _Layer(nn.Module):
  width: int

  @nn.compact
  def __call__(self, x, _):
    return nn.Dense(self.width, name='fc1')(x), None


class Net(nn.Module):
  """A convolution, matrices, a norm, running statistics, a stack, an array."""

  width: int = 6
  depth: int = 3
  is_conv: bool = True  # whether the original's to_out is a 1x1 convolution

  @nn.compact
  def __call__(self, x):
    x = nn.Conv(self.width, (3, 3), name='conv_in')(x)
    x = nn.BatchNorm(use_running_average=True, name='bn')(x)
    x = nn.Dense(self.width, use_bias=False, name='to_out_0')(x)
    x = nn.LayerNorm(name='norm_1')(x)
    x += self.param('pos_embed', nn.initializers.normal(), (1, self.width))
    layers = nn.scan(
      _Layer,
      variable_axes={'params': 0},
      split_rngs={'params': True},
      length=self.depth,
    )
    return layers(self.width, name='layers')(x, None)[0]


def shapes(module):
  """The variables' shapes."""
  x = jnp.zeros((1, 4, 4, 5))
  return jax.eval_shape(module.init, jax.random.key(0), x)


def _module(found, config):
  width = found.get('net.conv_in.bias', (6,))[0]
  depth = len([n for n in found if n.endswith('fc1.bias')])
  return Net(width, depth or 3, **(config or {}))


def _canonical(name):
  if name.endswith('position_ids'):
    return None
  name = name.removeprefix('one.').removeprefix('two.')
  return name if name.startswith('net.') else f'net.{name}'


PART = part.Part(
  module=_module,
  shapes=shapes,
  canonical=part.each(_canonical),
  mark='net.conv_in.weight',
  prefix='net.',
  stacks=('layers',),
  literal=(r'norm_\d',),
  convs=lambda module: r'net\.to_out\.0\.weight' if module.is_conv else None,
  config=lambda module: {'is_conv': module.is_conv},
)


def variables(module=None, seed=0):
  """Random ones."""
  rng = np.random.default_rng(seed)
  return jax.tree.map(
    lambda leaf: rng.normal(size=leaf.shape).astype(np.float32),
    shapes(module or Net()),
  )


def theirs(module=None, seed=0, prefix='net.'):
  """{their name: array} of `variables(module, seed)`."""
  module = module or Net()
  return {
    prefix + entry.name.removeprefix('net.'): make()
    for entry, _, make in part.to_theirs(PART, module, variables(module, seed))
  }
