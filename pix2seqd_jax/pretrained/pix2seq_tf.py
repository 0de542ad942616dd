"""The variables of the original Pix2Seq-D (TensorFlow) <-> our names.

https://github.com/google-research/pix2seq; the layouts of all arrays agree,
only the names differ. Its detectors (Pix2Seq, arXiv 2109.10852) hold the same
encoder under the same names. Nothing here reads a checkpoint: that is
tf_checkpoint.py.
"""

import re
from collections.abc import Mapping
from typing import Any

from flax import traverse_util

from pix2seqd_jax.pretrained.mapping import Plan, Row

# Module by module, theirs and ours; # stands for the same number on both
# sides. Their wrapper keeps an inert DropBlock at the places 2, 5 and 8.
_BLOCK = 'encoder/resnet/block_groups/#/layers/#'
_OUR_BLOCK = 'encoder/resnet/group_#_block_#'
_RESNET = (
  ('encoder/resnet/initial_conv_relu_max_pool/0/conv2d',
   'encoder/resnet/stem_conv'),
  ('encoder/resnet/initial_conv_relu_max_pool/2/bn',
   'encoder/resnet/stem_norm'),
  (f'{_BLOCK}/projection_layers/0/conv2d', f'{_OUR_BLOCK}/conv_shortcut'),
  (f'{_BLOCK}/projection_layers/1/bn', f'{_OUR_BLOCK}/norm_shortcut'),
  *(
    pair
    for i in range(3)
    for pair in (
      (f'{_BLOCK}/conv_relu_dropblock_layers/{3 * i}/conv2d',
       f'{_OUR_BLOCK}/conv_{i}'),
      (f'{_BLOCK}/conv_relu_dropblock_layers/{3 * i + 1}/bn',
       f'{_OUR_BLOCK}/norm_{i}'),
    )
  ),
)  # fmt: skip


def _attention(theirs: str, ours: str):
  return tuple(
    (f'{theirs}/_{a}_dense', f'{ours}/{b}')
    for a, b in (
      ('query', 'query'),
      ('key', 'key'),
      ('value', 'value'),
      ('output', 'out'),
    )
  )


def _mlp(theirs: str, ours: str):
  return (
    (f'{theirs}/mlp/layernorms/0', f'{ours}/mlp_norm'),
    (f'{theirs}/mlp/mlp_layers/0/dense1', f'{ours}/mlp_in'),
    (f'{theirs}/mlp/mlp_layers/0/dense2', f'{ours}/mlp_out'),
  )


_LAYER = 'encoder/transformer_encoder/enc_layers/#'
_OUR_LAYER = 'encoder/layer_#'
_ENCODER = (
  *_RESNET,
  ('encoder/stem_projection', 'encoder/projection'),
  ('encoder/stem_ln', 'encoder/projection_norm'),
  ('encoder/output_ln', 'encoder/out_norm'),
  (f'{_LAYER}/mha_ln', f'{_OUR_LAYER}/self_norm'),
  *_attention(f'{_LAYER}/mha', f'{_OUR_LAYER}/self_attention'),
  *_mlp(_LAYER, _OUR_LAYER),
)

_MERGE = tuple(
  (f'encoder_fuse/upsample_blocks/#/{kind}{i + 1}', f'merge/block_#/{ours}_{i}')
  for kind, ours in (('conv', 'conv'), ('gn', 'norm'))
  for i in range(2)
)

