"""Blocks that SemFlow's configs share: the method, its baseline, its reflow."""

from ml_collections import ConfigDict

from configs import common

VARIANTS = ('dsm', 'reflow', 'one_step', 'smoke')
# Of the configs that start from Stable Diffusion.
RELEASE_VARIANTS = ('colors', *VARIANTS)
# A resize that fills the size, whatever the aspect of the image.
STRETCH = ('resize_to_fit', {'stretch': True, 'method': 'bicubic'})
# The image's shorter side, whole, at a random place along the longer.
SQUARE_CROPS = (
  ('random_flip', {}),
  ('square_crop', {}),
  STRETCH,
  ('pad', {}),
)
STABLE_DIFFUSION = 'runs/sd15'
PROMPT = 'runs/null_prompt'


def model(unet: dict, image_autoencoder: dict, **changes) -> ConfigDict:
  """SemFlow with the release's numbers."""
  return ConfigDict(
    {
      'name': 'semflow',
      'unet': unet,
      'image_autoencoder': image_autoencoder,
      'anchors': {'levels': 6, 'spacing': 50},
      'perturbation': 6.375,
      'posterior': 'sample',
      'latent_scale': 0.18215,
      'prompt_tokens': 77,
      'train_times': ('uniform', {}),
      'resize': 'labels',
      'dtype': 'float32',
      'remat': False,
      **changes,
    }
  )


def classes(count: int) -> dict:
  """What config.data says of so many classes, which are all that counts."""
  return {
    'num_classes': count,
    'num_ids': count + 1,
    'id_order': 'area',
    'name_stuff': True,
    'encode': 'device',
  }


def small_unet(width: int = 48) -> dict:
  """Three levels; 8.7 M parameters with 48."""
  return {
    'channels': (width, 2 * width, 4 * width),
    'has_attention': (False, True, True),
    'num_layers': 1,
    'num_heads': 4,
    'groups': 16,
  }


def sd_unet() -> dict:
  """Stable Diffusion's, 859,520,964 parameters: it attends to a prompt."""
  return {
    'channels': (320, 640, 1280, 1280),
    'has_attention': (True, True, True, False),
    'num_layers': 2,
    'num_heads': 8,
    'groups': 32,
    'context_dim': 768,
  }


def sd_vae() -> dict:
  """Stable Diffusion's autoencoder."""
  return {
    'latent_channels': 4,
    'block_out_channels': (128, 256, 512, 512),
    'layers_per_block': 2,
    'groups': 32,
  }


def sample(steps: int = 25) -> ConfigDict:
  """Euler with even steps; both directions."""
  return common.sample(steps, sampler='euler', timestep_spacing='uniform')


def adamw(learning_rate: float, **changes) -> ConfigDict:
  """The release's optimizer: all decays, no average is kept."""
  found = {
    'name': 'torch_adamw',
    'schedule': 'linear',
    'end_factor': 0.0,
    'warmup_steps': 500,
    'weight_decay': 0.01,
    'clip_norm': 1.0,
    'ema_decay': 0.0,
  }
  return common.adamw(learning_rate, **found | changes)


def choose(
  config: ConfigDict,
  chosen: tuple[str, ...],
  flow: str,
  teacher_steps: int = 25,
) -> None:
  """Makes of a SemFlow what its variants say, in place.

  Args:
    config: the config of a SemFlow, init_from included.
    chosen: its variants; those out of VARIANTS count.
    flow: the work directory of the SemFlow that is reflowed.
    teacher_steps: of which its pairs are.

  Raises:
    ValueError: two methods at once.
  """
  methods = [name for name in VARIANTS[:3] if name in chosen]
  if len(methods) > 1:
    raise ValueError(
      f'config argument: {" and ".join(methods)} do not go together; choose '
      'one.'
    )
  if 'colors' in chosen:
    _paint_first(config)
  if 'dsm' in methods:
    _dsm(config)
  if {'reflow', 'one_step'} & set(methods):
    _reflow(config, flow, teacher_steps, one_step='one_step' in methods)
  if 'smoke' in chosen:
    _smoke(config)


def _paint_first(config):
  """The release's colours between anchors at borders: see data.painting."""
  pairs = config.data.train_transforms
  config.data.train_transforms = (pairs[0], ('paint', {}), *pairs[1:])
  config.data.eval_transforms = (('paint', {}), *config.data.eval_transforms)


def _dsm(config):
  """The paper's baseline: noise -> mask, beside the image's latent.

  Its grid begins at the last step, where there is noise alone. The UNet's
  first layer gets zeros for the inputs that it had not.
  """
  config.model.update({'name': 'semantic_dsm', 'train_times': ('discrete', {})})
  config.sample.update({'sampler': 'ddim', 'timestep_spacing': 'trailing'})
  config.init_from = tuple(
    (*entry[:3], 'grow') if entry[2] == 'net/unet' else entry
    for entry in config.init_from
  )


def _reflow(config, flow, teacher_steps, one_step):
  """Straightens a flow on its own pairs; or learns one step of it alone.

  A quarter of the flow's steps, at half of its rate: neither the paper nor the
  release has it. What it gives on shapes is in docs/results.md.
  """
  config.model.update(
    {
      'name': 'semflow_reflow',
      'direction': 'both',
      'teacher_steps': teacher_steps,
      'one_step': one_step,
    }
  )
  if one_step:
    config.sample.steps = 1
  config.optimizer.learning_rate /= 2
  config.optimizer.warmup_steps //= 4
  config.train.steps //= 4
  config.train.eval_every = min(config.train.eval_every, config.train.steps)
  parts = ['image'] + (['prompt'] if config.model.prompt_tokens else [])
  config.init_from = (
    (flow, 'net/unet', 'net/unet', 'exact'),
    (flow, 'net/unet', 'frozen/teacher', 'exact'),
    *((flow, f'frozen/{part}', f'frozen/{part}', 'exact') for part in parts),
  )


def start_from_trained(images: str) -> tuple:
  """init_from: an autoencoder that was trained here."""
  return ((images, 'net/autoencoder', 'frozen/image', 'exact'),)


def start() -> tuple:
  """init_from: Stable Diffusion 1.5, and the embedding of the empty prompt."""
  return (
    (STABLE_DIFFUSION, 'net/unet', 'net/unet', 'exact'),
    (STABLE_DIFFUSION, 'net/vae', 'frozen/image', 'exact'),
    (PROMPT, 'frozen/prompt', 'frozen/prompt', 'exact'),
  )


def _smoke(config):
  """Any of these configs in seconds, from no one's weights."""
  model = config.model
  model.unet = {
    'channels': (16, 16),
    'has_attention': (False, True),
    'num_layers': 1,
    'num_heads': 4,
    'groups': 8,
  }
  model.image_autoencoder = {
    'latent_channels': 4,
    'block_out_channels': (8, 8, 8),
    'layers_per_block': 1,
    'groups': 4,
  }
  model.update({'prompt_tokens': 0, 'dtype': 'float32', 'remat': False})
  if 'teacher_steps' in model:
    model.teacher_steps = 2
  config.data.update(
    {
      'image_size': (64, 64),
      'mask_size': (64, 64),
      'batch_size': 8,
      'num_threads': 2,
    }
  )
  config.sample.steps = min(3, config.sample.steps)
  common.shorten(config)
  config.init_from = ()
