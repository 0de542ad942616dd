"""Pix2Seq-D on generated scenes: the embedded default, 2 cores, minutes.

  python -m pix2seqd_jax.run --config configs/pix2seq_d_shapes.py \
    --workdir runs/shapes --mode train

Variants: `:random_ids` (the paper's order of ids in place of that of size),
`:hard` (things told apart by shape alone), `:smoke` (seconds, for tests).
Expected: see benchmarks/RESULTS.md.
"""

from ml_collections import ConfigDict

from configs import common
from pix2seqd_jax.experiment import schema

VARIANTS = ('random_ids', 'hard', 'smoke')


def get_config(arg: str | None = None) -> ConfigDict:
  chosen = common.variants(arg, VARIANTS)
  config = ConfigDict()
  config.seed = 0

  config.data = ConfigDict(
    {
      'name': 'shapes',
      'root': '',
      'source': {
        'size': (64, 64),
        'things': ('circle', 'square', 'triangle', 'star'),
        'num_things': (1, 4),
        'thing_size': (0.3, 0.55),
        'hue': 0.8,
        'occlusion': 0.4,
      },
      'train': {'split': 'train', 'num_examples': 100_000},
      'eval': {'split': 'eval', 'num_examples': 256},
      'num_classes': 7,
      'num_ids': 16,
      'image_size': (64, 64),
      'mask_size': (32, 32),
      'id_order': 'random' if 'random_ids' in chosen else 'area',
      'name_stuff': True,
      'encode': 'device',
      'train_transforms': (('random_flip', {}), ('pad', {})),
      'eval_transforms': (('resize_to_fit', {}), ('pad', {})),
      'batch_size': 16,
      'num_threads': 2,
    }
  )
  if 'hard' in chosen:
    config.data.source.hue = 0.0

  config.model = ConfigDict(
    {
      'name': 'pix2seq_d',
      'encoder': {
        'width_multiplier': 0.25,
        'blocks': (1, 1, 1),
        'dim': 128,
        'num_layers': 2,
        'num_heads': 4,
        'mlp_dim': 256,
        'dropout': 0.0,
        'drop_path': 0.0,
      },
      'merge': {'out_dim': 64},
      'denoiser': {
        'dim': 32,
        'multipliers': (1, 2, 2),
        'num_res_blocks': (1, 1, 1),
        'transformer_dim': 128,
        'transformer_blocks': 2,
        'head_dim': 32,
        'time_scaling': 1000.0,
      },
      'schedule': ('cosine', {}),
      'class_bits': 4,
      'instance_bits': 4,
      'bits_kind': 'binary',
      'scale': 0.5,  # the paper's 0.1 belongs to masks of 128 and more
      'conditional': 'cat+attn',
      'loss_kind': 'softmax',
      'loss_weight': 0.2,
      'mask_impossible': False,
      'self_condition_rate': 0.0,
      'dtype': 'float32',
      'remat': False,
    }
  )
  config.task = ConfigDict(
    {
      'name': 'panoptic',
      'min_pixels': 8,
      'merge_stuff': True,
      'split_things': False,
    }
  )
  config.sample = ConfigDict(
    {
      'steps': 20,
      'td': 2.0,
      'sampler': 'ddim',
      'sampler_args': {},
      'seed': 0,
    }
  )
  config.optimizer = common.adamw(
    2e-3, warmup_steps=100, ema_decay=0.995, weight_decay=0.01
  )
  config.train = ConfigDict(
    {
      'steps': 1600,
      'log_every': 50,
      'save_every': 500,
      'eval_every': 800,
      'keep': 2,
      'best_metric': 'pq',
      'num_panels': 8,
    }
  )
  config.eval = ConfigDict(
    {'batch_size': 32, 'num_examples': 0, 'use_ema': True}
  )

  config.mesh = (('data', -1), ('fsdp', 1), ('tensor', 1))
  config.shard_rules = common.single_device_rules()
  config.init_from = ()
  config = schema.complete(config)
  return common.smoke(config) if 'smoke' in chosen else config