_MIDDLE = 'denoiser/transformer'
_DECODER_LAYER = f'{_MIDDLE}/transformer_decoder/dec_layers/#'
_OUR_DECODER_LAYER = f'{_MIDDLE}/layer_#'
_DENOISER = (
  ('denoiser/time_emb/dense_#', 'denoiser/time/dense_#'),
  ('denoiser/conv_in', 'denoiser/conv_in'),
  ('denoiser/group_norm_in', 'denoiser/norm_in'),
  ('denoiser/group_norm_out', 'denoiser/norm_out'),
  ('denoiser/conv_out', 'denoiser/conv_out'),
  ('denoiser/dn_units/#/conv_dn', 'denoiser/down_#_conv'),
  ('denoiser/up_units/#/conv_up', 'denoiser/up_#_conv'),
  *(
    (f'denoiser/{unit}_units/#/resnet_blocks/#/{a}',
     f'denoiser/{ours}_#_block_#/{b}')
    for unit, ours in (('dn', 'down'), ('up', 'up'))
    for a, b in (
      ('group_norm_#', 'norm_#'),
      ('conv_#', 'conv_#'),
      ('emb_proj', 'time'),
      ('shortcut_layer', 'shortcut'),
    )
  ),
  (f'{_MIDDLE}/trans_conv_in_norm', f'{_MIDDLE}/norm_in'),
  (f'{_MIDDLE}/trans_conv_in', f'{_MIDDLE}/conv_in'),
  (f'{_MIDDLE}/emb_proj', f'{_MIDDLE}/time'),
  (f'{_MIDDLE}/trans_conv_out_norm', f'{_MIDDLE}/norm_out'),
  (f'{_MIDDLE}/trans_conv_out', f'{_MIDDLE}/conv_out'),
  (f'{_DECODER_LAYER}/self_ln', f'{_OUR_DECODER_LAYER}/self_norm'),
  (f'{_DECODER_LAYER}/cross_ln', f'{_OUR_DECODER_LAYER}/cross_norm'),
  *_attention(
    f'{_DECODER_LAYER}/self_mha', f'{_OUR_DECODER_LAYER}/self_attention'
  ),
  *_attention(
    f'{_DECODER_LAYER}/cross_mha', f'{_OUR_DECODER_LAYER}/cross_attention'
  ),
  *_mlp(_DECODER_LAYER, _OUR_DECODER_LAYER),
)  # fmt: skip

_MODULES = (*_ENCODER, *_MERGE, *_DENOISER)
# A norm's leaves; those of other modules have the same name on both sides.
_NORM_LEAVES = {
  'gamma': 'scale',
  'beta': 'bias',
  'moving_mean': 'mean',
  'moving_variance': 'var',
}
_OUR_NORM_LEAVES = {ours: theirs for theirs, ours in _NORM_LEAVES.items()}
_STATS = ('mean', 'var')
_ROOTS = ('encoder', 'encoder_fuse', 'denoiser')
_PREFIX = 'model/'
_SUFFIX = '/.ATTRIBUTES/VARIABLE_VALUE'

# What can be taken: the roots of it, and the other roots that may be there.
PARTS = {
  'all': (_ROOTS, ()),
  # Also of a detector: its decoder of tokens and what projects to that.
  'encoder': (
    ('encoder',),
    ('encoder_fuse', 'denoiser', 'decoder', 'proj', 'proj_ln', 'proj_mlp'),
  ),
}
# All that a checkpoint may hold beside its model: (regex, what it is). The
# third and fourth are Keras' optimizer of 2023 and that of 2022.
_BESIDE = tuple(
  (re.compile(pattern), what)
  for pattern, what in (
    ('_CHECKPOINTABLE_OBJECT_GRAPH', "TensorFlow's graph of objects"),
    ('save_counter|global_step', 'counters'),
    ('optimizer/.+', 'state of the optimizer'),
    (r'model/.+/\.OPTIMIZER_SLOT/optimizer/\w+', 'state of the optimizer'),
  )
)


def _compile(template: str) -> re.Pattern:
  return re.compile(re.escape(template).replace(r'\#', r'(\d+)'))


def _fill(template: str, numbers) -> str:
  numbers = iter(numbers)
  return re.sub('#', lambda _: next(numbers), template)


_TO_OURS = tuple((_compile(theirs), ours) for theirs, ours in _MODULES)
_TO_THEIRS = tuple((_compile(ours), theirs) for theirs, ours in _MODULES)


def _translate(module: str, rules) -> str | None:
  for pattern, template in rules:
    match = pattern.fullmatch(module)
    if match:
      return _fill(template, match.groups())
  return None


def our_path(name: str) -> tuple[str, ...] | None:
  """Their name (without prefix, suffix and `_ema`) -> the path in our tree.

  'encoder/stem_ln/gamma' becomes ('net', 'encoder', 'projection_norm',
  'scale'); None for a name that the original does not have.
  """
  module, _, leaf = name.rpartition('/')
  ours = _translate(module, _TO_OURS)
  if ours is None:
    return None
  if 'norm' in ours.split('/')[-1]:
    leaf = _NORM_LEAVES.get(leaf)
  elif leaf not in ('kernel', 'bias'):
    leaf = None
  if leaf is None:
    return None
  return ('stats' if leaf in _STATS else 'net', *ours.split('/'), leaf)


