r"""LDMSeg's stage 1 on Cityscapes panoptic: the released network.

  python -m pix2seqd_jax.run --mode train \
    --workdir runs/ldmseg_autoencoder_cityscapes \
    --config configs/ldmseg_autoencoder_cityscapes.py \
    --config.data.root=/data/cityscapes

512 x 1024 masks, latents of 64 x 128. The network has no place for a size, so
it may go on from COCO's, and COCO's may do as it is:

  --config.init_from="(('runs/ldmseg_autoencoder','','','exact'),)"

Variants: `:smoke` (seconds, for tests). No number of ours: it was not trained
here. Steps and batch are a guess (the paper's for COCO, as many masks as 100
epochs have); the release names Cityscapes and cannot read it.

Under the root: see configs/pix2seq_d_cityscapes.py.
"""

from ml_collections import ConfigDict

from configs import common, ldmseg_common
from pix2seqd_jax.experiment import schema

VARIANTS = ('smoke',)
EPOCHS, BATCH_SIZE = 100, 16


def get_config(arg: str | None = None) -> ConfigDict:
  chosen = common.variants(arg, VARIANTS)
  config = ConfigDict()
  config.seed = 0

  config.data = ldmseg_common.cityscapes(BATCH_SIZE)
  config.model = ldmseg_common.stage_1(ldmseg_common.shallow())
  config.task = ldmseg_common.task('instance')
  config.sample = ldmseg_common.sample(steps=1)
  config.optimizer = ldmseg_common.adamw_1()
  config.train = ldmseg_common.train(
    common.CITYSCAPES_TRAIN_EXAMPLES * EPOCHS // BATCH_SIZE + 1, every=2000
  )
  config.eval = common.evaluation(batch_size=8, use_ema=False)

  config.mesh = common.MESH
  config.shard_rules = ()
  config.init_from = ()
  config = schema.complete(config)
  return ldmseg_common.smoke(config) if 'smoke' in chosen else config
