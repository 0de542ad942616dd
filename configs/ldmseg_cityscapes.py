r"""LDMSeg's stage 2 on Cityscapes panoptic, from Stable Diffusion or from COCO.

  python -m pix2seqd_jax.run --mode train --workdir runs/ldmseg_cityscapes \
    --config configs/ldmseg_cityscapes.py --config.data.root=/data/cityscapes

after configs/ldmseg_autoencoder_cityscapes.py, and with Stable Diffusion in
runs/sd (see configs/ldmseg_coco.py). To go on from COCO's model instead, all
of it and its stage 1:

  --config.init_from="(('runs/ldmseg','','','exact'), \
    ('runs/ldmseg','frozen','frozen','exact'))"

Images and masks of 512 x 1024, latents of 64 x 128. Variants: `:complete`
(evaluates inpainting: half of the blocks of 32 pixels are taken away),
`:smoke` (seconds, for tests).

No number of ours: it was not trained here, and the paper has none. Steps,
batch and averaged weights are a guess; all else is the release's for COCO.
"""

from ml_collections import ConfigDict

from configs import common, ldmseg_common
from pix2seqd_jax.experiment import schema

VARIANTS = ('complete', 'smoke')
STAGE_1 = 'runs/ldmseg_autoencoder_cityscapes'
STABLE_DIFFUSION = 'runs/sd'


def get_config(arg: str | None = None) -> ConfigDict:
  chosen = common.variants(arg, VARIANTS)
  config = ConfigDict()
  config.seed = 0

  config.data = ldmseg_common.cityscapes(batch_size=32)
  config.model = ldmseg_common.stage_2(
    ldmseg_common.stage_1(ldmseg_common.shallow()), classifier={}
  )
  config.task = ldmseg_common.task(complete=32 if 'complete' in chosen else 0)
  config.sample = ldmseg_common.sample(steps=50)
  config.optimizer = ldmseg_common.adamw_2(ema_decay=0.999)
  config.train = ldmseg_common.train(40_000, every=2000)
  config.eval = common.evaluation(batch_size=8)

  config.mesh = common.MESH
  config.shard_rules = (('kernel$', 'fsdp'),)
  config.init_from = ldmseg_common.start(
    STAGE_1, STABLE_DIFFUSION, STABLE_DIFFUSION
  )
  config = schema.complete(config)
  return ldmseg_common.smoke(config) if 'smoke' in chosen else config
