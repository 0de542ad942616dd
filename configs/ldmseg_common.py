"""Blocks that LDMSeg's configs share: networks of the release, small ones."""

from ml_collections import ConfigDict

from configs import common, image_autoencoder_common

# Of what an LDMSeg needs of a run of stage 1.
STAGE_1_KEYS = ('kind', 'network', 'mask_encoding', 'thresholds')
# A resize that fills the size, whatever the aspect of the image.
SQUARE = ('resize_to_fit', {'stretch': True, 'method': 'bicubic'})


# config.data.


def _squares(size: tuple[int, int], batch_size: int) -> dict:
  """Images and masks at one size, whatever their aspect; 127 random ids."""
  return {
    'num_ids': 128,
    'image_size': size,
    'mask_size': size,
    'id_order': 'random',
    'name_stuff': False,
    'train_transforms': (
      ('drop_small', {'min_pixels': 10}),
      SQUARE,
      ('random_flip', {}),
      ('pad', {}),
    ),
    'eval_transforms': (SQUARE, ('pad', {})),
    'batch_size': batch_size,
  }


def coco(batch_size: int) -> ConfigDict:
  """COCO as LDMSeg sees it."""
  return common.coco(**_squares((512, 512), batch_size))


def cityscapes(batch_size: int) -> ConfigDict:
  """Half of the images' sides."""
  return common.cityscapes(**_squares((512, 1024), batch_size))


def nuclei(gpu: bool, id_order: str) -> ConfigDict:
  """Crops at any scale near that of the image; masks at full size."""
  side = (512, 512) if gpu else (128, 128)
  return common.nuclei(
    gpu,
    image_size=side,
    mask_size=side,
    id_order=id_order,
    name_stuff=id_order != 'random',
    batch_size=16 if gpu else 8,
  )


# config.model.


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


def small_shallow() -> dict:
  """For two cores: latents of a quarter of the side."""
  return {
    'widths': (16, 32, 64),
    'hidden': 64,
    'latent_channels': 4,
    'num_upscalers': 2,
    'upscale_channels': 64,
    'groups': 16,
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


def small_unet() -> dict:
  """For two cores."""
  return {
    'channels': (64, 128, 128),
    'has_attention': (False, True, True),
    'num_layers': 1,
    'num_heads': 4,
    'groups': 16,
  }


def stage_1(network: dict, *, kind: str = 'shallow', **changes) -> ConfigDict:
  """The autoencoder of masks with the release's losses."""
  return ConfigDict(
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
      **changes,
    }
  )


def stage_2(stage_1: ConfigDict, **changes) -> ConfigDict:
  """LDMSeg over such an autoencoder, as the release trains it."""
  return ConfigDict(
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
      'dtype': 'bfloat16',
      'remat': True,
      **changes,
    }
  )


def nuclei_stage_1(gpu: bool) -> ConfigDict:
  """Cells are small: latents of a quarter of the side, of `gpu` an eighth."""
  return stage_1(
    shallow() if gpu else small_shallow(),
    points={
      'num_points': 12_544 if gpu else 1024,
      'oversample': 3,
      'importance': 0.75,
    },
    max_segments=0 if gpu else 96,
    thresholds={'mask': 0.5, 'overlap': 0.5, 'min_pixels': 20},
  )


def shapes_stage_1() -> ConfigDict:
  """Latents of a quarter of the side."""
  return stage_1(
    small_shallow(),
    points={'num_points': 392, 'oversample': 3, 'importance': 0.75},
    max_segments=8,  # of a scene: at most 4 things and 3 kinds of stuff
    thresholds={'mask': 0.5, 'overlap': 0.5, 'min_pixels': 8},
  )


def classifier() -> dict:
  """The class head: 4 blocks and DeepLab's head on 64 x 64 places of 512."""
  return {
    'head': {
      'width': 256,
      'num_blocks': 4,
      'dilations': (6, 12, 18),
      'stride': 4,
      'groups': 32,
    },
    'image': 'hidden',
    'vote': 'mean',
  }


