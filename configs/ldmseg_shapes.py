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
Expected: class-agnostic PQ; see benchmarks/RESULTS.md.
"""

from ml_collections import ConfigDict

from configs import common, ldmseg_autoencoder_shapes, pix2seq_d_shapes
from pix2seqd_jax.experiment import schema

VARIANTS = ('random_ids', 'paper', 'complete', 'classes', 'scratch', 'smoke')
CLASSES = 'runs/ldmseg_classifier'
STAGE_1 = 'runs/ldmseg_autoencoder'
IMAGES = 'runs/image_autoencoder'


def get_config(arg: str | None = None) -> ConfigDict:
  chosen = common.variants(arg, VARIANTS)
  stage_1 = ldmseg_autoencoder_shapes.get_config(
    'smoke' if 'smoke' in chosen else None
  )
  config = ConfigDict()
  config.seed = 0
  config.data = pix2seq_d_shapes.get_config().data
  config.data.update({'mask_size': stage_1.data.mask_size, 'batch_size': 16})
  if 'random_ids' in chosen:
    config.data.update({'id_order': 'random', 'name_stuff': False})

  config.model = ConfigDict(
    {
      'name': 'ldmseg',
      'unet': {
        'channels': (64, 128, 128),
        'has_attention': (False, True, True),
        'num_layers': 1,
        'num_heads': 4,
        'groups': 16,
      },
      'image_autoencoder': image_autoencoder('smoke' in chosen),
      'mask_autoencoder': {
        key: stage_1.model[key]
        for key in ('kind', 'network', 'mask_encoding', 'thresholds')
      },
      'schedule': ('stable_diffusion', {}),
      'prediction': 'x0',
      'loss_weight': ('none', {}),
      'loss_mask': 'none',
      'loss_kind': 'l2',
      'image_scale': 0.45,
      'latent_scale': 0.4,
      'self_condition_rate': 0.5,
      'descriptor': 'none',
      'descriptor_args': {},
      'given_cells': 'nearest',
      'given_fill': 'void',
      'dtype': 'float32',
      'remat': False,
    }
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
  config.task = ConfigDict(
    {
      'name': 'panoptic',
      'min_pixels': 0,
      'merge_stuff': False,
      'split_things': False,
      'class_agnostic': True,
    }
  )
  if 'complete' in chosen:
    config.task.update(
      {'name': 'inpainting', 'block_size': 16, 'drop_rate': 0.5}
    )
  if 'classes' in chosen:
    config.model.classifier = classifier('smoke' in chosen)
    config.task.update({'class_agnostic': False, 'merge_stuff': True})
  config.sample = ConfigDict(
    {
      'steps': 20,
      'td': 0.0,
      'sampler': 'ddim',
      'sampler_args': {},
      'timestep_spacing': 'blocks',
      'seed': 0,
    }
  )
  config.optimizer = common.adamw(
    5e-4,
    name='torch_adamw',
    schedule='cosine',
    warmup_steps=50,
    end_factor=0.01,
    weight_decay=0.05,
    decay_mask=common.NO_NORMS,
    clip_norm=1.0,
    ema_decay=0.995,
  )
  config.train = ConfigDict(
    {
      'steps': 2000,
      'log_every': 50,
      'save_every': 500,
      'eval_every': 1000,
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
  config.init_from = ()
  if not {'scratch', 'smoke'} & set(chosen):
    config.init_from = init_from('classes' in chosen)
  config = schema.complete(config)
  return _smoke(config) if 'smoke' in chosen else config


def init_from(classes: bool = False) -> tuple:
  """The frozen parts, from the runs of the autoencoders and of the head."""
  head = (CLASSES, 'net/head', 'frozen/classifier', 'exact')
  return (
    *((head,) if classes else ()),
    (STAGE_1, 'net/autoencoder', 'frozen/mask', 'exact'),
    *(
      (IMAGES, f'net/autoencoder/{part}', f'frozen/image/{part}', 'exact')
      for part in ('encoder', 'quant_conv')
    ),
  )


def image_autoencoder(smoke: bool) -> dict:
  """The encoder of images; configs/image_autoencoder_shapes.py trains it."""
  from configs import image_autoencoder_shapes

  return image_autoencoder_shapes.get_config('smoke' if smoke else None).model[
    'network'
  ]


def classifier(smoke: bool) -> dict:
  """What names segments, as it was trained."""
  from configs import ldmseg_classifier_shapes

  model = ldmseg_classifier_shapes.get_config('smoke' if smoke else None).model
  return {key: model[key] for key in ('head', 'image', 'vote')}


def _smoke(config):
  config.data.update({'batch_size': 8})
  config.model.unet.update(
    {'channels': (16, 16), 'has_attention': (False, True), 'groups': 8}
  )
  config.optimizer.warmup_steps = 2
  config.train.update(
    {
      'steps': 6,
      'log_every': 2,
      'save_every': 3,
      'eval_every': 6,
      'num_panels': 2,
    }
  )
  config.sample.steps = 4
  config.eval.update({'batch_size': 8, 'num_examples': 12})
  return config
