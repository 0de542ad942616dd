"""Pix2Seq-D on Cityscapes panoptic, fine-tuned from COCO at one resolution.

  python -m pix2seqd_jax.run --mode train --workdir runs/cityscapes \
    --config configs/pix2seq_d_cityscapes.py \
    --config.data.root=/data/cityscapes \
    --config.init_from="(('runs/highres','','','exact'),)"

where runs/highres is `pix2seq_d_coco.py:highres`: the networks are the same,
94,492,480 parameters, and no weight depends on the size of the image or on
the classes. `:smoke` shrinks it. Before a first run:

  python -m pix2seqd_jax.cli.validate_data \
    --config configs/pix2seq_d_cityscapes.py \
    --config.data.root=/data/cityscapes

Images 1024 x 2048, masks 512 x 1024 (arXiv 2210.06366, whose numbers and
hyper-parameters for Cityscapes stand in an appendix that the methods sheet,
section 5, lacks). Expected: no number of ours, it was not trained here.

Departures: batch, learning rate, transforms and noise are those of COCO's
high-resolution stage and the number of epochs is a guess, since they are
unpublished; bfloat16 arithmetic (the paper: float32).

Under the root: leftImg8bit/{train,val}/CITY/ and, written by the benchmark's
createPanopticImgs script, gtFine/cityscapes_panoptic_{train,val}/ and
gtFine/cityscapes_panoptic_{train,val}.json. Zip archives will do, as in
--config.data.train.images=leftImg8bit_trainvaltest.zip/leftImg8bit/train.
"""

from ml_collections import ConfigDict

from configs import common, pix2seq_d_common
from pix2seqd_jax.experiment import schema

VARIANTS = ('smoke',)
EPOCHS, BATCH_SIZE = 100, 16


def get_config(arg: str | None = None) -> ConfigDict:
  chosen = common.variants(arg, VARIANTS)
  config = ConfigDict()
  config.seed = 0

  config.data = common.cityscapes(
    image_size=(1024, 2048),
    mask_size=(512, 1024),
    train_transforms=(
      ('scale_jitter', {'scale': (1.0, 1.0)}),
      ('fixed_size_crop', {}),
      ('random_flip', {}),
      ('pad', {}),
    ),
    batch_size=BATCH_SIZE,
  )
  config.model = pix2seq_d_common.model(
    pix2seq_d_common.released_nets(),
    class_bits=8,
    instance_bits=8,
    scale=0.1,
    dtype='bfloat16',
    remat=True,
  )
  config.task = common.panoptic(min_pixels=80)
  config.sample = common.sample(steps=20, td=2.0)
  config.optimizer = common.adamw(1e-5, warmup_steps=0, ema_warmup=False)
  config.train = common.train(
    common.CITYSCAPES_TRAIN_EXAMPLES * EPOCHS // BATCH_SIZE + 1,
    log_every=100,
    save_every=1000,
    eval_every=2000,
    best_metric='pq',
    keep=3,
  )
  config.eval = common.evaluation(batch_size=16)

  config.mesh = common.MESH
  config.shard_rules = common.fsdp_rules()
  config.init_from = ()
  config = schema.complete(config)
  return pix2seq_d_common.smoke(config) if 'smoke' in chosen else config
