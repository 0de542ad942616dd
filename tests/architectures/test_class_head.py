"""The class head: DeepLab's against its definition, sizes, refusals."""

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest

from pix2seqd_jax.architectures import class_head

TINY = {'width': 8, 'num_blocks': 1, 'dilations': (1, 2), 'groups': 4}


def maps(mask=(2, 8, 12, 5), image=(2, 4, 6, 3), seed=0):
  rng = np.random.default_rng(seed)
  return tuple(
    jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in (mask, image)
  )


# DeepLab's head by its definition: a dilated kernel is one with zeros between.


def convolved(x, kernel, dilation=1):
  side = kernel.shape[0]
  wide = dilation * (side - 1) + 1
  kernel_of_zeros = np.zeros((wide, wide, *kernel.shape[2:]))
  kernel_of_zeros[::dilation, ::dilation] = kernel
  pad = wide // 2
  x = np.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
  h, w = x.shape[1] - 2 * pad, x.shape[2] - 2 * pad
  return sum(
    x[:, i : i + h, j : j + w] @ kernel_of_zeros[i, j]
    for i in range(wide)
    for j in range(wide)
  )


def normed(x, entry, groups):
  b, h, w, c = x.shape
  grouped = x.reshape(b, h, w, groups, c // groups)
  mean = grouped.mean((1, 2, 4), keepdims=True)
  variance = grouped.var((1, 2, 4), keepdims=True)
  x = ((grouped - mean) / np.sqrt(variance + 1e-5)).reshape(x.shape)
  return x * entry['scale'] + entry['bias']


def by_definition(x, params, dilations, groups):
  def layer(x, name, dilation=1):
    x = convolved(x, params[f'{name}_conv']['kernel'], dilation)
    return np.maximum(normed(x, params[f'{name}_norm'], groups), 0)

  def dense(x, name):
    return x @ params[name]['kernel'] + params[name]['bias']

  branches = [layer(x, 'point')]
  for i, dilation in enumerate(dilations):
    branches.append(layer(x, f'atrous_{i}', dilation))
  mean = np.maximum(dense(x.mean((1, 2), keepdims=True), 'pooled'), 0)
  branches.append(np.broadcast_to(mean, branches[0].shape))
  x = layer(np.concatenate(branches, -1), 'project')
  return dense(layer(x, 'last'), 'classifier')


def test_deeplab_is_what_its_paper_says():
  x = maps((2, 9, 10, 6))[0]
  net = class_head.DeepLab(5, 8, (1, 3), 4)
  variables = oracles.random_variables(net, x)
  params = jax.tree.map(lambda v: np.asarray(v, np.float64), variables)
  expected = by_definition(
    np.asarray(x, np.float64), params['params'], (1, 3), 4
  )
  found = net.apply(variables, x)
  np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('stride', [1, 2])
def test_logits_have_the_size_of_the_mask(stride):
  mask, image = maps()
  net = class_head.ClassHead(3, stride=stride, **TINY)
  variables = oracles.random_variables(net, mask, image)
  logits = net.apply(variables, mask, image)
  assert logits.shape == (2, 8, 12, 4) and logits.dtype == jnp.float32
  # The features of the image may be of any size.
  again = net.apply(variables, mask, class_head.resize(image, (8, 12)))
  np.testing.assert_allclose(again, logits, rtol=1e-5, atol=1e-5)


def test_a_fresh_head_knows_nothing_and_learns_in_all_its_parts():
  mask, image = maps()
  net = class_head.ClassHead(3, **TINY)
  fast = {'xla_backend_optimization_level': 0}
  logits, _ = jax.jit(net.init_with_output, compiler_options=fast)(
    jax.random.key(0), mask, image
  )
  np.testing.assert_allclose(jax.nn.softmax(logits), 0.25, atol=1e-3)

  def loss(params):
    out = net.apply({'params': params}, mask, image)
    return -jnp.mean(jax.nn.log_softmax(out)[..., 1])

  params = oracles.random_variables(net, mask, image)['params']
  gradients = jax.jit(jax.grad(loss), compiler_options=fast)(params)
  for path, leaf in jax.tree.leaves_with_path(gradients):
    assert np.abs(leaf).max() > 0, jax.tree_util.keystr(path)


def test_half_precision_keeps_wide_logits():
  net = class_head.ClassHead(3, dtype=jnp.bfloat16, **TINY)
  logits, variables = jax.eval_shape(
    net.init_with_output, jax.random.key(0), *maps()
  )
  assert logits.dtype == jnp.float32
  assert all(v.dtype == jnp.float32 for v in jax.tree.leaves(variables))


@pytest.mark.parametrize(
  'kwargs, words',
  [
    ({'groups': 3}, 'width=8 must be a multiple of groups=3'),
    ({'num_blocks': -1}, 'num_blocks=-1 must be 0 or more'),
    ({'stride': 3}, 'stride=3 must divide the sides'),
    ({'stride': 0}, 'stride=0 must be 1 or more'),
    ({'dilations': (0,)}, r'dilations=\(0,\) must all be 1'),
  ],
)
def test_refused(kwargs, words):
  net = class_head.ClassHead(3, **TINY | kwargs)
  with pytest.raises(ValueError, match=words):
    jax.eval_shape(net.init, jax.random.key(0), *maps())
