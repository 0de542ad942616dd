"""Blocks that configs of several models share: data sets, lengths, devices.

A block is a function that returns a section with its values; a config gives
what is its own as keyword arguments. tests/configs/dumps/ shows what comes of
it, config by config.
"""

from ml_collections import ConfigDict

# All devices as plain data parallelism, unless the sizes are changed.
MESH = (('data', -1), ('fsdp', 1), ('tensor', 1))
CITYSCAPES_TRAIN_EXAMPLES = 2975
# Weight decay as in LDMSeg's release: norms have none, biases have.
NO_NORMS = (r'^(?!.*norm)',)


def variants(arg: str | None, known: tuple[str, ...]) -> tuple[str, ...]:
  """'lowres,smoke' -> ('lowres', 'smoke'); unknown ones are refused."""
  found = tuple(v for v in (arg or '').split(',') if v)
  for variant in found:
    if variant not in known:
      raise ValueError(
        f'config argument {variant!r} is unknown; known: {", ".join(known)}.'
      )
  return found


# config.data.


def shapes(**changes) -> ConfigDict:
  """Generated scenes: 4 kinds of things and 3 of stuff on 64 x 64 pixels."""
  return ConfigDict(
    {
      'name': 'shapes',
      'root': '',
      'source': {
        'size': (64, 64),
        'things': ('circle', 'square', 'triangle', 'star'),
        'num_things': (1, 4),
        'thing_size': (0.3, 0.55),
        'hue': 0.8,
        'occlusion': 0.4,
      },
      'train': {'split': 'train', 'num_examples': 100_000},
      'eval': {'split': 'eval', 'num_examples': 256},
      'num_classes': 7,
      'num_ids': 16,
      'image_size': (64, 64),
      'mask_size': (64, 64),
      'id_order': 'area',
      'name_stuff': True,
      'encode': 'device',
      'train_transforms': (('random_flip', {}), ('pad', {})),
      'eval_transforms': (('resize_to_fit', {}), ('pad', {})),
      'batch_size': 16,
      'num_threads': 2,
      **changes,
    }
  )


def nuclei(gpu: bool = False, **changes) -> ConfigDict:
  """Microscopy: up to 255 cells, on 128 x 128 pixels or 256 x 256 (`gpu`)."""
  return ConfigDict(
    {
      'name': 'coco_panoptic',
      'root': '../shared/data/nuclei',
      'source': {},
      'train': {
        'images': 'train',
        'panoptic': 'panoptic_train',
        'annotations': 'annotations/panoptic_train.json',
      },
      'eval': {
        'images': 'val',
        'panoptic': 'panoptic_val',
        'annotations': 'annotations/panoptic_val.json',
      },
      'num_classes': 2,
      'num_ids': 256,
      'image_size': (256, 256) if gpu else (128, 128),
      'mask_size': (128, 128) if gpu else (64, 64),
      'id_order': 'grid',  # a hundred cells cannot be counted in passing
      'name_stuff': True,
      'encode': 'device',
      'train_transforms': (
        ('scale_jitter', {'scale': (0.8, 1.6)}),
        ('fixed_size_crop', {'independent': True}),
        ('random_flip', {}),
        ('color_jitter', {'strength': 0.5}),
        ('pad', {}),
      ),
      'eval_transforms': (('resize_to_fit', {}), ('pad', {})),
      'batch_size': 32 if gpu else 8,
      'num_threads': 16 if gpu else 2,
      **changes,
    }
  )


def camvid(**changes) -> ConfigDict:
  """Street scenes: a folder of label maps, 11 classes, all stuff."""
  return ConfigDict(
    {
      'name': 'semantic_folder',
      'root': '../shared/data/camvid',
      'source': {'layout': 'camvid'},
      'train': {'images': 'images/train', 'labels': 'labels/train'},
      'eval': {'images': 'images/val', 'labels': 'labels/val'},
      'num_classes': 11,
      'num_ids': 12,
      'image_size': (96, 128),
      'mask_size': (96, 128),
      'id_order': 'area',
      'name_stuff': True,
      'encode': 'device',
      'train_transforms': (
        ('scale_jitter', {'scale': (1.0, 2.0)}),
        ('fixed_size_crop', {'independent': True}),
        ('random_flip', {}),
        ('pad', {}),
      ),
      'eval_transforms': (('resize_to_fit', {}), ('pad', {})),
      'batch_size': 8,
      'num_threads': 2,
      **changes,
    }
  )


