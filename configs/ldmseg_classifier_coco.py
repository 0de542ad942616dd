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

from configs import common, ldmseg_autoencoder_coco, ldmseg_coco, ldmseg_common
from pix2seqd_jax.experiment import schema

VARIANTS = ('smoke',)


def get_config(arg: str | None = None) -> ConfigDict:
  chosen = common.variants(arg, VARIANTS)
  stage_1 = ldmseg_autoencoder_coco.get_config()
  config = ConfigDict()
  config.seed = 0
  config.data = ldmseg_autoencoder_coco.data(batch_size=64)
  config.model = ConfigDict(
    {
      'name': 'mask_classifier',
      **ldmseg_common.classifier(),
      'image_autoencoder': ldmseg_common.sd_vae(),
      'mask_autoencoder': {
        key: stage_1.model[key] for key in ldmseg_common.STAGE_1_KEYS
      },
      'noise': 0.5,
      'void_weight': 0.0,
      'dtype': 'bfloat16',
    }
  )
  config.task = ldmseg_common.task('instance', classes=True)
  config.sample = ldmseg_common.sample(steps=1)
  config.optimizer = ldmseg_common.adamw_2(freeze=(), ema_decay=0.999)
  config.train = ldmseg_common.train(50_000)
  config.eval = ConfigDict(
    {'batch_size': 16, 'num_examples': 0, 'use_ema': True}
  )
  ldmseg_common.devices(config)
  config.init_from = ldmseg_common.start(
    ldmseg_coco.STAGE_1, ldmseg_coco.STABLE_DIFFUSION
  )
  config = schema.complete(config)
  return ldmseg_common.smoke(config) if 'smoke' in chosen else config
