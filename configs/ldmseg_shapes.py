"""LDMSeg's stage 2 on generated scenes, 2 cores: masks by latent diffusion.

  bash launch/ldmseg.sh

trains both stages and the small encoder of images, evaluates, and completes
masks; or by hand, with the runs of configs/image_autoencoder_shapes.py and
configs/ldmseg_autoencoder_shapes.py in runs/:

  python -m pix2seqd_jax.run --config configs/ldmseg_shapes.py \
    --workdir runs/ldmseg --mode train

Variants: `:random_ids` (ids drawn at random, as in the paper; things are
numbered by size here, which a short training learns sooner), `:paper` (noise
is predicted, weighed by the paper's ramp, latents scaled by 0.2), `:complete`
(evaluates inpainting: half of the blocks of a quarter of the side are taken
away), `:classes` (segments are named by the head that
configs/ldmseg_classifier_shapes.py has trained before; PQ with classes),
`:scratch` (no weights of other runs), `:smoke` (seconds, for tests).
Expected: class-agnostic PQ; see docs/results.md.
"""

from ml_collections import ConfigDict

from configs import common, image_autoencoder_common, ldmseg_common
from pix2seqd_jax.experiment import schema

VARIANTS = ('random_ids', 'paper', 'complete', 'classes', 'scratch', 'smoke')
CLASSES = 'runs/ldmseg_classifier'
STAGE_1 = 'runs/ldmseg_autoencoder'
IMAGES = 'runs/image_autoencoder'


def get_config(arg: str | None = None) -> ConfigDict:
  chosen = common.variants(arg, VARIANTS)
  config = ConfigDict()
  config.seed = 0

  config.data = common.shapes(batch_size=16)
  if 'random_ids' in chosen:
    config.data.update({'id_order': 'random', 'name_stuff': False})
  config.model = ldmseg_common.stage_2(
    ldmseg_common.shapes_stage_1(),
    unet=ldmseg_common.small_unet(),
    image_autoencoder=image_autoencoder_common.small(),
    prediction='x0',
    loss_weight=('none', {}),
    loss_mask='none',
    image_scale=0.45,
    latent_scale=0.4,
    self_condition_rate=0.5,
    dtype='float32',
    remat=False,
  )
  if 'paper' in chosen:
    config.model.update(
      {
        'prediction': 'x1',
        'loss_weight': ('ramp', {}),
        'loss_mask': 'ignore',
        'latent_scale': 0.2,
        'self_condition_rate': 1.0,
      }
    )
  if 'classes' in chosen:
    config.model.classifier = ldmseg_common.shapes_classifier()
  config.task = ldmseg_common.task(
    complete=16 if 'complete' in chosen else 0, classes='classes' in chosen
  )
  config.sample = ldmseg_common.sample(steps=20)
  config.optimizer = ldmseg_common.adamw_2(
    learning_rate=5e-4, warmup_steps=50, freeze=(), ema_decay=0.995
  )
  config.train = common.train(
    2000, save_every=500, eval_every=1000, best_metric='pq'
  )
  config.eval = common.evaluation(batch_size=32)

  config.mesh = common.MESH
  config.shard_rules = ()
  config.init_from = ldmseg_common.start_from_trained(STAGE_1, IMAGES)
  if 'classes' in chosen:
    head = (CLASSES, 'net/head', 'frozen/classifier', 'exact')
    config.init_from = (head, *config.init_from)
  if 'scratch' in chosen:
    config.init_from = ()
  config = schema.complete(config)
  return ldmseg_common.smoke_shapes(config) if 'smoke' in chosen else config
