"""SemFlow on generated scenes, 2 cores: masks of pictures, pictures of masks.

  bash launch/semflow.sh

trains the small autoencoder and the flow, and evaluates both directions; or
by hand:

  python -m pix2seqd_jax.run --mode train --workdir runs/semflow_autoencoder \
    --config configs/image_autoencoder_shapes.py:masks
  python -m pix2seqd_jax.run --config configs/semflow_shapes.py \
    --workdir runs/semflow --mode train
  python -m pix2seqd_jax.run --workdir runs/semflow --mode eval \
    --config.task.name=synthesis

Variants: `:dsm` (the paper's baseline, noise -> mask), `:reflow` (trained
again on the flow's own pairs, runs/semflow), `:one_step` (the same, of one
step), `:scratch` (no weights of other runs), `:smoke` (seconds, for tests).
Expected: mIoU of both directions; see benchmarks/RESULTS.md.
"""

from ml_collections import ConfigDict

from configs import (
  common,
  image_autoencoder_shapes,
  pix2seq_d_shapes,
  semflow_common,
)
from pix2seqd_jax import recipe

VARIANTS = ('scratch', *semflow_common.VARIANTS)
PICTURES = 'runs/semflow_autoencoder'
FLOW = 'runs/semflow'


def get_config(arg: str | None = None) -> ConfigDict:
  chosen = common.variants(arg, VARIANTS)
  pictures = image_autoencoder_shapes.get_config('masks').model
  config = ConfigDict()
  config.seed = 0
  config.data = pix2seq_d_shapes.get_config().data
  config.data.update({'mask_size': (64, 64), 'batch_size': 16})

  config.model = semflow_common.model(
    unet={
      'channels': (64, 128, 128),
      'has_attention': (False, True, True),
      'num_layers': 1,
      'num_heads': 4,
      'groups': 16,
    },
    image_autoencoder=pictures.network,
    anchors=pictures.masks.anchors,
    perturbation=pictures.masks.perturbation,
    latent_scale=0.5,
    prompt_tokens=0,
  )
  config.task = ConfigDict({'name': 'semantic'})
  config.sample = semflow_common.sample()
  config.optimizer = common.adamw(
    5e-4,
    name='torch_adamw',
    schedule='cosine',
    warmup_steps=50,
    end_factor=0.01,
    weight_decay=0.01,
    clip_norm=1.0,
    ema_decay=0.995,
  )
  config.train = semflow_common.train(2500, every=1250, save_every=500)
  config.eval = ConfigDict(
    {'batch_size': 32, 'num_examples': 0, 'use_ema': True}
  )

  semflow_common.devices(config)
  config.init_from = ()
  if 'scratch' not in chosen:
    config.init_from = semflow_common.trained_vae(PICTURES)
  config = recipe.complete(config)
  semflow_common.choose(config, chosen, FLOW)
  if 'smoke' in chosen:
    semflow_common.smoke(config)
  return config
