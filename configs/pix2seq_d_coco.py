"""Pix2Seq-D on COCO panoptic 2017, the paper's main result (table 1).

Three stages, each started from the last (methods sheet, section 5):

  python -m pix2seqd_jax.run --mode train --workdir runs/decoder \
    --config configs/pix2seq_d_coco.py:pretrain_decoder \
    --config.data.root=/data/coco
  python -m pix2seqd_jax.run --mode train --workdir runs/lowres \
    --config configs/pix2seq_d_coco.py:lowres --config.data.root=/data/coco \
    --config.init_from="(('runs/decoder','denoiser','denoiser','partial'),)"
  python -m pix2seqd_jax.run --mode train --workdir runs/highres \
    --config configs/pix2seq_d_coco.py:highres --config.data.root=/data/coco \
    --config.init_from="(('runs/lowres','','','exact'),)"

`:ablation` is the paper's setting for tables 3 to 5; `:smoke` shrinks any.
Paper, COCO val PQ at 5/10/20/50 steps: 47.5/49.4/50.3/50.2. Not reproduced
here: the full config needs about 6e19 FLOP.

As in the paper, :lowres may also start from the encoder of the authors'
Objects365 detector, gs://pix2seq/obj365_pretrain/resnetc_640x640_b256_s400k
(to read it, pip install 'pix2seqd_jax[tf]'; --dry-run shows the mapping):

  python -m pix2seqd_jax.pretrained --from pix2seq-tf --part encoder \
    --checkpoint resnetc_640x640_b256_s400k --out runs/objects365
  --config.init_from="(('runs/objects365','encoder','encoder','exact'), \
    ('runs/decoder','denoiser','denoiser','partial'))"

Departures: bfloat16 arithmetic (the paper: float32); without that detector the
encoder starts from random weights; the schedule of :pretrain_decoder is
unpublished and ours is that of :lowres.

Under the root: train2017/ val2017/ annotations/panoptic_{train,val}2017/
and annotations/panoptic_{train,val}2017.json.
"""

from ml_collections import ConfigDict

from configs import common, pix2seq_d_common
from pix2seqd_jax.experiment import schema

VARIANTS = ('pretrain_decoder', 'lowres', 'highres', 'ablation', 'smoke')
TRAIN_EXAMPLES = 118_287


def get_config(arg: str | None = None) -> ConfigDict:
  chosen = common.variants(arg, VARIANTS)
  stages = [v for v in chosen if v != 'smoke'] or ['lowres']
  if len(stages) > 1:
    raise ValueError(f'choose one stage, not {", ".join(stages)}.')
  stage = stages[0]
  config = ConfigDict()
  config.seed = 0

  image, mask, batch_size, epochs = {
    'pretrain_decoder': (256, 128, 512, 800),
    'lowres': (256, 128, 512, 800),
    'highres': (1024, 512, 16, 15),
    'ablation': (512, 256, 128, 100),
  }[stage]
  augment = stage != 'highres'
  decoder = stage == 'pretrain_decoder'  # it sees no images
  config.data = common.coco(
    image_size=(image, image),
    mask_size=(mask, mask),
    train_transforms=(
      ('scale_jitter', {'scale': (1.0, 3.0 if augment else 1.0)}),
      ('fixed_size_crop', {}),
      ('random_flip', {}),
      (
        'color_jitter',
        {'strength': 1.0 if augment else 0.0, 'where': 'device'},
      ),
      ('pad', {}),
    ),
    batch_size=batch_size,
  )
  config.model = pix2seq_d_common.model(
    pix2seq_d_common.released_nets(),
    class_bits=8,
    instance_bits=8,
    scale=0.1,
    conditional='none' if decoder else 'cat+attn',
    dtype='bfloat16',
    remat=stage == 'highres',
  )
  config.task = common.panoptic(min_pixels=80)
  config.sample = common.sample(steps=20, td=2.0)
  config.optimizer = common.adamw(
    1e-5 if stage == 'highres' else 1e-4,
    warmup_steps={'highres': 0, 'ablation': 4620}.get(stage, 1155),
    ema_warmup=False,
  )
  config.train = common.train(
    TRAIN_EXAMPLES * epochs // batch_size + 1,
    log_every=100,
    save_every=2000,
    eval_every=0 if decoder else 10_000,
    best_metric='' if decoder else 'pq',
    keep=3,
  )
  config.eval = common.evaluation(batch_size=64 if augment else 16)

  config.mesh = common.MESH
  config.shard_rules = common.fsdp_rules()
  config.init_from = ()
  config = schema.complete(config)
  return pix2seq_d_common.smoke(config) if 'smoke' in chosen else config
