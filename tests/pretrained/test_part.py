"""Names, layouts and differences of a network, whatever the network."""

import jax
import numpy as np
import pytest
import toy_part as toy

from pix2seqd_jax.pretrained import part


def same(ours, theirs):
  jax.tree.map(np.testing.assert_array_equal, dict(ours), dict(theirs))


def test_their_names_and_shapes():
  found = {e.name: e.shape for e in part.entries(toy.PART, toy.Net())}
  assert found == {
    'net.conv_in.weight': (6, 5, 3, 3),
    'net.conv_in.bias': (6,),
    'net.bn.weight': (6,),
    'net.bn.bias': (6,),
    'net.bn.running_mean': (6,),
    'net.bn.running_var': (6,),
    'net.to_out.0.weight': (6, 6, 1, 1),
    'net.norm_1.weight': (6,),
    'net.norm_1.bias': (6,),
    'net.pos_embed': (1, 6),
    **{f'net.layers.{i}.fc1.weight': (6, 6) for i in range(3)},
    **{f'net.layers.{i}.fc1.bias': (6,) for i in range(3)},
  }


def test_values_are_where_pytorch_has_them():
  ours, found = toy.variables(), toy.theirs()
  params = ours['params']
  kernel = params['conv_in']['kernel']  # [h, w, in, out]
  assert found['net.conv_in.weight'][2, 4, 0, 1] == kernel[0, 1, 4, 2]
  dense = params['layers']['fc1']['kernel']  # [layer, in, out]
  assert found['net.layers.2.fc1.weight'][1, 5] == dense[2, 5, 1]
  assert (
    found['net.to_out.0.weight'][3, 4, 0, 0]
    == params['to_out_0']['kernel'][4, 3]
  )
  same(
    {'': found['net.bn.running_var']}, {'': ours['batch_stats']['bn']['var']}
  )


@pytest.mark.parametrize('prefix', ['net.', '', 'module.net.', '_orig_mod.'])
@pytest.mark.parametrize('is_conv', [True, False])
def test_there_and_back(prefix, is_conv):
  module = toy.Net(is_conv=is_conv)
  found = toy.theirs(module, prefix=prefix)
  found[f'{prefix}position_ids'] = np.zeros(3, np.int64)
  made, plan = part.plan(toy.PART, found)
  assert made.width == 6 and made.depth == 3
  assert sum(plan.passed_over.values()) == 1
  same(plan.tree(found), toy.variables(module))


def test_shapes_are_told_by_our_variables_too():
  found = part.shapes_of(toy.PART, toy.variables(toy.Net(width=4, depth=2)))
  module = toy.PART.module(found, None)
  assert (module.width, module.depth) == (4, 2)
  expected = {e.name for e in part.entries(toy.PART, module)}
  assert expected == found.keys()


def test_one_error_lists_all():
  found = toy.theirs()
  del found['net.bn.weight'], found['net.layers.1.fc1.bias']
  found['net.norm_1.bias'] = np.zeros(7)
  found['net.to_out.0.weight'] = np.zeros((6, 6, 3, 3))
  found['net.other.weight'] = np.zeros(2)
  found['conv_in.bias'] = np.zeros(6)
  with pytest.raises(ValueError) as error:
    part.plan(toy.PART, found, module=toy.Net())
  lines = str(error.value).split('\n  ')
  assert lines[0].startswith('6 names do not fit Net')
  assert lines[1:] == [
    'double: net.conv_in.bias and conv_in.bias',
    'extra: net.other.weight',
    'misshapen: net.norm_1.bias is (7,), the model has (6,)',
    'misshapen: net.to_out.0.weight is (6, 6, 3, 3), the model has '
    '(6, 6, 1, 1)',
    'missing: net.bn.weight (6,)',
    'missing: net.layers.1.fc1.bias (6,)',
  ]


def test_variables_that_are_not_the_modules():
  ours = toy.variables()
  del ours['params']['bn']
  ours['params']['norm_1']['scale'] = np.zeros(3)
  ours['params']['more'] = {'bias': np.zeros(3)}
  with pytest.raises(ValueError) as error:
    list(part.to_theirs(toy.PART, toy.Net(), ours))
  for line in (
    'missing: params/bn/scale',
    'extra: params/more/bias',
    r'misshapen: params/norm_1/scale (3,)',
  ):
    assert line in str(error.value)


@pytest.mark.parametrize('dtype', [np.float16, np.float64])
def test_casting_touches_real_numbers_only(dtype):
  found = toy.theirs()
  found['net.pos_embed'] = found['net.pos_embed'].astype(np.int64)
  _, plan = part.plan(toy.PART, found)
  tree = plan.tree(found, dtype)
  assert tree['params'].pop('pos_embed').dtype == np.int64
  assert {leaf.dtype for leaf in jax.tree.leaves(tree)} == {np.dtype(dtype)}