def shapes_classifier() -> dict:
  """The same on 16 x 16 places of latents."""
  return {
    'head': {
      'width': 64,
      'num_blocks': 4,
      'dilations': (1, 2, 4),
      'stride': 4,
      'groups': 16,
    },
    'image': 'hidden',
    'vote': 'mean',
  }


def mask_classifier(
  classifier: dict, stage_1: ConfigDict, *, image_autoencoder: dict, **changes
) -> ConfigDict:
  """What trains such a head alone, for stage 2 to take."""
  return ConfigDict(
    {
      'name': 'mask_classifier',
      **classifier,
      'image_autoencoder': image_autoencoder,
      'mask_autoencoder': {key: stage_1[key] for key in STAGE_1_KEYS},
      'noise': 0.5,
      'void_weight': 0.0,
      'dtype': 'float32',
      **changes,
    }
  )


# config.task, config.sample.


def task(*given: str, complete: int = 0, classes: bool = False) -> ConfigDict:
  """PQ, class-agnostic or not; `complete`: the side of blocks, half given."""
  config = common.panoptic(
    min_pixels=0, merge_stuff=classes, class_agnostic=not classes
  )
  if given:
    config.given = given
  if complete:
    config.update(
      {'name': 'inpainting', 'block_size': complete, 'drop_rate': 0.5}
    )
  return config


def sample(steps: int) -> ConfigDict:
  """DDIM at the release's times: 50 steps are 999, 979, ..., 19."""
  return common.sample(steps, timestep_spacing='blocks')


# config.optimizer, config.train.


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
  return common.train(
    steps,
    log_every=100,
    save_every=every // 5,
    eval_every=every,
    best_metric='pq',
    keep=3,
  )


# config.init_from.


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


def tiny_shallow() -> dict:
  """Latents of an eighth of the side."""
  return {
    'widths': (8, 8, 8, 16),
    'hidden': 16,
    'latent_channels': 4,
    'num_upscalers': 2,
    'upscale_channels': 16,
    'groups': 4,
  }


def tiny_sd_vae() -> dict:
  return {
    'latent_channels': 4,
    'block_out_channels': (8, 8, 8, 8),
    'layers_per_block': 1,
    'groups': 4,
  }


TINY_HEAD = {'width': 8, 'num_blocks': 1, 'groups': 4}


def smoke(config: ConfigDict) -> ConfigDict:
  """Any of these configs in seconds, from no one's weights."""
  model = config.model
  is_stage_1 = model.name == 'mask_autoencoder'
  if model.get('classifier'):
    model.classifier.head.update(TINY_HEAD)
  masks = model if is_stage_1 else model.mask_autoencoder
  is_shallow = masks.kind == 'shallow'
  masks.network = tiny_shallow() if is_shallow else tiny_sd_vae()
  masks.thresholds.min_pixels = 8
  if is_stage_1:
    model.points.num_points = 64
  else:
    model.image_autoencoder = tiny_sd_vae()
  if 'head' in model:
    model.head.update(TINY_HEAD)
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
  common.shorten(config)
  config.init_from = ()
  return config


def smoke_shapes(config: ConfigDict) -> ConfigDict:
  """The same for the configs of generated scenes, whose sizes are small."""
  model = config.model
  config.data.batch_size = 8
  masks = model.get('mask_autoencoder', model)
  masks.network.update(
    {'widths': (8, 8, 16), 'hidden': 16, 'upscale_channels': 16, 'groups': 4}
  )
  if 'points' in model:
    model.points.num_points = 64
  if 'image_autoencoder' in model:
    model.image_autoencoder.update(image_autoencoder_common.tiny())
  if 'head' in model:
    model.head.update(TINY_HEAD)
  if 'classifier' in model:
    model.classifier.head.update(TINY_HEAD)
  if 'unet' in model:
    model.unet.update(
      {'channels': (16, 16), 'has_attention': (False, True), 'groups': 8}
    )
    config.sample.steps = 4
  common.shorten(config)
  config.init_from = ()
  return config
