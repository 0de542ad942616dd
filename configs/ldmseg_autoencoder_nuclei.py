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

from configs import common, ldmseg_common
from pix2seqd_jax.experiment import schema

VARIANTS = ('gpu', 'smoke')


def get_config(arg: str | None = None) -> ConfigDict:
  chosen = common.variants(arg, VARIANTS)
  gpu = 'gpu' in chosen
  config = ConfigDict()
  config.seed = 0

  config.data = ldmseg_common.nuclei(gpu, 'random')
  config.model = ldmseg_common.nuclei_stage_1(gpu)
  config.task = ldmseg_common.task('instance')
  config.sample = ldmseg_common.sample(steps=1)
  config.optimizer = ldmseg_common.adamw_1(
    learning_rate=1e-4 if gpu else 1e-3, schedule='linear'
  )
  config.train = ldmseg_common.train(20_000 if gpu else 3000, every=1000)
  config.eval = common.evaluation(batch_size=16, use_ema=False)

  config.mesh = common.MESH
  config.shard_rules = ()
  config.init_from = ()
  config = schema.complete(config)
  return ldmseg_common.smoke(config) if 'smoke' in chosen else config
