r"""LDMSeg's stage 1 on COCO panoptic 2017: the released autoencoder of masks.

  python -m pix2seqd_jax.run --mode train --workdir runs/ldmseg_autoencoder \
    --config configs/ldmseg_autoencoder_coco.py --config.data.root=/data/coco

2,023,208 parameters, 66,528 steps of 16 masks (the release: 60,000, up to
whole epochs). Or without a training, by the released weights:

  python -m pix2seqd_jax.pretrained --from ldmseg-autoencoder \
    --checkpoint ae.pt --out runs/ldmseg_autoencoder

Variants: `:sd_vae` (Stable Diffusion's autoencoder instead, fine-tuned; of the
paper's table 1), `:smoke` (shrinks any; seconds, for tests). The first starts
from runs/sd_vae:

  python -m pix2seqd_jax.pretrained --from sd15 --part vae \
    --checkpoint stable-diffusion-v1-4/vae --out runs/sd_vae

Expected, class-agnostic PQ of masks that went through it: about 90, by a
second-hand summary of the paper (methods sheet, source P2). No number of ours:
it was not trained here.

Departures: float32 arithmetic (the release: float16); crowd is void in
evaluation as it is in training; the ids of evaluated masks follow from the
seed. Steps, batch and rate of `:sd_vae` are a guess: the same.

Under the root: see configs/pix2seq_d_coco.py.
"""

from ml_collections import ConfigDict

from configs import common, ldmseg_common
from pix2seqd_jax.experiment import schema

VARIANTS = ('sd_vae', 'smoke')
SD_VAE = 'runs/sd_vae'


def get_config(arg: str | None = None) -> ConfigDict:
  chosen = common.variants(arg, VARIANTS)
  config = ConfigDict()
  config.seed = 0

  config.data = ldmseg_common.coco(batch_size=16)
  if 'sd_vae' in chosen:
    config.model = ldmseg_common.stage_1(ldmseg_common.sd_vae(), kind='sd_vae')
  else:
    config.model = ldmseg_common.stage_1(ldmseg_common.shallow())
  config.task = ldmseg_common.task('instance')
  config.sample = ldmseg_common.sample(steps=1)
  config.optimizer = ldmseg_common.adamw_1()
  config.train = ldmseg_common.train(66_528)
  config.eval = common.evaluation(batch_size=16, use_ema=False)

  config.mesh = common.MESH
  config.shard_rules = ()
  config.init_from = _sd_vae_init() if 'sd_vae' in chosen else ()
  config = schema.complete(config)
  return ldmseg_common.smoke(config) if 'smoke' in chosen else config


def _sd_vae_init() -> tuple:
  """Everything but the last layer, which made images and is made anew.

  The first layer gets zeros for the channels that an image lacks.
  """
  both = ('conv_in', 'mid_block', 'conv_norm_out')
  parts = (
    *(f'{half}/{name}' for half in ('encoder', 'decoder') for name in both),
    *(f'encoder/down_blocks_{i}' for i in range(4)),
    *(f'decoder/up_blocks_{i}' for i in range(4)),
    *('encoder/conv_out', 'quant_conv', 'post_quant_conv'),
  )
  return tuple(
    (SD_VAE, f'net/vae/{part}', f'net/autoencoder/{part}', 'grow')
    for part in parts
  )
