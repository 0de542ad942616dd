"""Blocks that LDMSeg's configs share: networks of the release, small ones."""

from ml_collections import ConfigDict

from configs import common

# Of what an LDMSeg needs of a run of stage 1.
STAGE_1_KEYS = ('kind', 'network', 'mask_encoding', 'thresholds')


def square(**kwargs) -> tuple:
  """A resize that fills the size, whatever the aspect of the image."""
  return 'resize_to_fit', {'stretch': True, 'method': 'bicubic', **kwargs}


def shallow() -> dict:
  """The released autoencoder of masks: 2,023,208 parameters."""
  return {
    'widths': (32, 64, 128, 256),
    'hidden': 256,
    'latent_channels': 4,
    'num_upscalers': 2,
    'upscale_channels': 256,
    'groups': 32,
  }


def sd_vae() -> dict:
  """Stable Diffusion's autoencoder."""
  return {
    'latent_channels': 4,
    'block_out_channels': (128, 256, 512, 512),
    'layers_per_block': 2,
    'groups': 32,
  }


def sd_unet() -> dict:
  """Stable Diffusion's UNet: 815,556,484 parameters as LDMSeg has it."""
  return {
    'channels': (320, 640, 1280, 1280),
    'has_attention': (True, True, True, False),
    'num_layers': 2,
    'num_heads': 8,
    'groups': 32,
  }


def stage_1(network: dict, *, kind: str = 'shallow', **changes) -> ConfigDict:
  """The autoencoder of masks with the release's losses."""
  config = ConfigDict(
    {
      'name': 'mask_autoencoder',
      'kind': kind,
      'network': network,
      'mask_encoding': 'bits',
      'ce_weight': 1.0,
      'mask_weight': 1.0,
      'kl_weight': 0.0,
      'points': {'num_points': 12_544, 'oversample': 3, 'importance': 0.75},
      'max_segments': 0,
      'corruption': 0.0,
      'corrupt_targets': True,
      'thresholds': {'mask': 0.5, 'overlap': 0.5, 'min_pixels': 512},
      'dtype': 'float32',
    }
  )
  config.update(changes)
  return config


def stage_2(stage_1: ConfigDict, **changes) -> ConfigDict:
  """LDMSeg over such an autoencoder, as the release trains it."""
  config = ConfigDict(
    {
      'name': 'ldmseg',
      'unet': sd_unet(),
      'image_autoencoder': sd_vae(),
      'mask_autoencoder': {key: stage_1[key] for key in STAGE_1_KEYS},
      'schedule': ('stable_diffusion', {}),
      'prediction': 'x1',
      'loss_weight': ('max_clamp_snr', {'limit': 2.0}),
      'loss_mask': 'ignore',
      'loss_kind': 'l2',
      'image_scale': 0.18215,
      'latent_scale': 0.18215,
      'self_condition_rate': 1.0,
      'descriptor': 'none',
      'descriptor_args': {},
      'given_cells': 'nearest',
      'given_fill': 'void',
      'classifier': {},
      'dtype': 'bfloat16',
      'remat': True,
    }
  )
  config.update(changes)
  return config


def classifier(head: dict | None = None) -> dict:
  """The class head: 4 blocks and DeepLab's head on 64 x 64 places of 512."""
  found = {
    'width': 256,
    'num_blocks': 4,
    'dilations': (6, 12, 18),
    'stride': 4,
    'groups': 32,
  }
  return {'head': found | (head or {}), 'image': 'hidden', 'vote': 'mean'}


def task(*given: str, complete: int = 0, classes: bool = False) -> ConfigDict:
  """PQ, class-agnostic or not; `complete`: the side of blocks, half given."""
  config = ConfigDict(
    {
      'name': 'panoptic',
      'min_pixels': 0,
      'merge_stuff': classes,
      'split_things': False,
      'class_agnostic': not classes,
    }
  )
  if given:
    config.given = given
  if complete:
    config.update(
      {'name': 'inpainting', 'block_size': complete, 'drop_rate': 0.5}
    )
  return config


def sample(steps: int) -> ConfigDict:
  """DDIM on the release's grid: 50 steps are 999, 979, ..., 19."""
  return ConfigDict(
    {
      'steps': steps,
      'td': 0.0,
      'sampler': 'ddim',
      'sampler_args': {},
      'timestep_spacing': 'blocks',
      'seed': 0,
    }
  )


