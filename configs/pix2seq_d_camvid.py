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

from configs import common
from pix2seqd_jax.experiment import schema

VARIANTS = ('smoke',)


def get_config(arg: str | None = None) -> ConfigDict:
  chosen = common.variants(arg, VARIANTS)
  config = ConfigDict()
  config.seed = 0

  config.data = ConfigDict(
    {
      'name': 'semantic_folder',
      'root': '../shared/data/camvid',
      'source': {'layout': 'camvid'},
      'train': {
        'images': 'images/train',
        'labels': 'labels/train',
      },
      'eval': {
        'images': 'images/val',
        'labels': 'labels/val',
      },
      'num_classes': 11,
      'num_ids': 12,
      'image_size': (96, 128),
      'mask_size': (48, 64),
      'id_order': 'area',
      'name_stuff': True,
      'encode': 'device',
      'train_transforms': (
        ('scale_jitter', {'scale': (1.0, 2.0)}),
        ('fixed_size_crop', {'independent': True}),
        ('random_flip', {}),
        ('color_jitter', {'strength': 0.5}),
        ('pad', {}),
      ),
      'eval_transforms': (('resize_to_fit', {}), ('pad', {})),
      'batch_size': 8,
      'num_threads': 2,
    }
  )

  config.model = ConfigDict(
    {
      'name': 'pix2seq_d',
      'encoder': {
        'width_multiplier': 0.25,
        'blocks': (1, 1, 1),
        'dim': 128,
        'num_layers': 2,
        'num_heads': 4,
        'mlp_dim': 256,
        'dropout': 0.0,
        'drop_path': 0.0,
      },
      'merge': {'out_dim': 64},
      'denoiser': {
        'dim': 32,
        'multipliers': (1, 2, 2),
        'num_res_blocks': (1, 1, 1),
        'transformer_dim': 128,
        'transformer_blocks': 2,
        'head_dim': 32,
        'time_scaling': 1000.0,
      },
      'schedule': ('cosine', {}),
      'class_bits': 4,
      'instance_bits': 4,
      'bits_kind': 'binary',
      'scale': 0.5,
      'conditional': 'cat+attn',
      'loss_kind': 'softmax',
      'loss_weight': 0.2,
      'mask_impossible': False,
      'self_condition_rate': 0.0,
      'dtype': 'float32',
      'remat': False,
    }
  )
  config.task = ConfigDict(
    {
      'name': 'panoptic',
      'min_pixels': 1,
      'merge_stuff': True,
      'split_things': False,
    }
  )
  config.sample = ConfigDict(
    {
      'steps': 20,
      'td': 2.0,
      'sampler': 'ddim',
      'sampler_args': {},
      'seed': 0,
    }
  )
  config.optimizer = common.adamw(
    2e-3, warmup_steps=200, ema_decay=0.998, weight_decay=0.01
  )
  config.train = ConfigDict(
    {
      'steps': 3000,
      'log_every': 50,
      'save_every': 500,
      'eval_every': 1000,
      'keep': 2,
      'best_metric': 'miou',
      'num_panels': 8,
    }
  )
  config.eval = ConfigDict(
    {'batch_size': 16, 'num_examples': 0, 'use_ema': True}
  )

  config.mesh = (('data', -1), ('fsdp', 1), ('tensor', 1))
  config.shard_rules = common.single_device_rules()
  config.init_from = ()
  config = schema.complete(config)
  return common.smoke(config) if 'smoke' in chosen else config
