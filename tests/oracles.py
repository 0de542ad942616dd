"""The original's numbers: weights as our trees, and modules of their sizes."""

import json
import pathlib
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from pix2seqd_jax.architectures.pyramid import TopDownMerge
from pix2seqd_jax.architectures.resnet_transformer import Encoder
from pix2seqd_jax.architectures.transunet import TransUNet
from pix2seqd_jax.models.pix2seq_d import Pix2SeqD
from pix2seqd_jax.pretrained import pix2seq_tf


class Modules(NamedTuple):
  """The three networks of Pix2Seq-D, and the sizes that they need."""

  encoder: Encoder
  merge: TopDownMerge
  denoiser: TransUNet
  image_size: tuple[int, int]
  mask_size: tuple[int, int]
  num_bits: int  # of all groups
  num_condition_bits: int  # of past masks

  def shapes(self) -> dict:
    """The tree of parameters, as shapes."""
    return jax.eval_shape(self.init)

  def init(self, seed: int = 0) -> dict:
    """Fresh parameters, {'net': ..., 'stats': ...}."""
    keys = jax.random.split(jax.random.key(seed), 3)
    image = jnp.zeros((1, *self.image_size, 3))
    encoder = self.encoder.init(keys[0], image, train=False)
    hidden, tokens = self.encoder.apply(encoder, image, train=False)
    merge = self.merge.init(keys[1], hidden, tokens, mask_size=self.mask_size)
    merged = self.merge.apply(merge, hidden, tokens, mask_size=self.mask_size)
    channels = self.num_bits + self.num_condition_bits + merged.shape[-1]
    denoiser = self.denoiser.init(
      keys[2], jnp.zeros((1, *self.mask_size, channels)), jnp.ones(1), tokens
    )
    return {
      'net': {
        'encoder': encoder['params'],
        'merge': merge['params'],
        'denoiser': denoiser['params'],
      },
      'stats': {'encoder': encoder['batch_stats']},
    }


def random_variables(module, *inputs, seed: int = 0, **kwargs) -> dict:
  """Variables of a module without compiling its initialisers, which is slow.

  None is zero or nearly so: kernels have variance 1 / fan-in, scales and
  variances are near 1, all else is a tenth of a normal draw.
  """
  shapes = jax.eval_shape(
    lambda: module.init(jax.random.key(0), *inputs, **kwargs)
  )
  rng = np.random.default_rng(seed)

  def draw(path, leaf):
    z = rng.normal(size=leaf.shape)
    name = path[-1].key
    if name == 'kernel':
      z *= np.sqrt(leaf.shape[-1] / np.prod(leaf.shape))
    elif name in ('scale', 'var'):
      z = 1 + 0.1 * np.abs(z)
    else:
      z *= 0.1
    return jnp.asarray(z, leaf.dtype)

  return jax.tree_util.tree_map_with_path(draw, shapes)


def load_npz(path: pathlib.Path) -> dict[str, np.ndarray]:
  """An oracle's arrays by key."""
  with np.load(path) as arrays:
    return {key: arrays[key] for key in arrays.files}


def load_pix2seq(
  shared: pathlib.Path, name: str, kind: str
) -> tuple[dict, dict]:
  """Weights of configuration 'A' or 'B' as our tree, and its config.

  Args:
    shared: the folder that holds `oracles`.
    name: 'A' (image) or 'B' (video; averaged weights only).
    kind: 'raw' or 'ema'.

  Returns:
    ({'net': ..., 'stats': ...}, the original's whole config as a dict).
  """
  folder = shared / 'oracles' / 'pix2seq' / name
  config = json.loads((folder / 'config.json').read_text())
  variables = load_npz(folder / f'weights_{kind}.npz')
  params = pix2seq_tf.convert(
    variables, modules(config).shapes(), ema=kind == 'ema'
  )
  return jax.tree.map(jnp.asarray, params), config


def modules(config: dict, **overrides) -> Modules:
  """The networks of an oracle's config; `overrides` go to all that have them.

  Dropout and DropPath are 0, as in the oracles.
  """
  model, decoder = config['full']['model'], config['full']['decoder']
  task = config['full']['task']
  num_bits = task['n_bits_label']
  num_frames = len(_integers(str(task.get('proceeding_frames', ''))))
  encoder = Encoder(
    dim=model['dim_att'],
    num_layers=model['num_encoder_layers'],
    num_heads=model['num_heads'],
    mlp_dim=model['dim_mlp'],
    width_multiplier=model['resnet_width_multiplier'],
    dropout=model['drop_units'],
    drop_path=model['drop_path'],
  )
  merge = TopDownMerge(out_dim=model['enc_fuse_dim'])
  groups = decoder['outp_softmax_groups']
  denoiser = TransUNet(
    out_channels=groups * 2 ** (num_bits // groups),
    dim=decoder['dim'],
    multipliers=_integers(decoder['ch_multipliers']),
    num_res_blocks=_integers(decoder['n_res_blocks']),
    transformer_dim=decoder['transformer_dim'],
    transformer_blocks=decoder['transformer_blocks'],
    head_dim=decoder['per_head_dim'],
    cross_attention='attn' in model['conditional'],
    time_scaling=model['time_scaling'],
    dropout=decoder['udrop'],
  )
  encoder, merge, denoiser = (
    module.clone(**{k: v for k, v in overrides.items() if hasattr(module, k)})
    for module in (encoder, merge, denoiser)
  )
  return Modules(
    encoder=encoder,
    merge=merge,
    denoiser=denoiser,
    image_size=tuple(model['image_size']),
    mask_size=tuple(model['msize']),
    num_bits=num_bits,
    num_condition_bits=num_frames * num_bits,
  )


def model(config: dict, **changes) -> Pix2SeqD:
  """The model of an oracle's config."""
  nets = modules(config)
  return Pix2SeqD(
    num_classes=133,
    num_ids=101,
    image_size=nets.image_size,
    mask_size=nets.mask_size,
    encoder=nets.encoder,
    merge=nets.merge,
    denoiser=nets.denoiser,
    **changes,
  )


def _integers(text: str) -> tuple[int, ...]:
  return tuple(int(number) for number in text.split(',') if number)
