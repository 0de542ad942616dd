"""LDMSeg's stage 1 on microscopy nuclei: an autoencoder of masks, 2 cores.

  python -m pix2seqd_jax.run --config configs/ldmseg_autoencoder_nuclei.py \
    --workdir runs/ldmseg_autoencoder_nuclei --mode train \
    --config.data.root=../shared/data/nuclei

128 x 128 masks of up to 255 ids (8 bits), latents of a quarter of the side:
cells are small. Variants: `:gpu` (the release's network, 512 x 512 crops,
latents of an eighth), `:smoke` (seconds, for tests).

No number of ours yet. Everything but the losses and the network of `:gpu` is a
guess: the paper has no such data.
"""

from ml_collections import ConfigDict

from configs import common, ldmseg_common, pix2seq_d_nuclei
from pix2seqd_jax.experiment import schema

VARIANTS = ('gpu', 'smoke')


def get_config(arg: str | None = None) -> ConfigDict:
  chosen = common.variants(arg, VARIANTS)
  gpu = 'gpu' in chosen
  config = ConfigDict()
  config.seed = 0
  config.data = data(gpu, 'random')
  config.model = ldmseg_common.stage_1(
    ldmseg_common.shallow() if gpu else small(),
    points={
      'num_points': 12_544 if gpu else 1024,
      'oversample': 3,
      'importance': 0.75,
    },
    max_segments=0 if gpu else 96,
    thresholds={'mask': 0.5, 'overlap': 0.5, 'min_pixels': 20},
  )
  config.task = ldmseg_common.task('instance')
  config.sample = ldmseg_common.sample(steps=1)
  config.optimizer = ldmseg_common.adamw_1(
    learning_rate=1e-4 if gpu else 1e-3, schedule='linear'
  )
  config.train = ldmseg_common.train(20_000 if gpu else 3000, every=1000)
  config.eval = ConfigDict(
    {'batch_size': 16, 'num_examples': 0, 'use_ema': False}
  )
  ldmseg_common.devices(config)
  config.init_from = ()
  config = schema.complete(config)
  return ldmseg_common.smoke(config) if 'smoke' in chosen else config


def data(gpu: bool, id_order: str) -> ConfigDict:
  """Crops at any scale near that of the image; masks at full size."""
  found = pix2seq_d_nuclei.get_config('gpu' if gpu else None).data
  side = (512, 512) if gpu else (128, 128)
  found.update(
    {
      'image_size': side,
      'mask_size': side,
      'id_order': id_order,
      'name_stuff': id_order != 'random',
      'batch_size': 16 if gpu else 8,
    }
  )
  return found


def small() -> dict:
  """Latents of a quarter of the side."""
  return {
    'widths': (16, 32, 64),
    'hidden': 64,
    'latent_channels': 4,
    'num_upscalers': 2,
    'upscale_channels': 64,
    'groups': 16,
  }
