r"""LDMSeg's stage 2 on COCO panoptic 2017: the released model (200,000 steps).

Stage 1 first, see configs/ldmseg_autoencoder_coco.py. Then the UNet and the
encoder of images of Stable Diffusion 1.4, of which stage 2 starts:

  python -m pix2seqd_jax.pretrained --from ldmseg-start \
    --checkpoint stable-diffusion-v1-4 --out runs/sd
  python -m pix2seqd_jax.run --mode train --workdir runs/ldmseg \
    --config configs/ldmseg_coco.py --config.data.root=/data/coco

The UNet's first layer gets zeros for the 8 channels that it had not; its
cross-attention is gone: 815,556,484 parameters, 813,505,924 of them trained.
The released weights of both stages, as a directory that can be evaluated:

  python -m pix2seqd_jax.pretrained --from ldmseg --checkpoint ldmseg.pt \
    --out runs/released --config configs/ldmseg_coco.py \
    --categories panoptic_val2017.json

and to go on from them, what that command prints as --config.init_from.

Variants, together but for sd_vae with classes: `:paper` (the paper's weight of
times, min(1, t / 250), for the release's min(1, 2 / SNR)), `:sd_vae` (masks by
Stable Diffusion's autoencoder), `:complete` (evaluates inpainting: half of the
blocks of 16 pixels are taken away), `:classes` (segments are named, by the
head that configs/ldmseg_classifier_coco.py trains, which goes on from the same
runs; PQ with classes), `:smoke` (seconds, for tests).

Class-agnostic PQ on COCO val, theirs: 51.7 (SQ 82.0, RQ 63.0) of the release
in 50 steps; of the paper 50.0, 50.7 and 50.8 in 10, 20 and 50 steps, with
`:sd_vae` 50.9; with classes 43.3, by a head that was not released. No number
of ours: it was not trained here.

Departures: bfloat16 arithmetic, of the masks' encoder too (the release:
float16, and float32 there). There are no averaged weights in the release;
--config.optimizer.ema_decay=0.9999 --config.eval.use_ema=True keeps some.
"""

from ml_collections import ConfigDict

from configs import common, ldmseg_common
from pix2seqd_jax.experiment import schema

VARIANTS = ('paper', 'sd_vae', 'complete', 'classes', 'smoke')
STAGE_1 = 'runs/ldmseg_autoencoder'
STABLE_DIFFUSION = 'runs/sd'
CLASSIFIER = 'runs/ldmseg_classifier'


def get_config(arg: str | None = None) -> ConfigDict:
  chosen = common.variants(arg, VARIANTS)
  if {'sd_vae', 'classes'} <= set(chosen):
    raise ValueError(
      'ldmseg_coco: sd_vae and classes do not go together: the head of '
      'ldmseg_classifier_coco is made for the shallow autoencoder; choose one.'
    )
  config = ConfigDict()
  config.seed = 0

  config.data = ldmseg_common.coco(batch_size=256)
  if 'sd_vae' in chosen:
    stage_1 = ldmseg_common.stage_1(ldmseg_common.sd_vae(), kind='sd_vae')
  else:
    stage_1 = ldmseg_common.stage_1(ldmseg_common.shallow())
  config.model = ldmseg_common.stage_2(
    stage_1,
    classifier=ldmseg_common.classifier() if 'classes' in chosen else {},
  )
  if 'paper' in chosen:
    config.model.loss_weight = ('ramp', {'end': 0.25})
  config.task = ldmseg_common.task(
    complete=16 if 'complete' in chosen else 0, classes='classes' in chosen
  )
  config.sample = ldmseg_common.sample(steps=50)
  config.optimizer = ldmseg_common.adamw_2()
  config.train = ldmseg_common.train(200_000)
  config.eval = common.evaluation(batch_size=16, use_ema=False)

  config.mesh = common.MESH
  config.shard_rules = (('kernel$', 'fsdp'),)
  config.init_from = ldmseg_common.start(
    STAGE_1, STABLE_DIFFUSION, STABLE_DIFFUSION
  )
  if 'classes' in chosen:
    config.init_from += (
      (CLASSIFIER, 'net/head', 'frozen/classifier', 'exact'),
    )
  config = schema.complete(config)
  return ldmseg_common.smoke(config) if 'smoke' in chosen else config
