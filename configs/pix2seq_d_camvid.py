"""Pix2Seq-D on CamVid: a folder of label maps, 11 classes, all stuff.

  python -m pix2seqd_jax.run --mode train --workdir runs/camvid \
    --config configs/pix2seq_d_camvid.py \
    --config.data.root=../shared/data/camvid

Each class has an id of its own (data.name_stuff), so that nothing has to be
counted: the metric to look at is miou. `:smoke` takes seconds, for tests.
Expected: no number yet; the config is a pattern for one's own label maps
(data.source.layout, see data/readers/layouts.py and
data/readers/semantic_folder.py).
"""

from ml_collections import ConfigDict

from configs import common, pix2seq_d_common
from pix2seqd_jax.experiment import schema

VARIANTS = ('smoke',)


def get_config(arg: str | None = None) -> ConfigDict:
  chosen = common.variants(arg, VARIANTS)
  config = ConfigDict()
  config.seed = 0

  config.data = common.camvid(
    mask_size=(48, 64),
    train_transforms=(
      ('scale_jitter', {'scale': (1.0, 2.0)}),
      ('fixed_size_crop', {'independent': True}),
      ('random_flip', {}),
      ('color_jitter', {'strength': 0.5}),
      ('pad', {}),
    ),
  )
  config.model = pix2seq_d_common.model(
    pix2seq_d_common.small_nets(), class_bits=4, instance_bits=4, scale=0.5
  )
  config.task = common.panoptic(min_pixels=1)
  config.sample = common.sample(steps=20, td=2.0)
  config.optimizer = common.adamw(
    2e-3, warmup_steps=200, ema_decay=0.998, weight_decay=0.01
  )
  config.train = common.train(
    3000, save_every=500, eval_every=1000, best_metric='miou'
  )
  config.eval = common.evaluation(batch_size=16)

  config.mesh = common.MESH
  config.shard_rules = ()
  config.init_from = ()
  config = schema.complete(config)
  return pix2seq_d_common.smoke(config) if 'smoke' in chosen else config
