"""Pix2Seq-D on microscopy nuclei: real files in COCO panoptic layout.

  python -m pix2seqd_jax.run --config configs/pix2seq_d_nuclei.py \
    --workdir runs/nuclei --mode train --config.data.root=../shared/data/nuclei

Variants: `:gpu` (256 x 256 images, 128 x 128 masks, bf16, one GPU),
`:smoke` (seconds, for tests). Expected: see docs/results.md.
"""

from ml_collections import ConfigDict

from configs import common, pix2seq_d_common
from pix2seqd_jax.experiment import schema

VARIANTS = ('gpu', 'smoke')


def get_config(arg: str | None = None) -> ConfigDict:
  chosen = common.variants(arg, VARIANTS)
  gpu = 'gpu' in chosen
  config = ConfigDict()
  config.seed = 0

  config.data = common.nuclei(gpu)
  config.model = pix2seq_d_common.model(
    _gpu_nets() if gpu else pix2seq_d_common.small_nets(),
    class_bits=2,
    instance_bits=8,
    scale=0.3 if gpu else 0.5,
    dtype='bfloat16' if gpu else 'float32',
  )
  config.task = common.panoptic(min_pixels=20)
  config.sample = common.sample(steps=20, td=2.0)
  config.optimizer = common.adamw(
    1e-3 if gpu else 2e-3, warmup_steps=200, ema_decay=0.998, weight_decay=0.01
  )
  config.train = common.train(
    20_000 if gpu else 3000,
    save_every=500,
    eval_every=1000,
    best_metric='pq_things',
  )
  config.eval = common.evaluation(batch_size=32 if gpu else 16)

  config.mesh = common.MESH
  config.shard_rules = ()
  config.init_from = ()
  config = schema.complete(config)
  return pix2seq_d_common.smoke(config) if 'smoke' in chosen else config


def _gpu_nets() -> dict:
  return {
    'encoder': {
      'width_multiplier': 1.0,
      'blocks': (3, 4, 6),
      'dim': 256,
      'num_layers': 4,
      'num_heads': 8,
      'mlp_dim': 1024,
      'dropout': 0.1,
      'drop_path': 0.1,
    },
    'merge': {'out_dim': 128},
    'denoiser': {
      'dim': 64,
      'multipliers': (1, 1, 2, 2),
      'num_res_blocks': (1, 1, 1, 1),
      'transformer_dim': 256,
      'transformer_blocks': 4,
      'head_dim': 32,
      'time_scaling': 1000.0,
    },
  }