def coco(**changes) -> ConfigDict:
  """COCO panoptic 2017; sizes, training transforms and batch are given."""
  return ConfigDict(
    {
      'name': 'coco_panoptic',
      'root': 'data/coco',
      'source': {},
      'train': {
        'images': 'train2017',
        'panoptic': 'annotations/panoptic_train2017',
        'annotations': 'annotations/panoptic_train2017.json',
      },
      'eval': {
        'images': 'val2017',
        'panoptic': 'annotations/panoptic_val2017',
        'annotations': 'annotations/panoptic_val2017.json',
      },
      'num_classes': 133,
      'num_ids': 101,
      'id_order': 'random',
      'name_stuff': False,
      'encode': 'device',
      'eval_transforms': (('resize_to_fit', {}), ('pad', {})),
      'num_threads': 16,
      **changes,
    }
  )


def cityscapes(**changes) -> ConfigDict:
  """Cityscapes panoptic; sizes, training transforms and batch are given."""
  return ConfigDict(
    {
      'name': 'cityscapes_panoptic',
      'root': 'data/cityscapes',
      'source': {'official': True},
      'train': {
        'images': 'leftImg8bit/train',
        'panoptic': 'gtFine/cityscapes_panoptic_train',
        'annotations': 'gtFine/cityscapes_panoptic_train.json',
      },
      'eval': {
        'images': 'leftImg8bit/val',
        'panoptic': 'gtFine/cityscapes_panoptic_val',
        'annotations': 'gtFine/cityscapes_panoptic_val.json',
      },
      'num_classes': 19,
      'num_ids': 101,
      'id_order': 'random',
      'name_stuff': False,
      'encode': 'device',
      'eval_transforms': (('resize_to_fit', {}), ('pad', {})),
      'num_threads': 16,
      **changes,
    }
  )


# config.task, config.sample.


def panoptic(min_pixels: int, **changes) -> ConfigDict:
  """PQ with classes; segments of fewer pixels become void."""
  return ConfigDict(
    {
      'name': 'panoptic',
      'min_pixels': min_pixels,
      'merge_stuff': True,
      'split_things': False,
      **changes,
    }
  )


def sample(steps: int, td: float = 0.0, **changes) -> ConfigDict:
  """DDIM."""
  return ConfigDict(
    {
      'steps': steps,
      'td': td,
      'sampler': 'ddim',
      'sampler_args': {},
      'seed': 0,
      **changes,
    }
  )


# config.optimizer, config.train, config.eval.


def adamw(learning_rate: float, warmup_steps: int = 0, **changes) -> ConfigDict:
  """The optimizer of Pix2Seq-D's release (methods sheet, section 5)."""
  return ConfigDict(
    {
      'name': 'adamw',
      'learning_rate': learning_rate,
      'schedule': 'linear',
      'warmup_steps': warmup_steps,
      'end_factor': 0.1,
      'b1': 0.9,
      'b2': 0.999,
      'eps': 1e-8,
      'weight_decay': 0.05,
      'decay_mask': 'all',
      'clip_norm': 1.0,
      'groups': (),
      'freeze': (),
      'accumulate': 1,
      'ema_decay': 0.999,
      'ema_warmup': True,
      **changes,
    }
  )


def train(
  steps: int,
  *,
  save_every: int,
  eval_every: int,
  best_metric: str,
  log_every: int = 50,
  keep: int = 2,
) -> ConfigDict:
  """Lengths and intervals in steps; 8 images of each evaluation are shown."""
  return ConfigDict(
    {
      'steps': steps,
      'log_every': log_every,
      'save_every': save_every,
      'eval_every': eval_every,
      'keep': keep,
      'best_metric': best_metric,
      'num_panels': 8,
    }
  )


def evaluation(batch_size: int, use_ema: bool = True) -> ConfigDict:
  """All examples of the split."""
  return ConfigDict(
    {'batch_size': batch_size, 'num_examples': 0, 'use_ema': use_ema}
  )


# config.shard_rules: () keeps every parameter whole on every device.


def fsdp_rules():
  """Kernels over 'fsdp'; heads and hidden features also over 'tensor'.

  An exact spec is an error where an axis does not divide its dimension; the
  last rule splits the largest dimension that 'fsdp' divides. Optimizer state
  and EMA follow their parameter: their paths end alike.
  """
  return (
    ('attention/(query|key|value)/kernel$', ('fsdp', 'tensor', None)),
    ('attention/(query|key|value)/bias$', ('tensor', None)),
    ('attention/out/kernel$', ('tensor', None, 'fsdp')),
    ('mlp_in/kernel$', ('fsdp', 'tensor')),
    ('mlp_out/kernel$', ('tensor', 'fsdp')),
    ('kernel$', 'fsdp'),
  )


def shorten(config: ConfigDict) -> None:
  """Six steps and twelve images, in place: for tests."""
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