def their_name(path: tuple[str, ...]) -> str | None:
  """The inverse of `our_path`; None for a path that the original lacks."""
  _, *modules, leaf = path
  theirs = _translate('/'.join(modules), _TO_THEIRS)
  if theirs is None:
    return None
  if 'norm' in modules[-1]:
    leaf = _OUR_NORM_LEAVES[leaf]
  return f'{theirs}/{leaf}'


def has_averages(variables: Mapping[str, Any], part: str = 'all') -> bool:
  """Whether the averaged copies (`encoder_ema/...`) are there."""
  averaged = tuple(f'{root}_ema/' for root in _parts(part)[0])
  return any(n.removeprefix(_PREFIX).startswith(averaged) for n in variables)


def _parts(part):
  if part not in PARTS:
    raise ValueError(f'part={part!r} must be one of {", ".join(PARTS)}.')
  return PARTS[part]


def plan(
  variables: Mapping[str, Any],
  target: Mapping[str, Any] | None = None,
  *,
  ema: bool = False,
  part: str = 'all',
) -> Plan:
  """Which variable becomes which of our parameters; reads no values.

  Args:
    variables: anything with a shape by name, with or without the checkpoint's
      prefix 'model/' and suffix '/.ATTRIBUTES/VARIABLE_VALUE'.
    target: the tree expected, of anything with a shape: {'net': {'encoder',
      'merge', 'denoiser'}, 'stats': {'encoder'}}. Without one only unknown
      names are refused.
    ema: takes the averaged copies (`encoder_ema/...`) instead of the raw
      ones.
    part: 'all', or 'encoder': of a Pix2Seq-D or of a detector.

  Raises:
    ValueError: lists every missing, extra and misshapen name.
  """
  suffix, other = ('_ema', '') if ema else ('', '_ema')
  roots, others = _parts(part)
  expected = [root + suffix for root in roots]
  spare = {root + other: 'the other copies of the weights' for root in roots}
  for root in others:
    spare |= dict.fromkeys((root, f'{root}_ema'), 'other parts of the model')
  rows: dict[tuple[str, ...], Row] = {}
  passed: dict[str, int] = {}
  problems = []
  for name, value in variables.items():
    bare = name.removesuffix(_SUFFIX)
    root, _, rest = bare.removeprefix(_PREFIX).partition('/')
    what = _beside(bare) or spare.get(root)
    if what:
      passed[what] = passed.get(what, 0) + 1
      continue
    path = None
    if root in expected:
      path = our_path(f'{root.removesuffix(suffix)}/{rest}')
    if path is None or path in rows:
      problems.append(f'extra: {name}')
    else:
      rows[path] = Row(name, path, tuple(value.shape))
  if target is not None:
    problems += _differences(rows, target)
  if problems:
    copies = 'averaged' if ema else 'raw'
    raise ValueError(
      f'{len(problems)} of the {copies} variables do not fit the model; check '
      'that model and checkpoint have the same sizes (of a detector only '
      "part='encoder' can be taken):\n  " + '\n  '.join(sorted(problems))
    )
  return Plan(tuple(rows[path] for path in sorted(rows)), passed)


def _beside(name: str) -> str | None:
  """What a name is that belongs to no model, or None."""
  for pattern, what in _BESIDE:
    if pattern.fullmatch(name):
      return what
  return None


def convert(
  variables: Mapping[str, Any],
  target: Mapping[str, Any] | None = None,
  *,
  ema: bool = False,
  part: str = 'all',
) -> dict[str, dict[str, Any]]:
  """The original's variables as our tree of NumPy arrays; see `plan`."""
  return plan(variables, target, ema=ema, part=part).tree(variables)


def _differences(rows, target) -> list[str]:
  expected = traverse_util.flatten_dict(dict(target))
  problems = [
    f'missing: {their_name(path) or "/".join(path)}'
    for path in expected.keys() - rows.keys()
  ]
  problems += [
    f'extra: {their_name(path)}' for path in rows.keys() - expected.keys()
  ]
  problems += [
    f'misshapen: {their_name(path)} is {rows[path].shape}, the model has '
    f'{tuple(expected[path].shape)}'
    for path in rows.keys() & expected.keys()
    if rows[path].shape != tuple(expected[path].shape)
  ]
  return problems
