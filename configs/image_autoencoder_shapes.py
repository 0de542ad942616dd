"""An autoencoder of images of generated scenes, for LDMSeg: 2 cores, minutes.

  python -m pix2seqd_jax.run --config configs/image_autoencoder_shapes.py \
    --workdir runs/image_autoencoder --mode train

Latents of 16 x 16 x 4, the places of configs/ldmseg_autoencoder_shapes.py.
`latent_std` of the log is what LDMSeg's model.image_scale is the inverse of.

Variants: `:masks` (half of what it sees are painted label maps, 16 channels of
latents: the one autoencoder of SemFlow, configs/semflow_shapes.py), `:smoke`
(seconds, for tests). Expected: PSNR of images that went through it, whose
noise alone bounds it at 30.5 dB; see docs/results.md.
"""

from ml_collections import ConfigDict

from configs import common, image_autoencoder_common
from pix2seqd_jax.experiment import schema

VARIANTS = ('masks', 'smoke')


def get_config(arg: str | None = None) -> ConfigDict:
  chosen = common.variants(arg, VARIANTS)
  masks = 'masks' in chosen
  config = ConfigDict()
  config.seed = 0

  config.data = common.shapes(
    mask_size=(64, 64) if masks else (32, 32), batch_size=16 if masks else 8
  )
  if masks:
    config.model = image_autoencoder_common.model(
      image_autoencoder_common.painting(),
      masks={'share': 0.5, **image_autoencoder_common.SHAPES_PAINT},
    )
  else:
    config.model = image_autoencoder_common.model(
      image_autoencoder_common.small()
    )
  config.task = ConfigDict({'name': 'reconstruction'})
  config.sample = common.sample(steps=1)
  config.optimizer = image_autoencoder_common.adamw()
  if masks:
    config.train = common.train(
      450, save_every=225, eval_every=450, best_metric='psnr'
    )
  else:
    config.train = common.train(
      800, save_every=400, eval_every=400, best_metric='psnr'
    )
  config.eval = common.evaluation(batch_size=32)

  config.mesh = common.MESH
  config.shard_rules = ()
  config.init_from = ()
  config = schema.complete(config)
  if 'smoke' not in chosen:
    return config
  return image_autoencoder_common.smoke(config)
