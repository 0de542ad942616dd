"""The autoencoder of CamVid's images and of its painted masks, for SemFlow.

  python -m pix2seqd_jax.run --config configs/image_autoencoder_camvid.py \
    --workdir runs/camvid_autoencoder --mode train \
    --config.data.root=../shared/data/camvid

Half of what it sees are label maps, painted with 3 levels a channel: 27
colours for 11 classes, farther apart than SemFlow's 216, for a small
autoencoder blurs. Latents of 24 x 32 x 16 of images of 96 x 128.

Variants: `:gpu` (192 x 256 images, a wider network, one GPU), `:smoke`
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

  config.data = image_autoencoder_common.camvid(gpu)
  masks = {'share': 0.5, **image_autoencoder_common.CAMVID_PAINT}
  if gpu:
    config.model = image_autoencoder_common.model(
      image_autoencoder_common.wide(latent_channels=16),
      dtype='bfloat16',
      masks=masks,
    )
  else:
    config.model = image_autoencoder_common.model(
      image_autoencoder_common.painting(), masks=masks
    )
  config.task = ConfigDict({'name': 'reconstruction'})
  config.sample = common.sample(steps=1)
  config.optimizer = image_autoencoder_common.adamw(gpu)
  steps = 5000 if gpu else 2000
  config.train = common.train(
    steps, save_every=steps // 2, eval_every=steps // 2, best_metric='psnr'
  )
  config.eval = common.evaluation(batch_size=32 if gpu else 16)

  config.mesh = common.MESH
  config.shard_rules = ()
  config.init_from = ()
  config = schema.complete(config)
  if 'smoke' not in chosen:
    return config
  config.data.update({'image_size': (48, 64), 'mask_size': (48, 64)})
  return image_autoencoder_common.smoke(config)
