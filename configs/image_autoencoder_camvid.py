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

from configs import common, image_autoencoder_shapes, pix2seq_d_camvid

VARIANTS = ('gpu', 'smoke')


def get_config(arg: str | None = None) -> ConfigDict:
  chosen = common.variants(arg, VARIANTS)
  gpu = 'gpu' in chosen
  config = image_autoencoder_shapes.get_config('masks')
  config.data = data(gpu)
  config.data.batch_size = 32 if gpu else 8
  config.model.masks.update(
    {'anchors': {'levels': 3, 'spacing': 120}, 'perturbation': 29.0}
  )
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
  steps = 5000 if gpu else 2000
  config.train.update(
    {'steps': steps, 'save_every': steps // 2, 'eval_every': steps // 2}
  )
  config.eval.batch_size = 32 if gpu else 16
  if 'smoke' not in chosen:
    return config
  config.data.update({'image_size': (48, 64), 'mask_size': (48, 64)})
  return image_autoencoder_shapes.smoke(config)


def data(gpu: bool = False) -> ConfigDict:
  """CamVid at one size for images and masks: crops, enlarged up to twice."""
  found = pix2seq_d_camvid.get_config().data
  size = (192, 256) if gpu else (96, 128)
  found.update(
    {
      'image_size': size,
      'mask_size': size,
      'num_threads': 8 if gpu else 2,
      'train_transforms': (
        ('scale_jitter', {'scale': (1.0, 2.0)}),
        ('fixed_size_crop', {'independent': True}),
        ('random_flip', {}),
        ('pad', {}),
      ),
    }
  )
  return found
