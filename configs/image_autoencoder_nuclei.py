"""An autoencoder of microscopy images, for LDMSeg on nuclei: real files.

  python -m pix2seqd_jax.run --config configs/image_autoencoder_nuclei.py \
    --workdir runs/nuclei_images --mode train \
    --config.data.root=../shared/data/nuclei

Latents of 32 x 32 x 4 of images of 128 x 128. Scored at that size.

Variants: `:gpu` (256 x 256 images, a wider network, one GPU), `:smoke`
(seconds, for tests).
"""

from ml_collections import ConfigDict

from configs import common, image_autoencoder_common
from pix2seqd_jax.experiment import schema

VARIANTS = ('gpu', 'smoke')


def get_config(arg: str | None = None) -> ConfigDict:
  chosen = common.variants(arg, VARIANTS)
  gpu = 'gpu' in chosen
  config = ConfigDict()
  config.seed = 0

  config.data = common.nuclei(gpu, batch_size=32 if gpu else 8)
  if gpu:
    config.model = image_autoencoder_common.model(
      image_autoencoder_common.wide(latent_channels=4), dtype='bfloat16'
    )
  else:
    config.model = image_autoencoder_common.model(
      image_autoencoder_common.small()
    )
  config.task = ConfigDict({'name': 'reconstruction'})
  config.sample = common.sample(steps=1)
  config.optimizer = image_autoencoder_common.adamw(gpu)
  every = 1000 if gpu else 400
  config.train = common.train(
    10_000 if gpu else 800,
    save_every=every,
    eval_every=every,
    best_metric='psnr',
  )
  config.eval = common.evaluation(batch_size=32 if gpu else 16)

  config.mesh = common.MESH
  config.shard_rules = ()
  config.init_from = ()
  config = schema.complete(config)
  if 'smoke' not in chosen:
    return config
  config.data.image_size = (64, 64)
  return image_autoencoder_common.smoke(config)
