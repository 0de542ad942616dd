"""LDMSeg's stage 2 on microscopy nuclei, 2 cores: instances without classes.

  python -m pix2seqd_jax.run --config configs/ldmseg_nuclei.py \
    --workdir runs/ldmseg_nuclei --mode train \
    --config.data.root=../shared/data/nuclei

after configs/ldmseg_autoencoder_nuclei.py and
configs/image_autoencoder_nuclei.py, with their folders in runs/. Cells are
numbered by their place, since a hundred of them cannot be counted in passing,
and the background is id 1.

Variants: `:random_ids` (as in the paper), `:complete` (evaluates inpainting:
half of the blocks of 16 pixels are taken away), `:gpu` (the release's
networks, started from Stable Diffusion, see configs/ldmseg_coco.py, over
`ldmseg_autoencoder_nuclei.py:gpu` in runs/ldmseg_autoencoder_nuclei),
`:smoke` (seconds, for tests).

No number of ours yet. Sizes, steps and rates are a guess from those of
configs/ldmseg_shapes.py; of `:gpu` from the release's.
"""

from ml_collections import ConfigDict

from configs import common, image_autoencoder_common, ldmseg_common
from pix2seqd_jax.experiment import schema

VARIANTS = ('random_ids', 'complete', 'gpu', 'smoke')
STAGE_1 = 'runs/ldmseg_autoencoder_nuclei'
IMAGES = 'runs/nuclei_images'
STABLE_DIFFUSION = 'runs/sd'


def get_config(arg: str | None = None) -> ConfigDict:
  chosen = common.variants(arg, VARIANTS)
  gpu = 'gpu' in chosen
  config = ConfigDict()
  config.seed = 0

  config.data = ldmseg_common.nuclei(
    gpu, 'random' if 'random_ids' in chosen else 'grid'
  )
  config.model = ldmseg_common.stage_2(
    ldmseg_common.nuclei_stage_1(gpu), classifier={}
  )
  if not gpu:
    config.model.update(_small())
  config.task = ldmseg_common.task(complete=16 if 'complete' in chosen else 0)
  config.sample = ldmseg_common.sample(steps=50 if gpu else 20)
  if gpu:
    config.optimizer = ldmseg_common.adamw_2(ema_decay=0.999)
  else:
    config.optimizer = ldmseg_common.adamw_2(
      learning_rate=5e-4, freeze=(), ema_decay=0.998
    )
  config.train = ldmseg_common.train(20_000 if gpu else 4000, every=1000)
  config.eval = common.evaluation(batch_size=16)

  config.mesh = common.MESH
  config.shard_rules = ()
  if gpu:
    config.init_from = ldmseg_common.start(
      STAGE_1, STABLE_DIFFUSION, STABLE_DIFFUSION
    )
  else:
    config.init_from = ldmseg_common.start_from_trained(STAGE_1, IMAGES)
  config = schema.complete(config)
  return ldmseg_common.smoke(config) if 'smoke' in chosen else config


def _small() -> dict:
  """What differs from the release on a small machine."""
  return {
    'unet': ldmseg_common.small_unet(),
    'image_autoencoder': image_autoencoder_common.small(),
    'prediction': 'x0',
    'loss_weight': ('none', {}),
    'loss_mask': 'none',
    'image_scale': 1.0,
    'latent_scale': 0.4,
    'self_condition_rate': 0.5,
    'dtype': 'float32',
    'remat': False,
  }
