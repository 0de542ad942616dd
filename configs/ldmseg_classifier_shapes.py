"""LDMSeg's class head on generated scenes, 2 cores, minutes.

  python -m pix2seqd_jax.run --config configs/ldmseg_classifier_shapes.py \
    --workdir runs/ldmseg_classifier --mode train

after the runs that configs/ldmseg_shapes.py starts from, the same two. It
evaluates the head alone: classes of true masks, so that PQ is the fraction of
segments that get the right class. LDMSeg takes it by its model.classifier.

Variants: `:scratch` (no weights of other runs), `:smoke` (seconds, for tests).
Expected: class-aware PQ of true masks; see docs/results.md.
"""

from ml_collections import ConfigDict

from configs import common, image_autoencoder_common, ldmseg_common
from pix2seqd_jax.experiment import schema

VARIANTS = ('scratch', 'smoke')


def get_config(arg: str | None = None) -> ConfigDict:
  chosen = common.variants(arg, VARIANTS)
  config = ConfigDict()
  config.seed = 0

  # Random ids: the head must heed none of them.
  config.data = common.shapes(
    id_order='random', name_stuff=False, batch_size=16
  )
  config.model = ldmseg_common.mask_classifier(
    ldmseg_common.shapes_classifier(),
    ldmseg_common.shapes_stage_1(),
    image_autoencoder=image_autoencoder_common.small(),
  )
  config.task = common.panoptic(min_pixels=0, given=('instance',))
  config.sample = common.sample(steps=1)
  config.optimizer = ldmseg_common.adamw_2(
    learning_rate=2e-3, warmup_steps=50, freeze=(), ema_decay=0.99
  )
  config.train = common.train(
    800, save_every=400, eval_every=400, best_metric='pq'
  )
  config.eval = common.evaluation(batch_size=32)

  config.mesh = common.MESH
  config.shard_rules = ()
  config.init_from = ldmseg_common.start_from_trained(
    'runs/ldmseg_autoencoder', 'runs/image_autoencoder'
  )
  if 'scratch' in chosen:
    config.init_from = ()
  config = schema.complete(config)
  return ldmseg_common.smoke_shapes(config) if 'smoke' in chosen else config