def adamw_1(**changes) -> ConfigDict:
  """The release's optimizer of stage 1: norms and biases decay too."""
  found = {
    'name': 'torch_adamw',
    'learning_rate': 1e-4,
    'warmup_steps': 200,
    'schedule': 'constant',
    'weight_decay': 0.05,
    'decay_mask': 'all',
    'clip_norm': 3.0,
    'ema_decay': 0.0,
  }
  return common.adamw(**found | changes)


def adamw_2(**changes) -> ConfigDict:
  """The release's optimizer of stage 2; the embedding of times stays."""
  found = {
    'name': 'torch_adamw',
    'learning_rate': 1e-4,
    'warmup_steps': 200,
    'schedule': 'cosine',
    'end_factor': 0.01,
    'weight_decay': 0.05,
    'decay_mask': common.NO_NORMS,
    'clip_norm': 1.0,
    'freeze': ('^unet/time_embedding/',),
    'ema_decay': 0.0,
  }
  return common.adamw(**found | changes)


def train(steps: int, every: int = 10_000) -> ConfigDict:
  """Evaluated after `every` steps, saved five times as often."""
  return ConfigDict(
    {
      'steps': steps,
      'log_every': 100,
      'save_every': every // 5,
      'eval_every': every,
      'keep': 3,
      'best_metric': 'pq',
      'num_panels': 8,
    }
  )


def devices(config: ConfigDict, rules: tuple = ()) -> ConfigDict:
  """Data parallelism, and `rules` where 'fsdp' or 'tensor' are set."""
  config.mesh = (('data', -1), ('fsdp', 1), ('tensor', 1))
  config.shard_rules = rules
  return config


def start(stage_1: str, images: str, unet: str = '') -> tuple:
  """init_from of stage 2: the folders of stage 1 and of Stable Diffusion."""
  return (
    *([(unet, 'net/unet', 'net/unet', 'grow')] if unet else []),
    (images, 'frozen/image', 'frozen/image', 'exact'),
    (stage_1, 'net/autoencoder', 'frozen/mask', 'exact'),
  )


def start_from_trained(stage_1: str, images: str) -> tuple:
  """As `start`, the encoder of images out of a run of image_autoencoder."""
  return (
    (stage_1, 'net/autoencoder', 'frozen/mask', 'exact'),
    *(
      (images, f'net/autoencoder/{part}', f'frozen/image/{part}', 'exact')
      for part in ('encoder', 'quant_conv')
    ),
  )


# Small enough for tests: checks, not results.


def small_shallow() -> dict:
  """The autoencoder, thin: latents of an eighth of the side."""
  return {
    'widths': (8, 8, 8, 16),
    'hidden': 16,
    'latent_channels': 4,
    'num_upscalers': 2,
    'upscale_channels': 16,
    'groups': 4,
  }


def small_sd_vae() -> dict:
  """Stable Diffusion's, thin and shallow."""
  return {
    'latent_channels': 4,
    'block_out_channels': (8, 8, 8, 8),
    'layers_per_block': 1,
    'groups': 4,
  }


def smoke(config: ConfigDict) -> ConfigDict:
  """Any of these configs in seconds, from no one's weights."""
  model = config.model
  is_stage_1 = model.name == 'mask_autoencoder'
  small_head = {'width': 8, 'num_blocks': 1, 'groups': 4}
  if model.get('classifier'):
    model.classifier.head.update(small_head)
  masks = model if is_stage_1 else model.mask_autoencoder
  is_shallow = masks.kind == 'shallow'
  masks.network = small_shallow() if is_shallow else small_sd_vae()
  masks.thresholds.min_pixels = 8
  if is_stage_1:
    model.points.num_points = 64
  else:
    model.image_autoencoder = small_sd_vae()
  if 'head' in model:
    model.head.update(small_head)
  if 'unet' in model:
    model.unet = {
      'channels': (16, 16),
      'has_attention': (False, True),
      'num_layers': 1,
      'num_heads': 4,
      'groups': 8,
    }
    model.remat = False
    config.sample.steps = 3
  model.dtype = 'float32'
  config.data.update(
    {
      'image_size': (64, 64),
      'mask_size': (64, 64),
      'batch_size': 8,
      'num_threads': 2,
    }
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
  config.eval.update({'batch_size': 8, 'num_examples': 12})
  config.init_from = ()
  return config
