"""Pix2Seq-D on microscopy nuclei: real files in COCO panoptic layout.

  python -m pix2seqd_jax.run --config configs/pix2seq_d_nuclei.py \
    --workdir runs/nuclei --mode train --config.data.root=../shared/data/nuclei

Variants: `:gpu` (256 x 256 images, 128 x 128 masks, bf16, one GPU),
`:smoke` (seconds, for tests). Expected: see benchmarks/RESULTS.md.
"""

from ml_collections import ConfigDict

from configs import common
from pix2seqd_jax.experiment import schema

VARIANTS = ('gpu', 'smoke')


def get_config(arg: str | None = None) -> ConfigDict:
  chosen = common.variants(arg, VARIANTS)
  gpu = 'gpu' in chosen
  config = ConfigDict()
  config.seed = 0

  config.data = ConfigDict(
    {
      'name': 'coco_panoptic',
      'root': '../shared/data/nuclei',
      'source': {},
      'train': {
        'images': 'train',
        'panoptic': 'panoptic_train',
        'annotations': 'annotations/panoptic_train.json',
      },
      'eval': {
        'images': 'val',
        'panoptic': 'panoptic_val',
        'annotations': 'annotations/panoptic_val.json',
      },
      'num_classes': 2,
      'num_ids': 256,
      'image_size': (256, 256) if gpu else (128, 128),
      'mask_size': (128, 128) if gpu else (64, 64),
      'id_order': 'grid',  # a hundred cells cannot be counted in passing
      'name_stuff': True,
      'encode': 'device',
      'train_transforms': (
        ('scale_jitter', {'scale': (0.8, 1.6)}),
        ('fixed_size_crop', {'independent': True}),
        ('random_flip', {}),
        ('color_jitter', {'strength': 0.5}),
        ('pad', {}),
      ),
      'eval_transforms': (('resize_to_fit', {}), ('pad', {})),
      'batch_size': 32 if gpu else 8,
      'num_threads': 16 if gpu else 2,
    }
  )

  config.model = ConfigDict(
    {
      'name': 'pix2seq_d',
      'encoder': {
        'width_multiplier': 1.0 if gpu else 0.25,
        'blocks': (3, 4, 6) if gpu else (1, 1, 1),
        'dim': 256 if gpu else 128,
        'num_layers': 4 if gpu else 2,
        'num_heads': 8 if gpu else 4,
        'mlp_dim': 1024 if gpu else 256,
        'dropout': 0.1 if gpu else 0.0,
        'drop_path': 0.1 if gpu else 0.0,
      },
      'merge': {'out_dim': 128 if gpu else 64},
      'denoiser': {
        'dim': 64 if gpu else 32,
        'multipliers': (1, 1, 2, 2) if gpu else (1, 2, 2),
        'num_res_blocks': (1, 1, 1, 1) if gpu else (1, 1, 1),
        'transformer_dim': 256 if gpu else 128,
        'transformer_blocks': 4 if gpu else 2,
        'head_dim': 32,
        'time_scaling': 1000.0,
      },
      'schedule': ('cosine', {}),
      'class_bits': 2,
      'instance_bits': 8,
      'bits_kind': 'binary',
      'scale': 0.3 if gpu else 0.5,
      'conditional': 'cat+attn',
      'loss_kind': 'softmax',
      'loss_weight': 0.2,
      'mask_impossible': False,
      'self_condition_rate': 0.0,
      'dtype': 'bfloat16' if gpu else 'float32',
      'remat': False,
    }
  )
  config.task = ConfigDict(
    {
      'name': 'panoptic',
      'min_pixels': 20,
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
    1e-3 if gpu else 2e-3, warmup_steps=200, ema_decay=0.998, weight_decay=0.01
  )
  config.train = ConfigDict(
    {
      'steps': 20_000 if gpu else 3000,
      'log_every': 50,
      'save_every': 500,
      'eval_every': 1000,
      'keep': 2,
      'best_metric': 'pq_things',
      'num_panels': 8,
    }
  )
  config.eval = ConfigDict(
    {'batch_size': 32 if gpu else 16, 'num_examples': 0, 'use_ema': True}
  )

  config.mesh = (('data', -1), ('fsdp', 1), ('tensor', 1))
  config.shard_rules = common.single_device_rules()
  config.init_from = ()
  config = schema.complete(config)
  return common.smoke(config) if 'smoke' in chosen else config
