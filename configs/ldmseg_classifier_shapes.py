"""LDMSeg's class head on generated scenes, 2 cores, minutes.

  python -m pix2seqd_jax.run --config configs/ldmseg_classifier_shapes.py \
    --workdir runs/ldmseg_classifier --mode train

after the runs that configs/ldmseg_shapes.py starts from, the same two. It
evaluates the head alone: classes of true masks, so that PQ is the fraction of
segments that get the right class. LDMSeg takes it by its model.classifier.

Variants: `:scratch` (no weights of other runs), `:smoke` (seconds, for tests).
Expected: class-aware PQ of true masks; see benchmarks/RESULTS.md.
"""

from ml_collections import ConfigDict

from configs import common, ldmseg_autoencoder_shapes, ldmseg_shapes
from pix2seqd_jax.experiment import schema

VARIANTS = ('scratch', 'smoke')


def get_config(arg: str | None = None) -> ConfigDict:
  chosen = common.variants(arg, VARIANTS)
  smoke = 'smoke' in chosen
  stage_1 = ldmseg_autoencoder_shapes.get_config('smoke' if smoke else None)
  config = ConfigDict()
  config.seed = 0
  config.data = stage_1.data  # random ids: the head must heed none of them

  config.model = ConfigDict(
    {
      'name': 'mask_classifier',
      'head': head(smoke),
      'image_autoencoder': ldmseg_shapes.image_autoencoder(smoke),
      'mask_autoencoder': {
        key: stage_1.model[key]
        for key in ('kind', 'network', 'mask_encoding', 'thresholds')
      },
      'image': 'hidden',
      'noise': 0.5,
      'void_weight': 0.0,
      'vote': 'mean',
      'dtype': 'float32',
    }
  )
  config.task = ConfigDict(
    {
      'name': 'panoptic',
      'min_pixels': 0,
      'merge_stuff': True,
      'split_things': False,
      'given': ('instance',),
    }
  )
  config.sample = stage_1.sample
  config.optimizer = common.adamw(
    2e-3,
    name='torch_adamw',
    schedule='cosine',
    warmup_steps=50,
    end_factor=0.01,
    weight_decay=0.05,
    decay_mask=common.NO_NORMS,
    clip_norm=1.0,
    ema_decay=0.99,
  )
  config.train = ConfigDict(
    {
      'steps': 800,
      'log_every': 50,
      'save_every': 400,
      'eval_every': 400,
      'keep': 2,
      'best_metric': 'pq',
      'num_panels': 8,
    }
  )
  config.eval = ConfigDict(
    {'batch_size': 32, 'num_examples': 0, 'use_ema': True}
  )

  config.mesh = (('data', -1), ('fsdp', 1), ('tensor', 1))
  config.shard_rules = common.single_device_rules()
  scratch = {'scratch', 'smoke'} & set(chosen)
  config.init_from = () if scratch else ldmseg_shapes.init_from()
  config = schema.complete(config)
  return _smoke(config, stage_1) if smoke else config


def head(smoke: bool = False) -> dict:
  """The head, for LDMSeg's model.classifier too."""
  found = {
    'width': 64,
    'num_blocks': 4,
    'dilations': (1, 2, 4),
    'stride': 4,  # places of latents: 16 x 16
    'groups': 16,
  }
  return found | ({'width': 8, 'num_blocks': 1, 'groups': 4} if smoke else {})


def _smoke(config, stage_1):
  config.optimizer.warmup_steps = 2
  config.train.update(
    {key: stage_1.train[key] for key in stage_1.train if key != 'best_metric'}
  )
  config.eval.update({'batch_size': 8, 'num_examples': 12})
  return config
