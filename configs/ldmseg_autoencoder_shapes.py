"""LDMSeg's stage 1 on generated scenes: an autoencoder of masks, 2 cores.

  python -m pix2seqd_jax.run --config configs/ldmseg_autoencoder_shapes.py \
    --workdir runs/ldmseg_autoencoder --mode train

Variants: `:smoke` (seconds, for tests). Expected: class-agnostic PQ of masks
that went through the autoencoder; see benchmarks/RESULTS.md.
"""

from ml_collections import ConfigDict

from configs import common, pix2seq_d_shapes
from pix2seqd_jax.experiment import schema

VARIANTS = ('smoke',)


def get_config(arg: str | None = None) -> ConfigDict:
  chosen = common.variants(arg, VARIANTS)
  config = ConfigDict()
  config.seed = 0

  config.data = pix2seq_d_shapes.get_config().data
  config.data.update(
    {
      'mask_size': (64, 64),
      'id_order': 'random',
      'name_stuff': False,
      'batch_size': 16,
    }
  )

  config.model = ConfigDict(
    {
      'name': 'mask_autoencoder',
      'kind': 'shallow',
      'network': {
        'widths': (16, 32, 64),  # latents of a quarter of the side
        'hidden': 64,
        'latent_channels': 4,
        'num_upscalers': 2,
        'upscale_channels': 64,
        'groups': 16,
      },
      'mask_encoding': 'bits',
      'ce_weight': 1.0,
      'mask_weight': 1.0,
      'kl_weight': 0.0,
      'points': {'num_points': 392, 'oversample': 3, 'importance': 0.75},
      'max_segments': 8,  # of a scene: at most 4 things and 3 kinds of stuff
      'corruption': 0.0,
      'corrupt_targets': True,
      'thresholds': {'mask': 0.5, 'overlap': 0.5, 'min_pixels': 8},
      'dtype': 'float32',
    }
  )
  config.task = ConfigDict(
    {
      'name': 'panoptic',
      'min_pixels': 0,
      'merge_stuff': False,
      'split_things': False,
      'class_agnostic': True,
      'given': ('instance',),
    }
  )
  config.sample = ConfigDict(
    {'steps': 1, 'td': 0.0, 'sampler': 'ddim', 'sampler_args': {}, 'seed': 0}
  )
  config.optimizer = common.adamw(
    2e-3,
    name='torch_adamw',
    schedule='linear',
    end_factor=0.02,
    warmup_steps=50,
    weight_decay=0.05,
    clip_norm=3.0,
    ema_decay=0.0,
  )
  config.train = ConfigDict(
    {
      'steps': 4500,
      'log_every': 50,
      'save_every': 500,
      'eval_every': 1500,
      'keep': 2,
      'best_metric': 'pq',
      'num_panels': 8,
    }
  )
  config.eval = ConfigDict(
    {'batch_size': 32, 'num_examples': 0, 'use_ema': False}
  )

  config.mesh = (('data', -1), ('fsdp', 1), ('tensor', 1))
  config.shard_rules = common.single_device_rules()
  config.init_from = ()
  config = schema.complete(config)
  return _smoke(config) if 'smoke' in chosen else config


def _smoke(config):
  config.data.update({'batch_size': 8})
  config.model.network.update(
    {'widths': (8, 8, 16), 'hidden': 16, 'upscale_channels': 16, 'groups': 4}
  )
  config.model.points.num_points = 64
  config.optimizer.warmup_steps = 2
  config.train.update(
    {
      'steps': 6,
      'log_every': 2,
      'save_every': 3,
      'eval_every': 6,
      'num_panels': 2,
    }
  )
  config.eval.update({'batch_size': 8, 'num_examples': 12})
  return config
