"""Blocks that SemFlow's recipes share: the method, its baseline, its reflow."""

from ml_collections import ConfigDict

from configs import ldmseg_common

VARIANTS = ('dsm', 'reflow', 'one_step', 'smoke')


def anchors(levels: int = 6, spacing: int = 50) -> dict:
  """k and s of the paper; k^3 colours must be enough for the classes."""
  return {'levels': levels, 'spacing': spacing}


def model(unet: dict, image_autoencoder: dict, **changes) -> ConfigDict:
  """SemFlow as the release trains it."""
  config = ConfigDict(
    {
      'name': 'semflow',
      'unet': unet,
      'image_autoencoder': image_autoencoder,
      'anchors': anchors(),
      'perturbation': 6.375,
      'posterior': 'sample',
      'latent_scale': 0.18215,
      'prompt_tokens': 77,
      'resize': 'labels',
      'dtype': 'float32',
      'remat': False,
    }
  )
  config.update(changes)
  return config


def sample(steps: int = 25) -> ConfigDict:
  """Euler with even steps; both directions."""
  return ConfigDict(
    {
      'steps': steps,
      'td': 0.0,
      'stepper': 'euler',
      'stepper_args': {},
      'seed': 0,
    }
  )


def train(steps: int, every: int, save_every: int) -> ConfigDict:
  """Evaluated after `every` steps."""
  return ConfigDict(
    {
      'steps': steps,
      'log_every': 50,
      'save_every': save_every,
      'eval_every': every,
      'keep': 2,
      'best_metric': 'miou',
      'num_panels': 8,
    }
  )


def choose(config: ConfigDict, chosen: tuple[str, ...], flow: str) -> None:
  """Makes of a SemFlow what its variants say, in place.

  Args:
    config: the recipe, with all but init_from.
    chosen: out of VARIANTS.
    flow: the work directory of the SemFlow that :reflow goes on from.
  """
  reflowed = {'reflow', 'one_step'} & set(chosen)
  if len(reflowed) + ('dsm' in chosen) > 1:
    raise ValueError('config argument: choose one of dsm, reflow, one_step.')
  if 'dsm' in chosen:
    dsm(config)
  if reflowed:
    reflow(config, flow, one_step='one_step' in chosen)


def dsm(config: ConfigDict) -> None:
  """The paper's baseline: noise -> mask, beside the picture's latent.

  Its grid begins at the last step, where there is noise alone.
  """
  config.model.name = 'semantic_dsm'
  config.sample.update({'stepper': 'ddim', 'grid': 'trailing'})


def reflow(config: ConfigDict, flow: str, one_step: bool = False) -> None:
  """Straightens a flow on its own pairs; or keeps one step of it alone."""
  config.model.update(
    {
      'name': 'semflow_reflow',
      'direction': 'both',
      'teacher_steps': 25,
      'one_step': one_step,
    }
  )
  config.optimizer.learning_rate /= 2
  parts = ['image'] + (['prompt'] if config.model.prompt_tokens else [])
  config.init_from = (
    (flow, 'net/unet', 'net/unet', 'exact'),
    (flow, 'net/unet', 'frozen/teacher', 'exact'),
    *((flow, f'frozen/{part}', f'frozen/{part}', 'exact') for part in parts),
  )


def trained_vae(folder: str) -> tuple:
  """init_from: both halves of an autoencoder that was trained here."""
  return ((folder, 'net/autoencoder', 'frozen/image', 'exact'),)


def devices(config: ConfigDict, rules: tuple = ()) -> None:
  """Data parallelism, and `rules` where 'fsdp' or 'tensor' are set."""
  ldmseg_common.devices(config, rules)


def smoke(config: ConfigDict, image_size: tuple[int, int] = (32, 32)) -> None:
  """Any of these recipes in seconds, from no one's weights; in place."""
  model = config.model
  model.update(
    {
      'unet': {
        'channels': (16, 16),
        'has_attention': (False, True),
        'num_layers': 1,
        'num_heads': 4,
        'groups': 8,
      },
      'image_autoencoder': ldmseg_common.small_sd_vae(),
      'prompt_tokens': 0,
      'dtype': 'float32',
      'remat': False,
    }
  )
  if 'teacher_steps' in model:
    model.teacher_steps = 2
  config.data.update(
    {
      'image_size': image_size,
      'mask_size': image_size,
      'batch_size': 8,
      'num_threads': 2,
    }
  )
  config.sample.steps = 3
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
