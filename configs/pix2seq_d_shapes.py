"""Pix2Seq-D on generated scenes: the embedded default, 2 cores, minutes.

  python -m pix2seqd_jax.run --config configs/pix2seq_d_shapes.py \
    --workdir runs/shapes --mode train

Variants: `:random_ids` (the paper's order of ids in place of that of size),
`:hard` (things told apart by shape alone), `:smoke` (seconds, for tests).
Expected: see docs/results.md.
"""

from ml_collections import ConfigDict

from configs import common, pix2seq_d_common
from pix2seqd_jax.experiment import schema

VARIANTS = ('random_ids', 'hard', 'smoke')


def get_config(arg: str | None = None) -> ConfigDict:
  chosen = common.variants(arg, VARIANTS)
  config = ConfigDict()
  config.seed = 0

  config.data = common.shapes(
    mask_size=(32, 32),
    id_order='random' if 'random_ids' in chosen else 'area',
    batch_size=16,
  )
  if 'hard' in chosen:
    config.data.source.hue = 0.0
  config.model = pix2seq_d_common.model(
    pix2seq_d_common.small_nets(),
    class_bits=4,
    instance_bits=4,
    scale=0.5,  # the paper's 0.1 belongs to masks of 128 and more
  )
  config.task = common.panoptic(min_pixels=8)
  config.sample = common.sample(steps=20, td=2.0)
  config.optimizer = common.adamw(
    2e-3, warmup_steps=100, ema_decay=0.995, weight_decay=0.01
  )
  config.train = common.train(
    1600, save_every=500, eval_every=800, best_metric='pq'
  )
  config.eval = common.evaluation(batch_size=32)

  config.mesh = common.MESH
  config.shard_rules = ()
  config.init_from = ()
  config = schema.complete(config)
  return pix2seq_d_common.smoke(config) if 'smoke' in chosen else config
