"""LDMSeg's stage 1 on generated scenes: an autoencoder of masks, 2 cores.

  python -m pix2seqd_jax.run --config configs/ldmseg_autoencoder_shapes.py \
    --workdir runs/ldmseg_autoencoder --mode train

Variants: `:smoke` (seconds, for tests). Expected: class-agnostic PQ of masks
that went through the autoencoder; see docs/results.md.
"""

from ml_collections import ConfigDict

from configs import common, ldmseg_common
from pix2seqd_jax.experiment import schema

VARIANTS = ('smoke',)


def get_config(arg: str | None = None) -> ConfigDict:
  chosen = common.variants(arg, VARIANTS)
  config = ConfigDict()
  config.seed = 0

  config.data = common.shapes(
    id_order='random', name_stuff=False, batch_size=16
  )
  config.model = ldmseg_common.shapes_stage_1()
  config.task = ldmseg_common.task('instance')
  config.sample = common.sample(steps=1)
  config.optimizer = ldmseg_common.adamw_1(
    learning_rate=2e-3, schedule='linear', end_factor=0.02, warmup_steps=50
  )
  config.train = common.train(
    4500, save_every=500, eval_every=1500, best_metric='pq'
  )
  config.eval = common.evaluation(batch_size=32, use_ema=False)

  config.mesh = common.MESH
  config.shard_rules = ()
  config.init_from = ()
  config = schema.complete(config)
  return ldmseg_common.smoke_shapes(config) if 'smoke' in chosen else config
