"""An autoencoder of microscopy images, for LDMSeg on nuclei: real files.

  python -m pix2seqd_jax.run --config configs/image_autoencoder_nuclei.py \
    --workdir runs/nuclei_images --mode train \
    --config.data.root=../shared/data/nuclei

Latents of 32 x 32 x 4 of images of 128 x 128. Scored at that size.

Variants: `:gpu` (256 x 256 images, a wider network, one GPU), `:smoke`
(seconds, for tests).
"""

from ml_collections import ConfigDict

from configs import common, image_autoencoder_shapes, pix2seq_d_nuclei

VARIANTS = ('gpu', 'smoke')


def get_config(arg: str | None = None) -> ConfigDict:
  chosen = common.variants(arg, VARIANTS)
  gpu = 'gpu' in chosen
  config = image_autoencoder_shapes.get_config()
  config.data = pix2seq_d_nuclei.get_config('gpu' if gpu else None).data
  config.data.batch_size = 32 if gpu else 8
  if gpu:
    config.model.network.update(
      {
        'block_out_channels': (64, 128, 256),
        'layers_per_block': 2,
        'groups': 32,
      }
    )
    config.model.dtype = 'bfloat16'
    config.optimizer.update({'learning_rate': 4e-4, 'ema_decay': 0.998})
    config.train.update(
      {'steps': 10_000, 'save_every': 1000, 'eval_every': 1000}
    )
  config.eval.batch_size = 32 if gpu else 16
  if 'smoke' not in chosen:
    return config
  config.data.image_size = (64, 64)
  return image_autoencoder_shapes.smoke(config)
