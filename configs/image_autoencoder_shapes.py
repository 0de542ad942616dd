"""An autoencoder of images of generated scenes, for LDMSeg: 2 cores, minutes.

  python -m pix2seqd_jax.run --config configs/image_autoencoder_shapes.py \
    --workdir runs/image_autoencoder --mode train

Latents of 16 x 16 x 4, the places of configs/ldmseg_autoencoder_shapes.py.
`latent_std` of the log is what LDMSeg's model.image_scale is the inverse of.

Variants: `:masks` (half of what it sees are painted label maps, 16 channels of
latents: the one autoencoder of SemFlow, configs/semflow_shapes.py), `:smoke`
(seconds, for tests). Expected: PSNR of images that went through it, whose
noise alone bounds it at 30.5 dB; see benchmarks/RESULTS.md.
"""

from ml_collections import ConfigDict

from configs import common, pix2seq_d_shapes
from pix2seqd_jax.experiment import schema

VARIANTS = ('masks', 'smoke')


def get_config(arg: str | None = None) -> ConfigDict:
  chosen = common.variants(arg, VARIANTS)
  config = ConfigDict()
  config.seed = 0

  config.data = pix2seq_d_shapes.get_config().data
  config.data.batch_size = 8

  config.model = ConfigDict(
    {
      'name': 'image_autoencoder',
      'network': {
        'block_out_channels': (8, 16, 32),  # a quarter of the side
        'layers_per_block': 1,
        'latent_channels': 4,
        'groups': 4,
      },
      'loss': 'l1',
      'kl_weight': 1e-6,
      'lpips_weight': 0.0,
      'dtype': 'float32',
    }
  )
  config.task = ConfigDict({'name': 'reconstruction'})
  config.sample = ConfigDict(
    {'steps': 1, 'td': 0.0, 'sampler': 'ddim', 'sampler_args': {}, 'seed': 0}
  )
  config.optimizer = common.adamw(
    2e-3, warmup_steps=50, ema_decay=0.99, weight_decay=0.01
  )
  config.train = ConfigDict(
    {
      'steps': 800,
      'log_every': 50,
      'save_every': 400,
      'eval_every': 400,
      'keep': 2,
      'best_metric': 'psnr',
      'num_panels': 8,
    }
  )
  config.eval = ConfigDict(
    {'batch_size': 32, 'num_examples': 0, 'use_ema': True}
  )
  if 'masks' in chosen:
    _paint(config)

  config.mesh = (('data', -1), ('fsdp', 1), ('tensor', 1))
  config.shard_rules = common.single_device_rules()
  config.init_from = ()
  config = schema.complete(config)
  return smoke(config) if 'smoke' in chosen else config


def _paint(config):
  """For SemFlow. Anchors far apart: a small autoencoder blurs; 2 levels of 3
  channels are 8 colours, enough for 7 classes beside white, which is void."""
  config.data.update({'mask_size': config.data.image_size, 'batch_size': 16})
  config.model.network.update(
    # 16 channels: through 4 of them a flow tells classes apart far later.
    {'block_out_channels': (16, 32, 64), 'latent_channels': 16}
  )
  config.train.update({'steps': 450, 'save_every': 225, 'eval_every': 450})
  config.model.masks = {
    'share': 0.5,
    'anchors': {'levels': 2, 'spacing': 250},
    'perturbation': 75.0,  # of at most 125: images of one mask differ by it
  }


def smoke(config: ConfigDict) -> ConfigDict:
  """Any config of an image autoencoder, in seconds: a check, not a result."""
  config.model.network.update(
    {'block_out_channels': (8, 8, 8), 'latent_channels': 4, 'groups': 4}
  )
  config.optimizer.warmup_steps = 2
  config.train.update(
    {
      'steps': 6,
      'log_every': 2,
      'save_every': 3,
      'eval_every': 6,
      'num_panels': 2,
    }
  )
  config.eval.update({'batch_size': 8, 'num_examples': 12})
  return config
