r"""LDMSeg's class head on COCO panoptic 2017, for ldmseg_coco.py:classes.

  python -m pix2seqd_jax.run --mode train --workdir runs/ldmseg_classifier \
    --config configs/ldmseg_classifier_coco.py --config.data.root=/data/coco

after stage 1 (configs/ldmseg_autoencoder_coco.py) and with Stable Diffusion in
runs/sd (configs/ldmseg_coco.py). It is trained on true masks, both
autoencoders frozen, and evaluated on them: PQ is then the fraction of segments
that get the right class. A model of stage 2 takes it as it is.

Variants: `:smoke` (seconds, for tests). The paper has 43.3 PQ with classes and
tells of its head no more than that it is a simple one; sizes, rates and steps
here are a guess. No number of ours: it was not trained here.
"""

from ml_collections import ConfigDict

from configs import common, ldmseg_common
from pix2seqd_jax.experiment import schema

VARIANTS = ('smoke',)


def get_config(arg: str | None = None) -> ConfigDict:
  chosen = common.variants(arg, VARIANTS)
  config = ConfigDict()
  config.seed = 0

  config.data = ldmseg_common.coco(batch_size=64)
  config.model = ldmseg_common.mask_classifier(
    ldmseg_common.classifier(),
    ldmseg_common.stage_1(ldmseg_common.shallow()),
    image_autoencoder=ldmseg_common.sd_vae(),
    dtype='bfloat16',
  )
  config.task = ldmseg_common.task('instance', classes=True)
  config.sample = ldmseg_common.sample(steps=1)
  config.optimizer = ldmseg_common.adamw_2(freeze=(), ema_decay=0.999)
  config.train = ldmseg_common.train(50_000)
  config.eval = common.evaluation(batch_size=16)

  config.mesh = common.MESH
  config.shard_rules = ()
  config.init_from = ldmseg_common.start('runs/ldmseg_autoencoder', 'runs/sd')
  config = schema.complete(config)
  return ldmseg_common.smoke(config) if 'smoke' in chosen else config
